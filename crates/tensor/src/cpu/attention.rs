//! Blocked attention, forward and backward.
use super::Cpu;
use crate::{AttentionShape, View};

pub(super) fn scratch_bytes(_cpu: &Cpu, _shape: &AttentionShape) -> usize {
    0
}

pub(super) fn forward(_cpu: &mut Cpu, shape: &AttentionShape, _qkv: View, _out: View, _lse: View) {
    panic!("attention of {shape:?}");
}

pub(super) fn backward(
    _cpu: &mut Cpu,
    shape: &AttentionShape,
    _d_out: View,
    _qkv: View,
    _out: View,
    _lse: View,
    _d_qkv: View,
) {
    panic!("attention of {shape:?}");
}
