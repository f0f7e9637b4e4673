//! Token and position embeddings: rows gathered forward, columns summed in token order backward.

use super::Cpu;
use super::math::{Act, for_act};
use super::memory::assert_disjoint;
use crate::{Embed, EmbedBackward, View};

/// Columns handled at once, so that dropout factors and sums stay on the stack.
const BLOCK: usize = 64;

pub(super) fn forward(cpu: &mut Cpu, embed: &Embed) {
    let (table, out) = (embed.table, embed.out);
    assert_eq!(embed.tokens.len(), out.rows, "{:?} tokens for {out:?}", embed.tokens);
    assert_eq!(table.cols, out.cols, "{table:?} and {out:?} differ in width");
    assert_disjoint(&[out], &[embed.tokens, table]);
    if let Some(positions) = embed.positions {
        assert_disjoint(&[out], &[positions]);
        assert_eq!(positions.cols, out.cols, "{positions:?} and {out:?} differ in width");
        assert!(
            embed.first_position + embed.seq.min(out.rows) <= positions.rows,
            "{embed:?}: too few positions"
        );
    }
    for_act!(out.dtype, T => gather::<T>(cpu, embed));
}

fn gather<T: Act>(cpu: &mut Cpu, embed: &Embed) {
    let width = embed.out.cols;
    // SAFETY: the output does not overlap the inputs (checked by the caller); its rows are disjoint.
    let (tokens, table, out) = unsafe {
        (
            cpu.arena.slice::<u32>(embed.tokens),
            cpu.arena.slice::<f32>(embed.table),
            cpu.arena.shared::<T>(embed.out),
        )
    };
    // SAFETY: as above.
    let positions = embed.positions.map(|view| unsafe { cpu.arena.slice::<f32>(view) });
    let isa = cpu.isa;
    cpu.team.ranges(tokens.len(), 16, &|range| {
        for t in range {
            let word = (tokens[t] as usize).checked_sub(embed.vocab_start).filter(|&w| w < embed.table.rows);
            let row = word.map(|w| &table[w * width..(w + 1) * width]);
            let position = embed.first_position + t % embed.seq;
            let position = positions.map(|p| &p[position * width..(position + 1) * width]);
            // SAFETY: as above.
            let out = unsafe { out.range(t * width..(t + 1) * width) };
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let start = block * BLOCK;
                let mut values = [0.0f32; BLOCK];
                let values = &mut values[..out.len()];
                if let Some(row) = row {
                    values.copy_from_slice(&row[start..start + out.len()]);
                }
                if let Some(position) = position {
                    for (v, p) in values.iter_mut().zip(&position[start..]) {
                        *v += p;
                    }
                }
                drop_out(isa, embed.dropout.as_ref(), t, start, values);
                for (o, v) in out.iter_mut().zip(values) {
                    *o = T::from_f32(*v);
                }
            }
        }
    });
}

fn drop_out(
    isa: super::isa::Isa,
    dropout: Option<&crate::Dropout>,
    row: usize,
    col: usize,
    values: &mut [f32],
) {
    if let Some(dropout) = dropout {
        let mut factors = [0.0; BLOCK];
        super::dropout::factors(isa, dropout, row, col, &mut factors[..values.len()]);
        values.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
    }
}

pub(super) fn backward(cpu: &mut Cpu, embed: &EmbedBackward) {
    let (d_out, sums, slots) = (embed.d_out, embed.sums, embed.slots);
    assert_eq!(embed.tokens.len(), d_out.rows, "{:?} tokens for {d_out:?}", embed.tokens);
    assert_eq!(sums.cols, d_out.cols, "{sums:?} and {d_out:?} differ in width");
    assert_disjoint(&[sums, slots], &[embed.tokens, d_out]);
    if let Some(positions) = embed.d_positions {
        assert_eq!(positions.cols, d_out.cols, "{positions:?} and {d_out:?} differ in width");
        assert!(embed.seq.min(d_out.rows) <= positions.rows, "{embed:?}: too few positions");
        assert_disjoint(&[positions], &[embed.tokens, d_out, sums, slots]);
    }
    assign_slots(cpu, embed);
    for_act!(d_out.dtype, T => scatter::<T>(cpu, embed));
}

