//! How each choice is written in a run file, for reading and writing alike.

use crate::model::{Activation, Mask, NormKind};
use crate::run::{
    DeviceKind, Kernel, NumericsMode, OptimizerKind, Precision, Recompute, ScheduleKind, SpikeAction,
};

/// What was written is none of the names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{written}` is not one of {}", names.join(", "))]
pub struct UnknownName {
    pub written: String,
    pub names: &'static [&'static str],
}

macro_rules! names {
    ($($kind:ident { $($name:literal => $value:ident),+ $(,)? })+) => {$(
        impl $kind {
            /// Every name, as run files and command lines write it.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.name())
            }
        }

        impl std::str::FromStr for $kind {
            type Err = UnknownName;

            fn from_str(written: &str) -> Result<Self, UnknownName> {
                match written {
                    $($name => Ok(Self::$value),)+
                    _ => Err(UnknownName { written: written.to_owned(), names: Self::NAMES }),
                }
            }
        }
    )+};
}

names! {
    NormKind { "layer" => Layer, "rms" => Rms }
    Activation { "gelu" => Gelu, "swiglu" => Swiglu }
    Mask { "causal" => Causal, "prefix" => Prefix }
    ScheduleKind {
        "gpipe" => GPipe,
        "1f1b" => OneForwardOneBackward,
        "interleaved" => Interleaved,
        "zb-h1" => ZeroBubbleH1,
    }
    NumericsMode { "exact" => Exact, "fast" => Fast }
    Precision { "bf16" => Bf16, "f16" => F16, "f32" => F32 }
    OptimizerKind { "adamw" => Adamw }
    SpikeAction { "log" => Log, "skip" => Skip, "rollback" => Rollback, "stop" => Stop }
    Recompute { "none" => None, "selective" => Selective, "full" => Full }
    DeviceKind { "cpu" => Cpu, "reference" => Reference }
    Kernel {
        "auto" => Auto,
        "amx" => Amx,
        "avx512-bf16" => Avx512Bf16,
        "avx512" => Avx512,
        "avx2" => Avx2,
        "portable" => Portable,
    }
}
