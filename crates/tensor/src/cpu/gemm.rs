//! Matrix products.
use super::{Cpu, isa::Isa};
use crate::{DType, Gemm, Operand, Packed};

pub(super) fn scratch_bytes(_cpu: &Cpu, _m: usize, _n: usize, _k: usize, _dtype: DType) -> usize {
    0
}
pub(super) fn packed_bytes(_isa: Isa, inner: usize, outer: usize, _dtype: DType) -> usize {
    inner * outer * 4
}
pub(super) fn pack(_cpu: &mut Cpu, from: Operand, _to: Packed) {
    panic!("{from:?}");
}
pub(super) fn run(_cpu: &mut Cpu, gemm: &Gemm) {
    panic!("{gemm:?}");
}