/// Gives each id of the step that has no row of `sums` yet the next free one.
fn assign_slots(cpu: &mut Cpu, embed: &EmbedBackward) {
    // SAFETY: the two views do not overlap (checked by the caller); one thread.
    let (tokens, slots) =
        unsafe { (cpu.arena.slice::<u32>(embed.tokens), cpu.arena.shared::<u32>(embed.slots)) };
    // SAFETY: as above.
    let slots = unsafe { slots.range(0..embed.slots.len()) };
    let (used, slots) = slots.split_last_mut().expect("slots hold at least the count");
    for &token in tokens {
        let slot = (token as usize).checked_sub(embed.vocab_start).and_then(|w| slots.get_mut(w));
        if let Some(slot @ 0) = slot {
            *used += 1;
            assert!(*used as usize <= embed.sums.rows, "more than {} ids in a step", embed.sums.rows);
            *slot = *used;
        }
    }
}

fn scatter<T: Act>(cpu: &mut Cpu, embed: &EmbedBackward) {
    let width = embed.d_out.cols;
    // SAFETY: outputs overlap neither each other nor inputs (checked by the caller); threads take disjoint
    // columns.
    let (tokens, d_out, slots, sums) = unsafe {
        (
            cpu.arena.slice::<u32>(embed.tokens),
            cpu.arena.slice::<T>(embed.d_out),
            cpu.arena.slice::<u32>(embed.slots),
            cpu.arena.shared::<f32>(embed.sums),
        )
    };
    // SAFETY: as above.
    let positions = embed.d_positions.map(|view| unsafe { cpu.arena.shared::<f32>(view) });
    let (isa, ids) = (cpu.isa, slots.len() - 1);
    cpu.team.run(width.div_ceil(BLOCK), &|_, block| {
        let start = block * BLOCK;
        let count = (width - start).min(BLOCK);
        for (t, &token) in tokens.iter().enumerate() {
            let mut values = [0.0f32; BLOCK];
            let values = &mut values[..count];
            for (v, d) in values.iter_mut().zip(&d_out[t * width + start..]) {
                *v = d.to_f32();
            }
            drop_out(isa, embed.dropout.as_ref(), t, start, values);
            let add = |to: super::memory::SharedMut<'_, f32>, row: usize| {
                // SAFETY: these columns belong to this item.
                let to = unsafe { to.range(row * width + start..row * width + start + count) };
                to.iter_mut().zip(&*values).for_each(|(to, v)| *to += v);
            };
            if let Some(word) = (token as usize).checked_sub(embed.vocab_start).filter(|&w| w < ids) {
                add(sums, slots[word] as usize - 1);
            }
            if let Some(positions) = positions {
                add(positions, t % embed.seq);
            }
        }
    });
}

pub(super) fn flush(cpu: &mut Cpu, slots: View, sums: View, grad: View) {
    assert_eq!(slots.len(), grad.rows + 1, "{slots:?} for {grad:?}");
    assert_eq!(sums.cols, grad.cols, "{sums:?} and {grad:?} differ in width");
    assert_disjoint(&[slots, sums, grad], &[]);
    let width = grad.cols;
    // SAFETY: the views do not overlap; an id, its row of the gradient and its row of the sums belong to one
    // thread, because no two ids share a slot.
    let (slots, sums, grad) = unsafe {
        (cpu.arena.shared::<u32>(slots), cpu.arena.shared::<f32>(sums), cpu.arena.shared::<f32>(grad))
    };
    let ids = slots.len() - 1;
    cpu.team.ranges(ids, 256, &|range| {
        // SAFETY: as above.
        for (word, slot) in range.clone().zip(unsafe { slots.range(range) }) {
            let Some(row) = (*slot as usize).checked_sub(1) else { continue };
            // SAFETY: as above.
            let (sum, to) = unsafe {
                (sums.range(row * width..(row + 1) * width), grad.range(word * width..(word + 1) * width))
            };
            to.iter_mut().zip(&*sum).for_each(|(to, s)| *to += s);
            sum.fill(0.0);
            *slot = 0;
        }
    });
    // SAFETY: as above; no thread is at work any more.
    unsafe { slots.range(ids..ids + 1) }.fill(0);
}
