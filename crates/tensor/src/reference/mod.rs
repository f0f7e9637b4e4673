//! The slow device that is obviously right: every other device is measured against it.
//!
//! Operands are the values as stored; all arithmetic is f64; a result is rounded once, when it is stored
//! (to nearest, ties to even). Sums are plain loops: in f64 the virtual shards make no visible difference,
//! only where an operation *stores* one value a shard are they cut. A packed operand is the row-major
//! `[outer, inner]` matrix. Everything a caller can get wrong (shapes, dtypes, ranges, overlaps) is checked
//! and panics with the operands.

mod attention;
mod check;
mod elementwise;
mod embedding;
mod gemm;
mod loss;
mod memory;
mod norm;
mod optimizer;
mod paged_attention;
mod rounding;

use crate::philox::Stream;
use crate::{
    AdamW, AttentionShape, Coding, CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, Device,
    Dropout, Embed, EmbedBackward, Gemm, HostMemory, Need, Norm, NormBackward, Operand, OutOfMemory, Packed,
    PagedAttention, Quantised, ResidualAdd, Rotary, RotaryRows, View,
};
use memory::Memory;
use rounding::Rounding;

/// The reference device; see the module's text.
#[derive(Debug, Default)]
pub struct Reference {
    memory: Memory,
    rounding: Option<Rounding>,
}

impl Reference {
    /// A device with an empty arena.
    pub fn new() -> Self {
        Self::default()
    }

    /// A device whose products with quantised weights round each row to int8, as fast kernels do, but at random
    /// (`rounding.rs`): its results lie from the exact ones as far as a fast kernel's may, and √2 times as far as
    /// they should.
    pub fn rounding_at_random(seed: u64) -> Self {
        Self { memory: Memory::default(), rounding: Some(Rounding::new(seed)) }
    }
}

impl Device for Reference {
    fn describe(&self) -> String {
        "reference (f64, one thread)".to_owned()
    }

    fn allocate(&mut self, bytes: usize, _scratch_bytes: usize) -> Result<(), OutOfMemory> {
        self.memory = Memory::zeroed(bytes)?;
        Ok(())
    }

    fn scratch_bytes(&self, _need: Need) -> usize {
        0
    }

    fn packed_bytes(&self, inner: usize, outer: usize, _outer_shards: usize, dtype: DType) -> usize {
        inner * outer * dtype.bytes()
    }

    fn quantised_bytes(&self, inner: usize, outer: usize, coding: Coding) -> usize {
        (outer * coding.row_bytes(inner)).next_multiple_of(4)
    }

    fn upload(&mut self, to: View, bytes: &[u8]) {
        self.memory.upload(to, bytes);
    }

    fn download(&self, from: View, bytes: &mut [u8]) {
        self.memory.download(from, bytes);
    }

    fn host(&mut self, view: View) -> Option<HostMemory> {
        Some(self.memory.host(view))
    }

    fn upload_quantised(&mut self, to: Quantised, blocks: &[u8]) {
        assert_eq!(blocks.len(), to.outer * to.coding.row_bytes(to.inner), "blocks of {to:?}");
        self.memory.bytes_mut(to.offset, blocks.len()).copy_from_slice(blocks);
    }

    fn clear(&mut self, view: View) {
        self.memory.clear(view);
    }

    fn cast(&mut self, from: View, to: View) {
        elementwise::cast(&mut self.memory, from, to);
    }

    fn add(&mut self, to: View, from: View) {
        elementwise::add(&mut self.memory, to, from);
    }

    fn scale(&mut self, view: View, factor: f32) {
        elementwise::scale(&mut self.memory, view, factor);
    }

    fn fill_normal(&mut self, view: View, stream: Stream, first_index: u64, mean: f32, std: f32) {
        elementwise::fill_normal(&mut self.memory, view, stream, first_index, mean, std);
    }

    fn fill(&mut self, view: View, value: f32) {
        elementwise::fill(&mut self.memory, view, value);
    }

    fn pack(&mut self, from: Operand, to: Packed) {
        gemm::pack(&mut self.memory, from, to);
    }

    fn gemm(&mut self, gemm: &Gemm) {
        gemm::gemm(&mut self.memory, gemm, self.rounding.as_mut());
    }

    fn column_sums(&mut self, x: View, sums: View) {
        elementwise::column_sums(&mut self.memory, x, sums);
    }

    fn join_rows(&mut self, from: View, to: View) {
        elementwise::join_rows(&mut self.memory, from, to);
    }

    fn attention(&mut self, shape: &AttentionShape, qkv: View, out: View, lse: View) {
        attention::attention(&mut self.memory, shape, qkv, out, lse);
    }

    fn attention_backward(
        &mut self,
        shape: &AttentionShape,
        d_out: View,
        qkv: View,
        out: View,
        lse: View,
        d_qkv: View,
    ) {
        attention::attention_backward(&mut self.memory, shape, d_out, qkv, out, lse, d_qkv);
    }

    fn paged_attention(&mut self, attention: &PagedAttention, qkv: View, out: View) {
        paged_attention::run(&mut self.memory, attention, qkv, out);
    }

    fn rotary(&mut self, rotary: &Rotary) {
        attention::rotary(&mut self.memory, rotary);
    }

    fn rotary_rows(&mut self, rotary: &RotaryRows) {
        attention::rotary_rows(&mut self.memory, rotary);
    }

    fn add_residual(&mut self, add: &ResidualAdd) {
        norm::add_residual(&mut self.memory, add);
    }

    fn norm(&mut self, norm: &Norm) {
        norm::norm(&mut self.memory, norm);
    }

    fn norm_backward(&mut self, norm: &NormBackward) {
        norm::norm_backward(&mut self.memory, norm);
    }

    fn gelu(&mut self, pre: View, out: View) {
        elementwise::gelu(&mut self.memory, pre, out);
    }

    fn silu_mul(&mut self, gate_up: View, out: View) {
        elementwise::silu_mul(&mut self.memory, gate_up, out);
    }

    fn silu_mul_backward(&mut self, d_out: View, gate_up: View, d_gate_up: View) {
        elementwise::silu_mul_backward(&mut self.memory, d_out, gate_up, d_gate_up);
    }

    fn dropout(&mut self, x: View, dropout: &Dropout, out: View) {
        elementwise::dropout(&mut self.memory, x, dropout, out);
    }

    fn embed(&mut self, embed: &Embed) {
        embedding::embed(&mut self.memory, embed);
    }

    fn embed_backward(&mut self, embed: &EmbedBackward) {
        embedding::embed_backward(&mut self.memory, embed);
    }

    fn embed_flush(&mut self, slots: View, sums: View, grad: View) {
        embedding::embed_flush(&mut self.memory, slots, sums, grad);
    }

    fn cross_entropy(&mut self, op: &CrossEntropy) {
        loss::cross_entropy(&mut self.memory, op);
    }

    fn cross_entropy_join(&mut self, op: &CrossEntropyJoin) {
        loss::cross_entropy_join(&mut self.memory, op);
    }

    fn cross_entropy_gradient(&mut self, op: &CrossEntropyGradient) {
        loss::cross_entropy_gradient(&mut self.memory, op);
    }

    fn sum(&mut self, from: View, to: View) {
        elementwise::sum(&mut self.memory, from, to);
    }

    fn row_squares(&mut self, from: View, to: View) {
        elementwise::row_squares(&mut self.memory, from, to);
    }

    fn adamw(&mut self, step: &AdamW) {
        optimizer::adamw(&mut self.memory, step);
    }
}
