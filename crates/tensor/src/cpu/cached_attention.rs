//! Attention of new tokens against a key/value cache.
use super::Cpu;
use crate::{CachedAttention, View};

pub(super) fn scratch_bytes(_cpu: &Cpu, _capacity: usize, _heads: usize, _head_dim: usize) -> usize {
    0
}

pub(super) fn run(_cpu: &mut Cpu, attention: &CachedAttention, _qkv: View, _out: View) {
    panic!("{attention:?}");
}
