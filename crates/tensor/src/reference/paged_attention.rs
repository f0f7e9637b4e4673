//! Attention over a paged cache. A block's row holds, kv head by kv head, its tokens one after the other.

use super::attention::{Columns, log_sum_exp};
use super::check;
use super::memory::{Matrix, Memory, rounded};
use crate::{PagedAttention, View};

pub(super) fn run(memory: &mut Memory, op: &PagedAttention, qkv: View, out: View) {
    let &PagedAttention { heads, kv_heads, head_dim, scale, block, keys, values, rows, tables } = op;
    let columns = Columns::new(heads, kv_heads, head_dim);
    check::shape("qkv", qkv, qkv.rows, (heads + 2 * kv_heads) * head_dim);
    check::activation("qkv", qkv);
    check::matching("out", out, qkv, qkv.rows, heads * head_dim);
    check::shape("keys", keys, keys.rows, kv_heads * head_dim * block);
    check::activation("keys", keys);
    check::matching("values", values, keys, keys.rows, keys.cols);
    check::shape("rows", rows, qkv.rows, 3);
    assert!(block > 0 && block.is_multiple_of(16), "blocks of {block} tokens, must be a multiple of 16");
    check::apart(
        &[("out", out), ("keys", keys), ("values", values)],
        &[("qkv", qkv), ("rows", rows), ("tables", tables)],
    );

    let qkv = memory.read(qkv);
    let (rows, table_cols) = (memory.read_ids(rows), tables.cols);
    let tables = memory.read_ids(tables);
    let (mut all_keys, mut all_values) = (memory.read(keys), memory.read(values));
    let slot = |table: u32, position: usize| {
        let id = tables[table as usize * table_cols + position / block] as usize;
        assert!(id < keys.rows && position / block < table_cols, "position {position} in block {id}");
        (id, position % block)
    };
    for (token, row) in rows.chunks_exact(3).enumerate() {
        let (id, at) = slot(row[0], row[1] as usize);
        for kv_head in 0..kv_heads {
            for i in 0..head_dim {
                let to = (id, (kv_head * block + at) * head_dim + i);
                all_keys[to] = rounded(qkv[(token, columns.key_of(kv_head) + i)], keys.dtype);
                all_values[to] = rounded(qkv[(token, columns.value_of(kv_head) + i)], keys.dtype);
            }
        }
    }
    let mut result = Matrix::zeros(out.rows, out.cols);
    for (token, row) in rows.chunks_exact(3).enumerate() {
        assert!(row[2] > 0, "token {token} sees nothing");
        let seen: Vec<(usize, usize)> = (0..row[2] as usize).map(|position| slot(row[0], position)).collect();
        for head in 0..heads {
            let first = |at: usize| (head / columns.group * block + at) * head_dim;
            let scores: Vec<f64> = seen
                .iter()
                .map(|&(id, at)| {
                    let query = columns.query(head);
                    let products =
                        (0..head_dim).map(|i| qkv[(token, query + i)] * all_keys[(id, first(at) + i)]);
                    f64::from(scale) * products.sum::<f64>()
                })
                .collect();
            let log_sum = log_sum_exp(&scores);
            for (&(id, at), score) in seen.iter().zip(&scores) {
                for i in 0..head_dim {
                    result[(token, head * head_dim + i)] +=
                        (score - log_sum).exp() * all_values[(id, first(at) + i)];
                }
            }
        }
    }
    memory.write(keys, &all_keys);
    memory.write(values, &all_values);
    memory.write(out, &result);
}
