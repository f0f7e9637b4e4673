//! Paged attention against whole attention on the reference device, and against itself in other batches.

use crate::cpu::{Cpu, Kernel};
use crate::philox::Stream;
use crate::reference::Reference;
use crate::{AttentionShape, Class, DType, Device, DeviceExt, Mask, Need, PagedAttention, Table, View};

const KERNELS: [Kernel; 5] =
    [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable];
const BLOCK: usize = 16;

/// Normal values of the view's type; `wide` is a view of as many f32 or more.
fn fill(device: &mut dyn Device, view: View, wide: View) {
    let wide = wide.flat_range(0, view.len()).reshape(view.rows, view.cols);
    device.fill_normal(wide, Stream::named(1, "qkv"), 0, 0.0, 1.0);
    device.cast(wide, view);
}

fn read(device: &mut dyn Device, view: View, wide: View) -> Vec<f32> {
    let wide = wide.flat_range(0, view.len());
    device.cast(view.reshape(1, view.len()), wide);
    device.download_vec(wide)
}

fn shape(batch: usize, seq: usize, heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { batch, seq, heads, kv_heads, head_dim, scale, mask: Mask::Causal, dropout: None }
}

fn whole(shape: &AttentionShape, dtype: DType, prefix: Option<&[u32]>) -> Vec<f32> {
    let mut device = Reference::new();
    let mut table = Table::new();
    let mut add = |name: &str, dtype, cols| table.add(name, Class::Workspace, dtype, shape.tokens(), cols);
    let (qkv, out) = (add("qkv", dtype, shape.qkv_cols()), add("out", dtype, shape.out_cols()));
    let (lse, wide) = (add("lse", DType::F32, shape.heads), add("wide", DType::F32, shape.qkv_cols()));
    let lengths = table.add("prefix", Class::Workspace, DType::U32, 1, shape.batch);
    device.allocate(table.bytes(), 0).unwrap();
    fill(&mut device, qkv, wide);
    let mut shape = *shape;
    if let Some(prefix) = prefix {
        device.upload_slice(lengths, prefix);
        shape.mask = Mask::Prefix(lengths);
    }
    device.attention(&shape, qkv, out, lse);
    read(&mut device, out, wide)
}

/// The sequences of `shape` through a paged cache; call by call, which (sequence, tokens) it takes.
fn paged(
    device: &mut dyn Device,
    shape: &AttentionShape,
    dtype: DType,
    calls: &[&[(usize, usize)]],
    prefix: Option<&[u32]>,
) -> Vec<f32> {
    paged_in(device, shape, (dtype, dtype), calls, prefix)
}

/// With the dtypes of activations and cache.
fn paged_in(
    device: &mut dyn Device,
    shape: &AttentionShape,
    (dtype, cache): (DType, DType),
    calls: &[&[(usize, usize)]],
    prefix: Option<&[u32]>,
) -> Vec<f32> {
    let &AttentionShape { batch, seq, heads, kv_heads, head_dim, scale, .. } = shape;
    let blocks = seq.div_ceil(BLOCK);
    let tokens = shape.tokens();
    let mut table = Table::new();
    let mut add = |name: &str, dtype, rows, cols| table.add(name, Class::Workspace, dtype, rows, cols);
    let (qkv, out) =
        (add("qkv", dtype, tokens, shape.qkv_cols()), add("out", dtype, tokens, shape.out_cols()));
    let (call_qkv, call_out) =
        (add("call qkv", dtype, tokens, qkv.cols), add("call out", dtype, tokens, out.cols));
    let keys = add("keys", cache, batch * blocks + 1, kv_heads * head_dim * BLOCK);
    let values = add("values", cache, keys.rows, keys.cols);
    let (rows, tables) = (add("rows", DType::U32, tokens, 3), add("tables", DType::U32, batch, blocks));
    let wide = add("wide", DType::F32, tokens, shape.qkv_cols());
    let need = Need::PagedAttention { capacity: seq, head_dim };
    device.allocate(table.bytes(), device.scratch_bytes(need)).unwrap();
    fill(device, qkv, wide);
    // Scattered: block i of sequence s lies at 1 + i · batch + s.
    let ids: Vec<u32> = (0..batch * blocks).map(|i| (1 + i % blocks * batch + i / blocks) as u32).collect();
    device.upload_slice(tables, &ids);
    let mut past = vec![0; batch];
    for &call in calls {
        let mut sources = Vec::new();
        let mut described = Vec::new();
        for &(sequence, count) in call {
            for position in past[sequence]..past[sequence] + count {
                let seen = prefix.map_or(0, |p| p[sequence] as usize).max(position + 1);
                sources.push(sequence * seq + position);
                described.extend([sequence as u32, position as u32, seen as u32]);
            }
            past[sequence] += count;
        }
        let rows = rows.row_range(0, sources.len());
        device.upload_slice(rows, &described);
        for (row, &source) in sources.iter().enumerate() {
            device.cast(qkv.row_range(source, 1), call_qkv.row_range(row, 1));
        }
        let op =
            PagedAttention { heads, kv_heads, head_dim, scale, block: BLOCK, keys, values, rows, tables };
        device.paged_attention(
            &op,
            call_qkv.row_range(0, sources.len()),
            call_out.row_range(0, sources.len()),
        );
        for (row, &source) in sources.iter().enumerate() {
            device.cast(call_out.row_range(row, 1), out.row_range(source, 1));
        }
    }
    assert!(past.iter().all(|&p| p == seq));
    read(device, out, wide)
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}, element {i}: {a} and {b}");
    }
}

