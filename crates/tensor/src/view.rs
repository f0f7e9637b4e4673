//! Handles of device memory: plain numbers, copied freely, resolved by the device that owns the arena.

use crate::{DType, Device};

/// A dense row-major matrix `[rows, cols]` in a device's arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Bytes from the start of the arena.
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub dtype: DType,
}

impl View {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub const fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// The rows `start..start + count`.
    ///
    /// # Panics
    /// When the range leaves the view.
    pub fn row_range(&self, start: usize, count: usize) -> Self {
        assert!(
            start + count <= self.rows,
            "rows {start}..{} of a view of {} rows",
            start + count,
            self.rows
        );
        Self { offset: self.offset + start * self.cols * self.dtype.bytes(), rows: count, ..*self }
    }

    /// The elements `start..start + count` of the flat view, as one row.
    ///
    /// # Panics
    /// When the range leaves the view.
    pub fn flat_range(&self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.len(), "elements {start}..{} of {}", start + count, self.len());
        Self { offset: self.offset + start * self.dtype.bytes(), rows: 1, cols: count, dtype: self.dtype }
    }

    /// The same memory seen as `[rows, cols]`.
    ///
    /// # Panics
    /// When the number of elements differs.
    pub fn reshape(&self, rows: usize, cols: usize) -> Self {
        assert_eq!(rows * cols, self.len(), "{}x{} seen as {rows}x{cols}", self.rows, self.cols);
        Self { rows, cols, ..*self }
    }
}

/// A matrix packed by the device as the right operand of products: `inner` is the dimension that is
/// summed over, `outer` the one that stays. The layout inside is the device's own, but a device may begin
/// anew at the border of each of `outer_shards` virtual shards of the outer dimension
/// ([`crate::even_shard_range`]); 1 where nothing is summed over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    pub offset: usize,
    pub bytes: usize,
    pub inner: usize,
    pub outer: usize,
    pub outer_shards: usize,
    pub dtype: DType,
}

impl Packed {
    /// An operand of the device's size for it, not yet placed in an arena.
    pub fn new(device: &dyn Device, inner: usize, outer: usize, outer_shards: usize, dtype: DType) -> Self {
        let bytes = device.packed_bytes(inner, outer, outer_shards, dtype);
        Self { offset: 0, bytes, inner, outer, outer_shards, dtype }
    }
}
