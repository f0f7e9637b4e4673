//! Sums in a fixed order.
use super::Cpu;
use crate::View;

pub(super) fn scratch_bytes(_cpu: &Cpu, _tokens: usize, _cols: usize) -> usize {
    0
}
pub(super) fn column_sums(_cpu: &mut Cpu, x: View, _sums: View) {
    panic!("{x:?}");
}
pub(super) fn join_rows(_cpu: &mut Cpu, from: View, _to: View) {
    panic!("{from:?}");
}
pub(super) fn sum(_cpu: &mut Cpu, from: View, _to: View) {
    panic!("{from:?}");
}
pub(super) fn sum_of_squares(_cpu: &mut Cpu, from: View, _to: View) {
    panic!("{from:?}");
}
