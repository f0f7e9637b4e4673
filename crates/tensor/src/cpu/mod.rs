//! The fast CPU device: bf16 products on AVX-512-BF16, f32 products elsewhere, fused loops, one worker team.
//!
//! Results are the same bits for any number of threads: work is cut into items whose results do not depend
//! on who computes them, and sums over items are made in a fixed order. One file per family of operations.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod dropout;
mod elementwise;
mod embedding;
mod gemm;
mod isa;
mod loss;
mod math;
mod memory;
mod norm;
mod optimizer;
mod paged_attention;
mod peak;
mod quantised;
mod residual;
mod rotary;
mod sums;
mod team;

pub use isa::Kernel;

use crate::{
    AdamW, AttentionShape, Coding, CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, Device,
    Dropout, Embed, EmbedBackward, Gemm, HostMemory, Need, Norm, NormBackward, Operand, OutOfMemory, Packed,
    PagedAttention, Quantised, ResidualAdd, Rotary, RotaryRows, View, philox::Stream,
};
use isa::Isa;
use memory::Block;
use std::sync::Arc;
use team::Team;

/// This machine cannot run the kernel that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedKernel {
    pub wanted: Kernel,
    pub available: Vec<Kernel>,
}

impl std::fmt::Display for UnsupportedKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this machine has no {:?} instructions; it can run {:?}", self.wanted, self.available)
    }
}

impl std::error::Error for UnsupportedKernel {}

/// See the module's documentation.
pub struct Cpu {
    team: Team,
    isa: Isa,
    arena: Arc<Block>,
    scratch: Block,
}

impl Cpu {
    /// A device of `threads` threads (0: one per core), without memory yet.
    pub fn new(threads: usize, kernel: Kernel) -> Result<Self, UnsupportedKernel> {
        let isa = Isa::choose(kernel)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let team = Team::new(if threads == 0 { cores } else { threads });
        Ok(Self { team, isa, arena: Arc::default(), scratch: Block::empty() })
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.isa.kernel()
    }

    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Arithmetic peak of all threads in GFLOP/s, measured now on registers alone, for products of `dtype`.
    pub fn peak_gflops(&mut self, dtype: DType) -> f64 {
        peak::measure(&mut self.team, self.isa, dtype)
    }
}

impl Device for Cpu {
    fn describe(&self) -> String {
        format!("cpu ({:?}, {} threads)", self.isa.kernel(), self.threads())
    }

    fn allocate(&mut self, bytes: usize, scratch_bytes: usize) -> Result<(), OutOfMemory> {
        (self.arena, self.scratch) = (Arc::default(), Block::empty());
        self.arena = Arc::new(Block::new(bytes)?);
        self.scratch = Block::new(scratch_bytes)?;
        Ok(())
    }

    fn scratch_bytes(&self, need: Need) -> usize {
        match need {
            Need::Gemm { n, k, dtype, .. } => gemm::scratch_bytes(self, n, 1, k, dtype),
            Need::Attention(shape) => attention::scratch_bytes(self, &shape),
            Need::Quantised { m, k, coding } => quantised::scratch_bytes(self, m, k, coding),
            Need::PagedAttention { capacity, head_dim } => {
                paged_attention::scratch_bytes(self, capacity, head_dim)
            }
            Need::CrossEntropy { tokens, vocab, shards, hidden, dtype } => {
                loss::scratch_bytes(self, tokens, (vocab, shards), hidden, dtype)
            }
            Need::Rows { tokens, cols } => sums::scratch_bytes(self, tokens, cols),
        }
    }

    fn packed_bytes(&self, inner: usize, outer: usize, outer_shards: usize, dtype: DType) -> usize {
        gemm::packed_bytes(self.isa, inner, outer, outer_shards, dtype)
    }

    fn quantised_bytes(&self, inner: usize, outer: usize, coding: Coding) -> usize {
        quantised::bytes(inner, outer, coding)
    }

    fn upload(&mut self, to: View, bytes: &[u8]) {
        assert_eq!(to.bytes(), bytes.len(), "upload of {} bytes into {to:?}", bytes.len());
        let pointer = self.arena.pointer(to.offset, to.bytes());
        // SAFETY: in range of the arena (`pointer`), which `&mut self` keeps others from; the host slice is
        // not part of the arena.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) }
    }

