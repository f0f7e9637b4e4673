//! A slice computes the slice: what a rank of a tensor group holds of a layer gives the bits that the whole
//! layer has there, for sizes that fit no tile, no vector and no panel.
//!
//! ```text
//! columns of a product, heads, rows of a table    the slice of the whole, bit for bit
//! shards of a summed dimension                    partial sums that the tree joins to the whole, bit for bit
//! ```

use half::{bf16, f16};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::{
    Activation, AttentionShape, CrossEntropy, CrossEntropyJoin, DType, DeviceExt, Dropout, Embed,
    EmbedBackward, Epilogue, Gemm, IGNORE, Mask, Need, Operand, View, even_shard_range, join_order,
    philox::Stream,
};

use crate::arena::{Arena, Input};
use crate::harness::KERNELS;

const SHARDS: usize = 8;
const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

fn devices() -> impl Iterator<Item = Cpu> {
    KERNELS.into_iter().filter_map(|kernel: Kernel| Cpu::new(2, kernel).ok())
}

fn bits(arena: &Arena<'_>, view: View) -> Vec<u32> {
    match view.dtype {
        DType::F32 => arena.device.download_vec::<f32>(view).into_iter().map(f32::to_bits).collect(),
        DType::Bf16 => {
            arena.device.download_vec::<bf16>(view).into_iter().map(|x| x.to_bits().into()).collect()
        }
        _ => arena.device.download_vec::<f16>(view).into_iter().map(|x| x.to_bits().into()).collect(),
    }
}

/// Columns of what a view holds.
fn columns(all: &[u32], cols: usize, range: &std::ops::Range<usize>) -> Vec<u32> {
    all.chunks(cols).flat_map(|row| row[range.clone()].to_vec()).collect()
}

/// A buffer of these columns of an operand.
fn cut(arena: &mut Arena<'_>, whole: &Input, range: &std::ops::Range<usize>) -> View {
    let values: Vec<f64> =
        (0..whole.view.rows).flat_map(|row| whole.row(row)[range.clone()].to_vec()).collect();
    arena.input(whole.view.dtype, whole.view.rows, range.len(), &values).view
}

/// Joins the ranks' partial sums as a group's all-reduce does; the result lies in the first.
fn join(arena: &mut Arena<'_>, parts: &[View]) -> View {
    let mut stack = Vec::new();
    for (rank, &part) in parts.iter().enumerate() {
        stack.push(part);
        for _ in 0..join_order(parts.len(), rank) {
            let (newer, older) = (stack.pop().unwrap(), *stack.last().unwrap());
            arena.device.add(older, newer);
        }
    }
    stack[0]
}

