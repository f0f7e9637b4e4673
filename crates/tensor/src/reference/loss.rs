//! The output layer with its cross-entropy loss, in two passes with the join between.

use super::check;
use super::embedding::local;
use super::gemm::outer_inner;
use super::memory::{Matrix, Memory, rounded};
use crate::{
    CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, IGNORE, Operand, View, even_shard_range,
};

pub(super) fn cross_entropy(memory: &mut Memory, op: &CrossEntropy) {
    check_cross_entropy(op);
    let hidden = memory.read(op.hidden);
    let weight = outer_inner(memory, op.weight);
    let targets = memory.read_ids(op.targets);
    let shards = op.statistics.cols / 2;

    let mut logits = Matrix::zeros(op.logits.rows, op.logits.cols);
    let mut statistics = Matrix::zeros(op.statistics.rows, op.statistics.cols);
    let mut target_logits = Matrix::zeros(op.logits.rows, 1);
    for row in 0..logits.rows {
        for col in 0..logits.cols {
            logits[(row, col)] = hidden.row(row).iter().zip(weight.row(col)).map(|(a, b)| a * b).sum();
        }
        for shard in 0..shards {
            let part = &logits.row(row)[even_shard_range(logits.cols, shards, shard)];
            let maximum = part.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // The sum belongs to the maximum as stored.
            let maximum = rounded(maximum, DType::F32);
            statistics[(row, 2 * shard)] = maximum;
            statistics[(row, 2 * shard + 1)] = part.iter().map(|logit| (logit - maximum).exp()).sum();
        }
        if let Some(col) = target(targets[row], op.vocab_start, logits.cols) {
            target_logits[(row, 0)] = logits[(row, col)];
        }
    }
    memory.write(op.logits, &logits);
    memory.write(op.statistics, &statistics);
    memory.write(op.target_logits, &target_logits);
}

pub(super) fn cross_entropy_join(memory: &mut Memory, op: &CrossEntropyJoin) {
    let rows = op.losses.rows;
    check::dtype("statistics", op.statistics, DType::F32);
    let whole = op.statistics.rows.is_multiple_of(rows) && op.statistics.cols.is_multiple_of(2);
    assert!(whole && !op.statistics.is_empty(), "statistics {:?} of {rows} tokens", op.statistics);
    check::single("target_logits", op.target_logits, rows, 1);
    check::shape("targets", op.targets, 1, rows);
    check::single("lse", op.lse, rows, 1);
    check::single("losses", op.losses, rows, 1);
    let inputs =
        [("statistics", op.statistics), ("target_logits", op.target_logits), ("targets", op.targets)];
    check::apart(&[("lse", op.lse), ("losses", op.losses)], &inputs);

    let statistics = memory.read(op.statistics);
    let target_logits = memory.read(op.target_logits);
    let targets = memory.read_ids(op.targets);
    let (mut lse, mut losses) = (Matrix::zeros(rows, 1), Matrix::zeros(rows, 1));
    for row in 0..rows {
        // An empty shard has maximum -∞ and sum 0.
        let parts: Vec<(f64, f64)> = (row..statistics.rows)
            .step_by(rows)
            .flat_map(|row| statistics.row(row).chunks(2))
            .map(|part| (part[0], part[1]))
            .filter(|part| part.1 != 0.0)
            .collect();
        let maximum = parts.iter().map(|part| part.0).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = parts.iter().map(|part| part.1 * (part.0 - maximum).exp()).sum();
        lse[(row, 0)] = maximum + total.ln();
        if targets[row] != IGNORE {
            losses[(row, 0)] = lse[(row, 0)] - target_logits[(row, 0)];
        }
    }
    memory.write(op.lse, &lse);
    memory.write(op.losses, &losses);
}

pub(super) fn cross_entropy_gradient(memory: &mut Memory, op: &CrossEntropyGradient) {
    let rows = op.logits.rows;
    check::activation("logits", op.logits);
    check::single("lse", op.lse, rows, 1);
    check::shape("targets", op.targets, 1, rows);
    check::apart(&[("logits", op.logits)], &[("lse", op.lse), ("targets", op.targets)]);

    let mut logits = memory.read(op.logits);
    let lse = memory.read(op.lse);
    for (row, &id) in memory.read_ids(op.targets).iter().enumerate() {
        let hit = target(id, op.vocab_start, logits.cols);
        for col in 0..logits.cols {
            let probability = (logits[(row, col)] - lse[(row, 0)]).exp();
            let expected = if hit == Some(col) { 1.0 } else { 0.0 };
            logits[(row, col)] =
                if id == IGNORE { 0.0 } else { (probability - expected) * f64::from(op.scale) };
        }
    }
    memory.write(op.logits, &logits);
}

/// The target's column in a part of the vocabulary.
fn target(id: u32, vocab_start: usize, cols: usize) -> Option<usize> {
    if id == IGNORE { None } else { local(id, vocab_start, cols) }
}

fn check_cross_entropy(op: &CrossEntropy) {
    let rows = op.hidden.rows;
    check::activation("hidden", op.hidden);
    assert!(
        op.weight.inner() == op.hidden.cols && op.weight.dtype() == op.hidden.dtype,
        "hidden {:?} times {:?}",
        op.hidden,
        op.weight
    );
    check::matching("logits", op.logits, op.hidden, rows, op.weight.outer());
    check::shape("targets", op.targets, 1, rows);
    check::dtype("statistics", op.statistics, DType::F32);
    assert!(
        op.statistics.rows == rows && op.statistics.cols > 0 && op.statistics.cols.is_multiple_of(2),
        "statistics is [{}, {}], must be [{rows}, 2 · shards]",
        op.statistics.rows,
        op.statistics.cols
    );
    check::single("target_logits", op.target_logits, rows, 1);
    let weight: View = match op.weight {
        Operand::InnerCols(view) | Operand::InnerRows(view) => view,
        Operand::Packed(packed) => check::unpacked(packed),
        Operand::Quantised(matrix) => panic!("a loss with the quantised weight {matrix:?}"),
    };
    check::apart(
        &[("logits", op.logits), ("statistics", op.statistics), ("target_logits", op.target_logits)],
        &[("hidden", op.hidden), ("weight", weight), ("targets", op.targets)],
    );
}
