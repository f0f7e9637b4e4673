//! A device that watches what goes to it, and can be made to err: another one's operations, seen on their way.

use std::sync::{Arc, Mutex};
use triax_tensor::philox::Stream;
use triax_tensor::*;

/// What the devices of a run have seen and are told to do.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    /// Everything uploaded as token ids, of this many at once.
    pub ids: usize,
    pub seen: Arc<Mutex<Vec<Vec<u32>>>>,
    /// Arena and scratch memory that devices were told to allocate.
    pub allocated: Arc<Mutex<Vec<(usize, usize)>>>,
    /// Weight gradients computed before the one that comes out as no number, once.
    pub poison_after: Option<usize>,
}

pub(crate) struct Spy {
    inner: Box<dyn Device>,
    orders: Orders,
    weight_gradients: usize,
}

impl Spy {
    pub(crate) fn new(inner: Box<dyn Device>, orders: &Orders) -> Self {
        Self { inner, orders: orders.clone(), weight_gradients: 0 }
    }
}

impl Device for Spy {
    fn upload(&mut self, to: View, bytes: &[u8]) {
        if to.dtype == DType::U32 && to.len() == self.orders.ids {
            let ids = bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
            self.orders.seen.lock().unwrap().push(ids);
        }
        self.inner.upload(to, bytes);
    }
    fn gemm(&mut self, gemm: &Gemm) {
        self.inner.gemm(gemm);
        if matches!((gemm.left, gemm.right), (Operand::InnerRows(_), Operand::InnerRows(_))) {
            if self.orders.poison_after == Some(self.weight_gradients) {
                self.inner.fill(gemm.out.flat_range(3, 1), f32::NAN);
            }
            self.weight_gradients += 1;
        }
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn allocate(&mut self, bytes: usize, scratch_bytes: usize) -> Result<(), OutOfMemory> {
        self.orders.allocated.lock().unwrap().push((bytes, scratch_bytes));
        self.inner.allocate(bytes, scratch_bytes)
    }
    fn scratch_bytes(&self, need: Need) -> usize {
        self.inner.scratch_bytes(need)
    }
    fn packed_bytes(&self, inner: usize, outer: usize, outer_shards: usize, dtype: DType) -> usize {
        self.inner.packed_bytes(inner, outer, outer_shards, dtype)
    }
    fn quantised_bytes(&self, inner: usize, outer: usize, coding: Coding) -> usize {
        self.inner.quantised_bytes(inner, outer, coding)
    }
    fn download(&self, from: View, bytes: &mut [u8]) {
        self.inner.download(from, bytes)
    }
    fn host(&mut self, view: View) -> Option<HostMemory> {
        self.inner.host(view)
    }
    fn upload_quantised(&mut self, to: Quantised, blocks: &[u8]) {
        self.inner.upload_quantised(to, blocks)
    }
    fn clear(&mut self, view: View) {
        self.inner.clear(view)
    }
    fn cast(&mut self, from: View, to: View) {
        self.inner.cast(from, to)
    }
    fn add(&mut self, to: View, from: View) {
        self.inner.add(to, from)
    }
    fn scale(&mut self, view: View, factor: f32) {
        self.inner.scale(view, factor)
    }
    fn fill_normal(&mut self, view: View, stream: Stream, first_index: u64, mean: f32, std: f32) {
        self.inner.fill_normal(view, stream, first_index, mean, std)
    }
    fn fill(&mut self, view: View, value: f32) {
        self.inner.fill(view, value)
    }
    fn pack(&mut self, from: Operand, to: Packed) {
        self.inner.pack(from, to)
    }
    fn column_sums(&mut self, x: View, sums: View) {
        self.inner.column_sums(x, sums)
    }
    fn join_rows(&mut self, from: View, to: View) {
        self.inner.join_rows(from, to)
    }
    fn attention(&mut self, shape: &AttentionShape, qkv: View, out: View, lse: View) {
        self.inner.attention(shape, qkv, out, lse)
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
        self.inner.attention_backward(shape, d_out, qkv, out, lse, d_qkv)
    }
    fn paged_attention(&mut self, attention: &PagedAttention, qkv: View, out: View) {
        self.inner.paged_attention(attention, qkv, out)
    }
    fn rotary(&mut self, rotary: &Rotary) {
        self.inner.rotary(rotary)
    }
    fn rotary_rows(&mut self, rotary: &RotaryRows) {
        self.inner.rotary_rows(rotary)
    }
    fn add_residual(&mut self, add: &ResidualAdd) {
        self.inner.add_residual(add)
    }
    fn norm(&mut self, norm: &Norm) {
        self.inner.norm(norm)
    }
    fn norm_backward(&mut self, norm: &NormBackward) {
        self.inner.norm_backward(norm)
    }
    fn gelu(&mut self, pre: View, out: View) {
        self.inner.gelu(pre, out)
    }
    fn silu_mul(&mut self, gate_up: View, out: View) {
        self.inner.silu_mul(gate_up, out)
    }
    fn silu_mul_backward(&mut self, d_out: View, gate_up: View, d_gate_up: View) {
        self.inner.silu_mul_backward(d_out, gate_up, d_gate_up)
    }
    fn dropout(&mut self, x: View, dropout: &Dropout, out: View) {
        self.inner.dropout(x, dropout, out)
    }
    fn embed(&mut self, embed: &Embed) {
        self.inner.embed(embed)
    }
    fn embed_backward(&mut self, embed: &EmbedBackward) {
        self.inner.embed_backward(embed)
    }
    fn embed_flush(&mut self, slots: View, sums: View, grad: View) {
        self.inner.embed_flush(slots, sums, grad)
    }
    fn cross_entropy(&mut self, op: &CrossEntropy) {
        self.inner.cross_entropy(op)
    }
    fn cross_entropy_join(&mut self, op: &CrossEntropyJoin) {
        self.inner.cross_entropy_join(op)
    }
    fn cross_entropy_gradient(&mut self, op: &CrossEntropyGradient) {
        self.inner.cross_entropy_gradient(op)
    }
    fn sum(&mut self, from: View, to: View) {
        self.inner.sum(from, to)
    }
    fn row_squares(&mut self, from: View, to: View) {
        self.inner.row_squares(from, to)
    }
    fn adamw(&mut self, step: &AdamW) {
        self.inner.adamw(step)
    }
}