/// `y = x·W` and its gradients by ranks that hold rows of `W [out, in]`, beside one rank.
#[test]
fn ranks_with_rows_of_a_column_parallel_weight_have_the_bits_of_one_rank() {
    for mut cpu in devices() {
        for dtype in DTYPES {
            for (tokens, outputs, inputs) in
                [(19, 50, 33), (37, 131, 65), (9, 200, 97), (5, 4500, 31), (3, 16_500, 5)]
            {
                let needs = [(tokens, outputs, inputs), (tokens, inputs, outputs), (outputs, inputs, tokens)];
                let needs = needs.map(|(m, n, k)| Need::Gemm { m, n, k, dtype });
                let what = format!("{:?}, {dtype}, {tokens} x {outputs} x {inputs}", cpu.kernel());
                let arena = &mut Arena::new(&mut cpu, 1 << 25, &needs);
                let x = arena.normal("x", dtype, tokens, inputs, 1.0).view;
                let weight = arena.normal("weight", dtype, outputs, inputs, 1.0).view;
                let bias = arena.normal("bias", DType::F32, 1, outputs, 1.0);
                let d_out = arena.normal("d_out", dtype, tokens, outputs, 1.0);
                for packed in [false, true] {
                    let layer = |arena: &mut Arena<'_>, rank: usize, ranks: usize| {
                        let rows = even_shard_range(outputs, ranks, rank);
                        let weight = weight.row_range(rows.start, rows.len());
                        let (bias, d_out) = (cut(arena, &bias, &rows), cut(arena, &d_out, &rows));
                        let mut right = |operand| {
                            if packed { Operand::Packed(arena.packed(operand, dtype)) } else { operand }
                        };
                        let (forward, backward) =
                            (right(Operand::InnerCols(weight)), right(Operand::InnerRows(weight)));
                        let plain = Gemm {
                            left: Operand::InnerCols(x),
                            right: forward,
                            out: arena.output(dtype, tokens, rows.len()),
                            inner_shards: 1,
                            accumulate: false,
                            epilogue: Epilogue::default(),
                        };
                        let gelu = arena.output(dtype, tokens, rows.len());
                        let dropout = Dropout {
                            rate: 0.3,
                            stream: Stream::named(11, "dropout"),
                            first_row: 0,
                            first_col: rows.start as u64,
                            cols_total: outputs as u64,
                        };
                        arena.device.gemm(&Gemm {
                            epilogue: Epilogue {
                                bias: Some(bias),
                                activation: Activation::Gelu { pre: gelu },
                                dropout: Some(dropout),
                                residual: None,
                            },
                            ..plain
                        });
                        // With f32 sums, as a rank leaves them for the all-reduce.
                        let d_x = arena.output(DType::F32, tokens, inputs);
                        arena.device.gemm(&Gemm {
                            left: Operand::InnerCols(d_out),
                            right: backward,
                            out: d_x,
                            inner_shards: SHARDS / ranks,
                            ..plain
                        });
                        let d_weight = arena.output(DType::F32, rows.len(), inputs);
                        arena.device.gemm(&Gemm {
                            left: Operand::InnerRows(d_out),
                            right: Operand::InnerRows(x),
                            out: d_weight,
                            ..plain
                        });
                        let d_bias = arena.input(DType::F32, 1, rows.len(), &vec![0.0; rows.len()]).view;
                        arena.device.column_sums(d_out, d_bias);
                        (rows, [plain.out, gelu, d_weight, d_bias], d_x)
                    };
                    let (_, [out, gelu, d_weight, d_bias], d_x) = layer(arena, 0, 1);
                    let [out, gelu, d_weight, d_bias, d_x] =
                        [out, gelu, d_weight, d_bias, d_x].map(|view| bits(arena, view));
                    for ranks in [2, 4, 8] {
                        let mut parts = Vec::new();
                        for rank in 0..ranks {
                            let (rows, [o, g, w, b], part) = layer(arena, rank, ranks);
                            let what = format!("{what}, rank {rank} of {ranks}, packed {packed}");
                            assert_eq!(bits(arena, o), columns(&out, outputs, &rows), "out, {what}");
                            assert_eq!(bits(arena, g), columns(&gelu, outputs, &rows), "pre, {what}");
                            assert_eq!(bits(arena, b), d_bias[rows.clone()], "bias gradient, {what}");
                            let d_weight = &d_weight[rows.start * inputs..rows.end * inputs];
                            assert_eq!(bits(arena, w), d_weight, "weight gradient, {what}");
                            parts.push(part);
                        }
                        let joined = join(arena, &parts);
                        assert_eq!(bits(arena, joined), d_x, "input gradient, {what}, {ranks} ranks");
                    }
                }
            }
        }
    }
}

