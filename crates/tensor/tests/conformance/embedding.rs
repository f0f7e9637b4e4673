//! Embedding, its backward through slots over several micro-batches, and the flush.

use proptest::prelude::*;
use triax_tensor::philox::Stream;
use triax_tensor::{DType, Embed, EmbedBackward, Need};

use crate::arena::{Arena, Input, Output};
use crate::bound::{U, sum};
use crate::harness::{act, check, dropout, size};

const VOCABULARY: usize = 40;
/// This rank's part of the vocabulary.
const START: usize = 13;
const ROWS: usize = 17;

fn tokens(name: &str, count: usize) -> Vec<u32> {
    let stream = Stream::named(5, name);
    (0..count).map(|i| stream.word(i as u64) % VOCABULARY as u32).collect()
}

fn forward(
    arena: &mut Arena<'_>,
    (act, out_f32): (DType, bool),
    (batch, seq, cols): (usize, usize, usize),
    positions: bool,
    drop: bool,
) -> Vec<Output> {
    let rows = batch * seq;
    let ids = tokens("tokens", rows);
    let view = arena.ids(&ids);
    let table = arena.normal("table", DType::F32, ROWS, cols, 1.0);
    let first_position = 2;
    let positions = positions.then(|| arena.normal("positions", DType::F32, seq + first_position, cols, 1.0));
    let dropout = drop.then(|| dropout(cols));
    let out = arena.output(if out_f32 { DType::F32 } else { act }, rows, cols);
    arena.device.embed(&Embed {
        tokens: view,
        table: table.view,
        vocab_start: START,
        positions: positions.as_ref().map(|input| input.view),
        seq,
        first_position,
        dropout,
        out,
    });
    let entry = |r: usize, c: usize| {
        (ids[r] as usize).checked_sub(START).filter(|&id| id < ROWS).map_or(0.0, |id| table.at(id, c).abs())
    };
    let position = |r, c| positions.as_ref().map_or(0.0, |p: &Input| p.at(first_position + r % seq, c).abs());
    vec![Output::new("out", out, |r, c| 6.0 * U * (entry(r, c) + position(r, c)))]
}

fn backward(
    arena: &mut Arena<'_>,
    dtype: DType,
    (batch, seq, cols): (usize, usize, usize),
    positions: bool,
    drop: bool,
    flush: bool,
) -> Vec<Output> {
    let rows = batch * seq;
    let slots = arena.ids(&[0; ROWS + 1]);
    let sums = arena.input(DType::F32, 2 * rows, cols, &vec![0.0; 2 * rows * cols]);
    let grad = arena.normal("grad", DType::F32, ROWS, cols, 1.0);
    let d_positions = positions.then(|| arena.normal("d_positions", DType::F32, seq, cols, 1.0));
    let dropout = drop.then(|| dropout(cols));
    // Magnitudes that meet in each row of the table's and the positions' gradient; rows of `sums` are in
    // order of first appearance.
    let mut of_id = vec![0.0; ROWS * cols];
    let mut of_position = vec![0.0; seq * cols];
    let mut order: Vec<usize> = Vec::new();
    for micro_batch in ["first", "second"] {
        let ids = tokens(micro_batch, rows);
        let view = arena.ids(&ids);
        let d_out = arena.normal(micro_batch, dtype, rows, cols, 1.0);
        arena.device.embed_backward(&EmbedBackward {
            tokens: view,
            vocab_start: START,
            d_out: d_out.view,
            dropout,
            slots,
            sums: sums.view,
            d_positions: d_positions.as_ref().map(|input| input.view),
            seq,
        });
        for (row, &id) in ids.iter().enumerate() {
            let index = (id as usize).checked_sub(START).filter(|&index| index < ROWS);
            for c in 0..cols {
                let magnitude = d_out.at(row, c).abs() / 0.7;
                of_position[row % seq * cols + c] += magnitude;
                if let Some(index) = index {
                    of_id[index * cols + c] += magnitude;
                }
            }
            order.extend(index.filter(|index| !order.contains(index)));
        }
    }
    let error = sum(2 * rows) + 4.0 * U;
    let mut outputs = if flush {
        arena.device.embed_flush(slots, sums.view, grad.view);
        vec![
            Output::exact("slots", slots),
            Output::exact("sums", sums.view),
            Output::new("grad", grad.view, |r, c| error * (of_id[r * cols + c] + grad.at(r, c).abs())),
        ]
    } else {
        vec![
            Output::exact("slots", slots),
            Output::new("sums", sums.view, |r, c| {
                order.get(r).map_or(0.0, |&id| error * of_id[id * cols + c])
            }),
        ]
    };
    if let Some(d_positions) = d_positions {
        outputs.push(Output::new("d_positions", d_positions.view, |r, c| {
            (sum(2 * batch) + 4.0 * U) * (of_position[r * cols + c] + d_positions.at(r, c).abs())
        }));
    }
    outputs
}

fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (1usize..4, 1usize..20, size())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn embeddings_agree_with_the_reference(
        dtype in act(), out_f32 in any::<bool>(), shape in shape(), positions in any::<bool>(), drop in any::<bool>()
    ) {
        check(1 << 19, &[], |arena| forward(arena, (dtype, out_f32), shape, positions, drop));
    }

    #[test]
    fn embedding_gradients_agree_with_the_reference(
        dtype in act(), shape in shape(), positions in any::<bool>(), drop in any::<bool>(), flush in any::<bool>()
    ) {
        let needs = [Need::Rows { tokens: shape.0 * shape.1, cols: shape.2 }];
        check(1 << 19, &needs, |arena| backward(arena, dtype, shape, positions, drop, flush));
    }
}
