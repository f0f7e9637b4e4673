//! Memory is a table: every buffer has a name, a class and a size before anything is allocated, and the
//! arena is exactly the table's sum.

use crate::{DType, Packed, Quantised, View};

/// What a buffer is for; the memory report adds up by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    Weights,
    PackedWeights,
    Gradients,
    Optimizer,
    Activations,
    Workspace,
}

impl Class {
    pub const ALL: [Self; 6] = [
        Self::Weights,
        Self::PackedWeights,
        Self::Gradients,
        Self::Optimizer,
        Self::Activations,
        Self::Workspace,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::PackedWeights => "packed weights",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Workspace => "workspace",
        }
    }
}

/// One named buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub class: Class,
    /// Bytes from the start of the arena.
    pub offset: usize,
    pub bytes: usize,
}

/// The buffers of one rank, in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    end: usize,
}

impl Table {
    /// Every buffer starts on a boundary of this many bytes.
    pub const ALIGNMENT: usize = 64;

    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a buffer of `[rows, cols]` elements.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        class: Class,
        dtype: DType,
        rows: usize,
        cols: usize,
    ) -> View {
        let offset = self.reserve(name.into(), class, rows * cols * dtype.bytes());
        View { offset, rows, cols, dtype }
    }

    /// Adds a buffer for a packed operand; its offset is set here, its bytes are the device's
    /// ([`crate::Device::packed_bytes`]).
    pub fn add_packed(&mut self, name: impl Into<String>, packed: Packed) -> Packed {
        let offset = self.reserve(name.into(), Class::PackedWeights, packed.bytes);
        Packed { offset, ..packed }
    }

    /// Adds a buffer for a quantised matrix; its offset is set here, its bytes are the device's
    /// ([`crate::Device::quantised_bytes`]).
    pub fn add_quantised(&mut self, name: impl Into<String>, matrix: Quantised) -> Quantised {
        let offset = self.reserve(name.into(), Class::PackedWeights, matrix.bytes);
        Quantised { offset, ..matrix }
    }

    fn reserve(&mut self, name: String, class: Class, bytes: usize) -> usize {
        let offset = self.end;
        self.end = (offset + bytes).next_multiple_of(Self::ALIGNMENT);
        self.entries.push(Entry { name, class, offset, bytes });
        offset
    }

    /// Size of the arena that holds the whole table.
    pub fn bytes(&self) -> usize {
        self.end
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of one class, without alignment gaps.
    pub fn class_bytes(&self, class: Class) -> usize {
        self.entries.iter().filter(|e| e.class == class).map(|e| e.bytes).sum()
    }
}