/// The loss of ranks that hold shards of a vocabulary of any size.
#[test]
fn ranks_with_shards_of_the_vocabulary_have_the_loss_of_one_rank() {
    for mut cpu in devices() {
        for (dtype, vocab) in
            DTYPES.into_iter().flat_map(|dtype| [5, 97, 386, 1001].map(|vocab| (dtype, vocab)))
        {
            let (tokens, width) = (37, 65);
            let needs =
                [1, 8].map(|shards| Need::CrossEntropy { tokens, vocab, shards, hidden: width, dtype });
            let what = format!("{:?}, {dtype}, vocabulary {vocab}", cpu.kernel());
            let arena = &mut Arena::new(&mut cpu, 1 << 23, &needs);
            let hidden = arena.normal("hidden", dtype, tokens, width, 1.0).view;
            let weight = arena.normal("weight", dtype, vocab, width, 0.5).view;
            let stream = Stream::named(9, "targets");
            let any = |i: usize| if i % 5 == 3 { IGNORE } else { stream.word(i as u64) % vocab as u32 };
            let targets = arena.ids(&(0..tokens).map(any).collect::<Vec<_>>());
            for packed in [false, true] {
                let part = |arena: &mut Arena<'_>, rank: usize, ranks: usize| {
                    let rows = even_shard_range(vocab, ranks, rank);
                    let shards = SHARDS / ranks;
                    let weight = Operand::InnerCols(weight.row_range(rows.start, rows.len()));
                    let weight =
                        if packed { Operand::Packed(arena.packed_in(weight, shards, dtype)) } else { weight };
                    let logits = arena.output(dtype, tokens, rows.len());
                    let statistics = arena.output(DType::F32, tokens, 2 * shards);
                    let target_logits = arena.output(DType::F32, tokens, 1);
                    let vocab_start = rows.start;
                    arena.device.cross_entropy(&CrossEntropy {
                        hidden,
                        weight,
                        logits,
                        targets,
                        vocab_start,
                        statistics,
                        target_logits,
                    });
                    let pairs = bits(arena, statistics);
                    (rows, bits(arena, logits), pairs, target_logits, statistics)
                };
                let (_, logits, whole, target_logits, statistics) = part(arena, 0, 1);
                let (lse, losses) =
                    (arena.output(DType::F32, tokens, 1), arena.output(DType::F32, tokens, 1));
                arena.device.cross_entropy_join(&CrossEntropyJoin {
                    statistics,
                    target_logits,
                    targets,
                    lse,
                    losses,
                });
                assert!(
                    arena.device.download_vec::<f32>(losses).iter().all(|loss| loss.is_finite()),
                    "{what}"
                );
                let expected_targets = bits(arena, target_logits);
                for ranks in [2, 4, 8] {
                    let mut gathered = vec![Vec::new(); tokens];
                    let mut parts = Vec::new();
                    for rank in 0..ranks {
                        let (rows, found, pairs, target_logits, _) = part(arena, rank, ranks);
                        assert_eq!(
                            found,
                            columns(&logits, vocab, &rows),
                            "logits, {what}, {rank} of {ranks}"
                        );
                        for (row, pairs) in gathered.iter_mut().zip(pairs.chunks(2 * SHARDS / ranks)) {
                            row.extend_from_slice(pairs);
                        }
                        parts.push(target_logits);
                    }
                    assert_eq!(gathered.concat(), whole, "statistics, {what}, {ranks} ranks");
                    let joined = join(arena, &parts);
                    assert_eq!(bits(arena, joined), expected_targets, "target logits, {what}, {ranks} ranks");
                }
            }
        }
    }
}

/// Attention of ranks that hold some of the heads, forward and backward.
#[test]
fn ranks_with_some_of_the_heads_have_the_bits_of_all() {
    for mut cpu in devices() {
        for dtype in DTYPES {
            for (batch, seq, kv_heads, group, head_dim) in
                [(2, 70, 4, 1, 7), (1, 133, 4, 2, 16), (3, 65, 8, 1, 64)]
            {
                let shape = |heads: &std::ops::Range<usize>| AttentionShape {
                    batch,
                    seq,
                    heads: heads.len() * group,
                    kv_heads: heads.len(),
                    head_dim,
                    scale: 1.0 / (head_dim as f32).sqrt(),
                    mask: Mask::Causal,
                    dropout: Some(Dropout {
                        rate: 0.2,
                        stream: Stream::named(11, "dropout"),
                        first_row: 0,
                        first_col: (heads.start * group) as u64,
                        cols_total: (kv_heads * group) as u64,
                    }),
                };
                let what = format!("{:?}, {dtype}, {kv_heads} heads of {head_dim}", cpu.kernel());
                let arena = &mut Arena::new(&mut cpu, 1 << 24, &[Need::Attention(shape(&(0..kv_heads)))]);
                let (tokens, per_head) = (batch * seq, (group + 2) * head_dim);
                let qkv = arena.normal("qkv", dtype, tokens, kv_heads * per_head, 1.0);
                let d_out = arena.normal("d_out", dtype, tokens, kv_heads * group * head_dim, 1.0);
                let run = |arena: &mut Arena<'_>, heads: &std::ops::Range<usize>| {
                    let shape = shape(heads);
                    let of = |each: usize| heads.start * each..heads.end * each;
                    let qkv = cut(arena, &qkv, &of(per_head));
                    let d_out = cut(arena, &d_out, &of(group * head_dim));
                    let out = arena.output(dtype, tokens, shape.out_cols());
                    let lse = arena.output(DType::F32, tokens, shape.heads);
                    let d_qkv = arena.output(dtype, tokens, shape.qkv_cols());
                    arena.device.attention(&shape, qkv, out, lse);
                    arena.device.attention_backward(&shape, d_out, qkv, out, lse, d_qkv);
                    let each = [group * head_dim, group, per_head];
                    [out, lse, d_qkv].map(|view| bits(arena, view)).into_iter().zip(each).collect::<Vec<_>>()
                };
                let whole = run(arena, &(0..kv_heads));
                for ranks in [2, 4] {
                    for rank in 0..ranks {
                        let heads = rank * kv_heads / ranks..(rank + 1) * kv_heads / ranks;
                        for ((part, each), (whole, _)) in run(arena, &heads).into_iter().zip(&whole) {
                            let range = heads.start * each..heads.end * each;
                            let expected = columns(whole, kv_heads * each, &range);
                            assert_eq!(part, expected, "{what}, rank {rank} of {ranks}");
                        }
                    }
                }
            }
        }
    }
}

