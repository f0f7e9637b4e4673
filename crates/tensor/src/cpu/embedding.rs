//! Token and position embeddings.
use super::Cpu;
use crate::{Embed, EmbedBackward, View};

pub(super) fn forward(_cpu: &mut Cpu, embed: &Embed) {
    panic!("{embed:?}");
}
pub(super) fn backward(_cpu: &mut Cpu, embed: &EmbedBackward) {
    panic!("{embed:?}");
}
pub(super) fn flush(_cpu: &mut Cpu, slots: View, _sums: View, _grad: View) {
    panic!("{slots:?}");
}
