//! Rotary position embedding.
use super::Cpu;
use crate::Rotary;

pub(super) fn run(_cpu: &mut Cpu, rotary: &Rotary) {
    panic!("{rotary:?}");
}
