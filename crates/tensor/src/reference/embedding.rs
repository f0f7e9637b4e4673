//! Token and position embedding, its backward through slots, and the flush into the dense gradient.

use super::check;
use super::memory::{Matrix, Memory};

use crate::{DType, Embed, EmbedBackward, View};

pub(super) fn embed(memory: &mut Memory, embed: &Embed) {
    let &Embed { tokens, table, vocab_start, positions, seq, first_position, dropout, out } = embed;
    let (rows, cols) = (out.rows, out.cols);
    check::activation("out", out);
    check::shape("tokens", tokens, 1, rows);
    check::single("table", table, table.rows, cols);
    assert!(seq > 0, "seq is 0");
    let mut inputs = vec![("tokens", tokens), ("table", table)];
    if let Some(positions) = positions {
        check::single("positions", positions, positions.rows, cols);
        let needed = first_position + seq.min(rows);
        assert!(needed <= positions.rows, "position {} of {}", needed - 1, positions.rows);
        inputs.push(("positions", positions));
    }
    check::apart(&[("out", out)], &inputs);

    let ids = memory.read_ids(tokens);
    let mut result = Matrix::zeros(rows, cols);
    for (row, &id) in ids.iter().enumerate() {
        if let Some(index) = local(id, vocab_start, table.rows) {
            add_to(&mut result, row, &memory.read(table.row_range(index, 1)));
        }
        if let Some(positions) = positions {
            add_to(&mut result, row, &memory.read(positions.row_range(first_position + row % seq, 1)));
        }
        for col in 0..cols {
            result[(row, col)] *= dropout.map_or(1.0, |dropout| f64::from(dropout.factor(row, col)));
        }
    }
    memory.write(out, &result);
}

pub(super) fn embed_backward(memory: &mut Memory, embed: &EmbedBackward) {
    let &EmbedBackward { tokens, vocab_start, d_out, dropout, slots, sums, d_positions, seq } = embed;
    let (rows, cols) = (d_out.rows, d_out.cols);
    check::activation("d_out", d_out);
    check::shape("tokens", tokens, 1, rows);
    check_slots(slots, sums, cols);
    assert!(seq > 0, "seq is 0");
    let mut outputs = vec![("slots", slots), ("sums", sums)];
    if let Some(d_positions) = d_positions {
        check::single("d_positions", d_positions, d_positions.rows, cols);
        assert!(seq.min(rows) <= d_positions.rows, "{seq} positions of {}", d_positions.rows);
        outputs.push(("d_positions", d_positions));
    }
    check::apart(&outputs, &[("tokens", tokens), ("d_out", d_out)]);

    let ids = memory.read_ids(tokens);
    let vocabulary = slots.cols - 1;
    let mut slot_of = memory.read_ids(slots);
    let mut collected = memory.read(sums);
    let mut position_sums = d_positions.map(|view| memory.read(view));
    let mut gradient = memory.read(d_out);
    for (row, &id) in ids.iter().enumerate() {
        for col in 0..cols {
            gradient[(row, col)] *= dropout.map_or(1.0, |dropout| f64::from(dropout.factor(row, col)));
        }
        let this = Matrix { rows: 1, cols, values: gradient.row(row).to_vec() };
        if let Some(position_sums) = &mut position_sums {
            add_to(position_sums, row % seq, &this);
        }
        let Some(index) = local(id, vocab_start, vocabulary) else { continue };
        if slot_of[index] == 0 {
            slot_of[vocabulary] += 1;
            slot_of[index] = slot_of[vocabulary];
        }
        let slot = slot_of[index] as usize - 1;
        assert!(slot < sums.rows, "id {id} needs row {slot} of {} in sums", sums.rows);
        add_to(&mut collected, slot, &this);
    }
    memory.write_ids(slots, &slot_of);
    memory.write(sums, &collected);
    if let (Some(view), Some(position_sums)) = (d_positions, position_sums) {
        memory.write(view, &position_sums);
    }
}

pub(super) fn embed_flush(memory: &mut Memory, slots: View, sums: View, grad: View) {
    check_slots(slots, sums, grad.cols);
    check::single("grad", grad, slots.cols - 1, grad.cols);
    check::apart(&[("slots", slots), ("sums", sums), ("grad", grad)], &[]);
    let collected = memory.read(sums);
    let mut total = memory.read(grad);
    for (row, &slot) in memory.read_ids(slots)[..grad.rows].iter().enumerate() {
        if slot > 0 {
            for col in 0..grad.cols {
                total[(row, col)] += collected[(slot as usize - 1, col)];
            }
        }
    }
    memory.write(grad, &total);
    memory.clear(slots);
    memory.clear(sums);
}

fn check_slots(slots: View, sums: View, cols: usize) {
    check::dtype("slots", slots, DType::U32);
    assert!(
        slots.rows == 1 && slots.cols > 0,
        "slots is [{}, {}], must be [1, rows + 1]",
        slots.rows,
        slots.cols
    );
    check::single("sums", sums, sums.rows, cols);
}

/// The row of a table that starts at id `vocab_start`, if the id is in it.
pub(super) fn local(id: u32, vocab_start: usize, rows: usize) -> Option<usize> {
    (id as usize).checked_sub(vocab_start).filter(|&row| row < rows)
}

fn add_to(matrix: &mut Matrix, row: usize, values: &Matrix) {
    for col in 0..matrix.cols {
        matrix[(row, col)] += values[(0, col)];
    }
}
