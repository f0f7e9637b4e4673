//! The fused output layer and cross-entropy.
use super::Cpu;
use crate::{CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType};

pub(super) fn scratch_bytes(
    _cpu: &Cpu,
    _tokens: usize,
    _vocab: usize,
    _hidden: usize,
    _dtype: DType,
) -> usize {
    0
}
pub(super) fn logits(_cpu: &mut Cpu, op: &CrossEntropy) {
    panic!("{op:?}");
}
pub(super) fn join(_cpu: &mut Cpu, op: &CrossEntropyJoin) {
    panic!("{op:?}");
}
pub(super) fn gradient(_cpu: &mut Cpu, op: &CrossEntropyGradient) {
    panic!("{op:?}");
}
