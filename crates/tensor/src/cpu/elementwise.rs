//! Element-wise loops.
use super::Cpu;
use crate::{Dropout, View, philox::Stream};

pub(super) fn clear(_cpu: &mut Cpu, view: View) {
    panic!("{view:?}");
}
pub(super) fn cast(_cpu: &mut Cpu, from: View, _to: View) {
    panic!("{from:?}");
}
pub(super) fn add(_cpu: &mut Cpu, to: View, _from: View) {
    panic!("{to:?}");
}
pub(super) fn scale(_cpu: &mut Cpu, view: View, _factor: f32) {
    panic!("{view:?}");
}
pub(super) fn fill_normal(_cpu: &mut Cpu, view: View, _stream: Stream, _first: u64, _mean: f32, _std: f32) {
    panic!("{view:?}");
}
pub(super) fn fill(_cpu: &mut Cpu, view: View, _value: f32) {
    panic!("{view:?}");
}
pub(super) fn gelu(_cpu: &mut Cpu, pre: View, _out: View) {
    panic!("{pre:?}");
}
pub(super) fn silu_mul(_cpu: &mut Cpu, gate_up: View, _out: View) {
    panic!("{gate_up:?}");
}
pub(super) fn silu_mul_backward(_cpu: &mut Cpu, d_out: View, _gate_up: View, _d_gate_up: View) {
    panic!("{d_out:?}");
}
pub(super) fn dropout(_cpu: &mut Cpu, x: View, _dropout: &Dropout, _out: View) {
    panic!("{x:?}");
}