fn devices() -> Vec<(String, Box<dyn Device>)> {
    let mut devices: Vec<(String, Box<dyn Device>)> = vec![("reference".into(), Box::new(Reference::new()))];
    for kernel in KERNELS {
        if let Ok(cpu) = Cpu::new(2, kernel) {
            devices.push((format!("{kernel:?}"), Box::new(cpu)));
        }
    }
    devices
}

#[test]
fn a_cache_filled_in_pieces_gives_what_one_pass_gives() {
    // f32: rounding of sums of some hundred terms; bf16: one rounding of the results.
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::Bf16, 1e-2), (DType::F16, 2e-3)] {
        for (heads, kv_heads, head_dim) in [(4, 2, 12), (3, 1, 64), (2, 2, 33), (8, 1, 80)] {
            let shape = shape(2, 85, heads, kv_heads, head_dim);
            let whole = whole(&shape, dtype, None);
            for (name, mut device) in devices() {
                let calls: [&[(usize, usize)]; 4] =
                    [&[(0, 70)], &[(1, 3), (0, 1)], &[(0, 13), (1, 1)], &[(1, 81), (0, 1)]];
                let ours = paged(&mut *device, &shape, dtype, &calls, None);
                assert_close(&format!("{name} {dtype} {head_dim}"), &ours, &whole, tolerance);
            }
        }
    }
}

#[test]
fn a_narrow_cache_serves_wide_activations() {
    let shape = shape(1, 70, 4, 2, 20);
    let calls: [&[(usize, usize)]; 2] = [&[(0, 69)], &[(0, 1)]];
    for cache in [DType::Bf16, DType::F16] {
        let types = (DType::F32, cache);
        let expected = paged_in(&mut Reference::new(), &shape, types, &calls, None);
        for (name, mut device) in devices() {
            let ours = paged_in(&mut *device, &shape, types, &calls, None);
            assert_close(&format!("{name} {cache}"), &ours, &expected, 2e-5);
        }
    }
}

#[test]
fn a_prompt_of_a_prefix_model_sees_all_of_itself() {
    let shape = shape(2, 40, 4, 2, 16);
    let prefix: &[u32] = &[20, 33];
    let whole = whole(&shape, DType::F32, Some(prefix));
    for (name, mut device) in devices() {
        let calls: [&[(usize, usize)]; 2] = [&[(0, 20), (1, 33)], &[(1, 7), (0, 20)]];
        let ours = paged(&mut *device, &shape, DType::F32, &calls, Some(prefix));
        assert_close(&name, &ours, &whole, 2e-5);
    }
}

#[test]
fn pieces_batches_and_threads_do_not_change_a_bit() {
    for (heads, kv_heads, head_dim) in [(4, 2, 24), (9, 3, 64)] {
        let shape = shape(3, 75, heads, kv_heads, head_dim);
        let at_once: [&[(usize, usize)]; 1] = [&[(0, 75), (1, 75), (2, 75)]];
        let one_by_one: Vec<[(usize, usize); 1]> = (0..225).map(|i| [(i % 3, 1)]).collect();
        let one_by_one: Vec<&[(usize, usize)]> = one_by_one.iter().map(|c| c.as_slice()).collect();
        let mixed: [&[(usize, usize)]; 3] = [&[(2, 7), (0, 74)], &[(0, 1), (1, 75), (2, 1)], &[(2, 67)]];
        for kernel in KERNELS.into_iter().filter(|&kernel| Cpu::new(1, kernel).is_ok()) {
            for dtype in [DType::F32, DType::Bf16] {
                let run = |threads, calls| {
                    paged(&mut Cpu::new(threads, kernel).unwrap(), &shape, dtype, calls, None)
                };
                let first = run(1, &at_once);
                assert_eq!(first, run(3, &one_by_one), "{kernel:?} {dtype}");
                assert_eq!(first, run(2, &mixed), "{kernel:?} {dtype}");
            }
        }
    }
}

#[test]
fn wide_vectors_give_the_bits_of_narrow_ones() {
    for (heads, kv_heads, head_dim) in [(9, 3, 64), (4, 4, 16), (6, 2, 40), (8, 1, 24)] {
        let shape = shape(2, 70, heads, kv_heads, head_dim);
        let calls: &[&[(usize, usize)]] = &[&[(0, 50), (1, 3)], &[(1, 1), (0, 1)], &[(0, 19), (1, 66)]];
        for dtypes in [(DType::F32, DType::F16), (DType::Bf16, DType::Bf16), (DType::F32, DType::F32)] {
            let on = |kernel| {
                let mut cpu = Cpu::new(2, kernel).ok()?;
                Some(paged_in(&mut cpu, &shape, dtypes, calls, None))
            };
            let (Some(wide), Some(narrow)) = (on(Kernel::Avx512), on(Kernel::Avx2)) else {
                println!("skipped: this machine has no AVX-512");
                return;
            };
            assert!(wide == narrow, "{heads} heads of {head_dim}, {dtypes:?}");
        }
    }
}