    fn download(&self, from: View, bytes: &mut [u8]) {
        assert_eq!(from.bytes(), bytes.len(), "download of {from:?} into {} bytes", bytes.len());
        let pointer = self.arena.pointer(from.offset, from.bytes());
        // SAFETY: in range of the arena; no operation runs while `&self` is held.
        unsafe { std::ptr::copy_nonoverlapping(pointer, bytes.as_mut_ptr(), bytes.len()) }
    }

    fn host(&mut self, view: View) -> Option<HostMemory> {
        Some(self.arena.host(view))
    }

    fn upload_quantised(&mut self, to: Quantised, blocks: &[u8]) {
        quantised::upload(self, to, blocks);
    }

    fn clear(&mut self, view: View) {
        elementwise::clear(self, view);
    }

    fn cast(&mut self, from: View, to: View) {
        elementwise::cast(self, from, to);
    }

    fn add(&mut self, to: View, from: View) {
        elementwise::add(self, to, from);
    }

    fn scale(&mut self, view: View, factor: f32) {
        elementwise::scale(self, view, factor);
    }

    fn fill_normal(&mut self, view: View, stream: Stream, first_index: u64, mean: f32, std: f32) {
        elementwise::fill_normal(self, view, stream, first_index, mean, std);
    }

    fn fill(&mut self, view: View, value: f32) {
        elementwise::fill(self, view, value);
    }

    fn pack(&mut self, from: Operand, to: Packed) {
        gemm::pack(self, from, to);
    }

    fn gemm(&mut self, gemm: &Gemm) {
        match gemm.right {
            Operand::Quantised(matrix) => quantised::run(self, gemm, matrix),
            _ => gemm::run(self, gemm),
        }
    }

    fn column_sums(&mut self, x: View, sums: View) {
        sums::column_sums(self, x, sums);
    }

    fn join_rows(&mut self, from: View, to: View) {
        sums::join_rows(self, from, to);
    }

    fn attention(&mut self, shape: &AttentionShape, qkv: View, out: View, lse: View) {
        attention::forward(self, shape, qkv, out, lse);
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
        attention::backward(self, shape, d_out, qkv, out, lse, d_qkv);
    }

    fn paged_attention(&mut self, attention: &PagedAttention, qkv: View, out: View) {
        paged_attention::run(self, attention, qkv, out);
    }

    fn rotary(&mut self, rotary: &Rotary) {
        rotary::run(self, rotary);
    }

    fn rotary_rows(&mut self, rotary: &RotaryRows) {
        rotary::rows(self, rotary);
    }

    fn add_residual(&mut self, add: &ResidualAdd) {
        residual::add(self, add);
    }

    fn norm(&mut self, norm: &Norm) {
        norm::forward(self, norm);
    }

    fn norm_backward(&mut self, norm: &NormBackward) {
        norm::backward(self, norm);
    }

    fn gelu(&mut self, pre: View, out: View) {
        elementwise::gelu(self, pre, out);
    }

    fn silu_mul(&mut self, gate_up: View, out: View) {
        elementwise::silu_mul(self, gate_up, out);
    }

    fn silu_mul_backward(&mut self, d_out: View, gate_up: View, d_gate_up: View) {
        elementwise::silu_mul_backward(self, d_out, gate_up, d_gate_up);
    }

    fn dropout(&mut self, x: View, dropout: &Dropout, out: View) {
        elementwise::dropout(self, x, dropout, out);
    }

    fn embed(&mut self, embed: &Embed) {
        embedding::forward(self, embed);
    }

    fn embed_backward(&mut self, embed: &EmbedBackward) {
        embedding::backward(self, embed);
    }

    fn embed_flush(&mut self, slots: View, sums: View, grad: View) {
        embedding::flush(self, slots, sums, grad);
    }

    fn cross_entropy(&mut self, op: &CrossEntropy) {
        loss::logits(self, op);
    }

    fn cross_entropy_join(&mut self, op: &CrossEntropyJoin) {
        loss::join(self, op);
    }

    fn cross_entropy_gradient(&mut self, op: &CrossEntropyGradient) {
        loss::gradient(self, op);
    }

    fn sum(&mut self, from: View, to: View) {
        sums::sum(self, from, to);
    }

    fn row_squares(&mut self, from: View, to: View) {
        sums::row_squares(self, from, to);
    }

    fn adamw(&mut self, step: &AdamW) {
        optimizer::adamw(self, step);
    }
}
