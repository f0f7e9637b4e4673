//! The element types a buffer can hold.

use std::fmt;

/// Element type of a [`crate::View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: master weights, gradients, optimizer moments, statistics.
    F32,
    /// bfloat16: activations and working weights.
    Bf16,
    /// IEEE half precision: activations and working weights under a loss scale.
    F16,
    /// IEEE double precision: sums that decide (loss, gradient norm).
    F64,
    /// Token ids, lengths, slots.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::F64 => 8,
        }
    }

    /// Whether a network's activations may have this type.
    pub const fn is_activation(self) -> bool {
        matches!(self, Self::F32 | Self::Bf16 | Self::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::U32 => "u32",
        })
    }
}
