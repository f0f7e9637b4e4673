//! Attention does not depend on the number of threads, on every kernel this machine has; what it computes is compared
//! in the conformance suite.

use crate::cpu::{Cpu, Kernel};
use crate::philox::Stream;
use crate::{AttentionShape, Class, DType, Device, DeviceExt, Mask, Need, Table, View};

const KERNELS: [Kernel; 5] =
    [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable];

fn kernels() -> impl Iterator<Item = Kernel> {
    KERNELS.into_iter().filter(|&kernel| Cpu::new(1, kernel).is_ok())
}

/// Normal values of the view's type, from `stream`; `wide` is a view of as many f32.
fn fill(device: &mut dyn Device, view: View, wide: View, stream: Stream) {
    let wide = wide.flat_range(0, view.len()).reshape(view.rows, view.cols);
    device.fill_normal(wide, stream, 0, 0.0, 1.0);
    device.cast(wide, view);
}

fn read(device: &mut dyn Device, view: View, wide: View) -> Vec<f32> {
    let wide = wide.flat_range(0, view.len());
    device.cast(view.reshape(1, view.len()), wide);
    device.download_vec(wide)
}

/// Runs forward and backward; returns output, log-sum-exp and gradient.
fn run(device: &mut dyn Device, shape: &AttentionShape, dtype: DType, prefixes: &[u32]) -> [Vec<f32>; 3] {
    let (tokens, wide_cols) = (shape.tokens(), shape.qkv_cols());
    let mut table = Table::new();
    let mut add = |name: &str, dtype, cols| table.add(name, Class::Workspace, dtype, tokens, cols);
    let (qkv, d_qkv) = (add("qkv", dtype, wide_cols), add("d_qkv", dtype, wide_cols));
    let (out, d_out) = (add("out", dtype, shape.out_cols()), add("d_out", dtype, shape.out_cols()));
    let (lse, wide) = (add("lse", DType::F32, shape.heads), add("wide", DType::F32, wide_cols));
    let prefix = table.add("prefix", Class::Workspace, DType::U32, 1, shape.batch);
    let mut shape = *shape;
    if !prefixes.is_empty() {
        shape.mask = Mask::Prefix(prefix);
    }
    device.allocate(table.bytes(), device.scratch_bytes(Need::Attention(shape))).unwrap();
    if !prefixes.is_empty() {
        device.upload_slice(prefix, prefixes);
    }
    fill(device, qkv, wide, Stream::named(1, "qkv"));
    fill(device, d_out, wide, Stream::named(1, "d_out"));
    device.attention(&shape, qkv, out, lse);
    device.attention_backward(&shape, d_out, qkv, out, lse, d_qkv);
    [read(device, out, wide), device.download_vec(lse), read(device, d_qkv, wide)]
}

fn shape(batch: usize, seq: usize, heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { batch, seq, heads, kv_heads, head_dim, scale, mask: Mask::Causal, dropout: None }
}

#[test]
fn threads_do_not_change_a_bit() {
    let shape = shape(1, 200, 4, 2, 24);
    for kernel in kernels() {
        for dtype in [DType::F32, DType::Bf16] {
            let one = run(&mut Cpu::new(1, kernel).unwrap(), &shape, dtype, &[]);
            let three = run(&mut Cpu::new(3, kernel).unwrap(), &shape, dtype, &[]);
            assert_eq!(one, three, "{kernel:?} {dtype}");
        }
    }
}