/// GELU and SwiGLU of some columns, and their gradients.
#[test]
fn activations_of_a_slice_are_the_slice() {
    for mut cpu in devices() {
        for dtype in DTYPES {
            let (tokens, width) = (11, 90);
            let arena = &mut Arena::new(&mut cpu, 1 << 20, &[]);
            let gate_up = arena.normal("gate_up", dtype, tokens, 2 * width, 2.0);
            let d_out = arena.normal("d_out", dtype, tokens, width, 1.0);
            let run = |arena: &mut Arena<'_>, part: &std::ops::Range<usize>| {
                let gate_up = cut(arena, &gate_up, &(2 * part.start..2 * part.end));
                let d_out = cut(arena, &d_out, part);
                let [out, gelu] = [(); 2].map(|()| arena.output(dtype, tokens, part.len()));
                let d_gate_up = arena.output(dtype, tokens, 2 * part.len());
                arena.device.silu_mul(gate_up, out);
                arena.device.silu_mul_backward(d_out, gate_up, d_gate_up);
                arena.device.gelu(d_out, gelu);
                [out, gelu, d_gate_up].map(|view| bits(arena, view))
            };
            let whole = run(arena, &(0..width));
            for part in [0..44, 44..90, 23..35] {
                for ((found, whole), each) in run(arena, &part).into_iter().zip(&whole).zip([1, 1, 2]) {
                    let range = part.start * each..part.end * each;
                    assert_eq!(found, columns(whole, width * each, &range), "{dtype}, columns {part:?}");
                }
            }
        }
    }
}

/// Ranks with rows of the embedding: sums of their outputs are the whole's, and so are their gradients.
#[test]
fn ranks_with_rows_of_the_embedding_have_the_bits_of_one_rank() {
    for mut cpu in devices() {
        let (tokens, rows, width) = (60, 37, 70);
        let arena = &mut Arena::new(&mut cpu, 1 << 22, &[]);
        let table = arena.normal("table", DType::F32, rows, width, 1.0);
        let stream = Stream::named(9, "tokens");
        let ids: Vec<u32> = (0..tokens).map(|i| stream.word(i as u64) % rows as u32).collect();
        let ids = arena.ids(&ids);
        let d_out = arena.normal("d_out", DType::Bf16, tokens, width, 1.0).view;
        let run = |arena: &mut Arena<'_>, part: std::ops::Range<usize>| {
            let out = arena.output(DType::F32, tokens, width);
            arena.device.embed(&Embed {
                tokens: ids,
                table: table.view.row_range(part.start, part.len()),
                vocab_start: part.start,
                positions: None,
                seq: tokens,
                first_position: 0,
                dropout: None,
                out,
            });
            let slots = arena.ids(&vec![0; part.len() + 1]);
            let sums = arena.input(DType::F32, tokens, width, &vec![0.0; tokens * width]).view;
            let grad = arena.input(DType::F32, part.len(), width, &vec![0.0; part.len() * width]).view;
            let backward = EmbedBackward {
                tokens: ids,
                vocab_start: part.start,
                d_out,
                dropout: None,
                slots,
                sums,
                d_positions: None,
                seq: tokens,
            };
            arena.device.embed_backward(&backward);
            arena.device.embed_flush(slots, sums, grad);
            (out, bits(arena, grad))
        };
        let (out, grad) = run(arena, 0..rows);
        let out = bits(arena, out);
        for ranks in [2, 4, 8] {
            let parts: Vec<_> =
                (0..ranks).map(|rank| run(arena, even_shard_range(rows, ranks, rank))).collect();
            let outputs: Vec<View> = parts.iter().map(|part| part.0).collect();
            let joined = join(arena, &outputs);
            assert_eq!(bits(arena, joined), out, "{ranks} ranks");
            assert_eq!(parts.into_iter().flat_map(|part| part.1).collect::<Vec<_>>(), grad, "{ranks} ranks");
        }
    }
}
