//! The residual connection behind a collective: what a product's epilogue does where nothing has to be joined.

use super::Cpu;
use super::math::{Act, for_act};
use super::memory::{assert_disjoint, assert_same_or_disjoint};
use crate::ResidualAdd;

/// Columns whose dropout factors are on the stack at once.
const BLOCK: usize = 64;

pub(super) fn add(cpu: &mut Cpu, add: &ResidualAdd) {
    let (x, out) = (add.x, add.out);
    assert_eq!((add.value.rows, add.value.cols), (x.rows, x.cols), "{:?} added to {x:?}", add.value);
    assert_eq!((out.rows, out.cols, out.dtype), (x.rows, x.cols, x.dtype), "{out:?} for {x:?}");
    assert_same_or_disjoint(out, x);
    assert_disjoint(&[out], &[add.value]);
    if let Some(bias) = add.bias {
        assert_eq!(bias.len(), x.cols, "bias {bias:?} of {x:?}");
        assert_disjoint(&[out], &[bias]);
    }
    for_act!(x.dtype, T => for_act!(add.value.dtype, V => add_rows::<T, V>(cpu, add)));
}

/// `out = x + dropout(value + bias)`, rounded once.
fn add_rows<T: Act, V: Act>(cpu: &mut Cpu, add: &ResidualAdd) {
    let width = add.x.cols;
    // SAFETY: `out` is `x` or overlaps nothing (checked by the caller); blocks of it are read and written
    // through slices that do not live at the same time, each by one thread.
    let (x, value, out) = unsafe {
        (cpu.arena.shared::<T>(add.x), cpu.arena.slice::<V>(add.value), cpu.arena.shared::<T>(add.out))
    };
    // SAFETY: as above.
    let bias = add.bias.map(|view| unsafe { cpu.arena.slice::<f32>(view) });
    let isa = cpu.isa;
    cpu.team.ranges(add.out.rows, 8, &|range| {
        isa.vectorize(
            #[inline(always)]
            || {
                for row in range {
                    for col in (0..width).step_by(BLOCK) {
                        let block = (width - col).min(BLOCK);
                        let start = row * width + col;
                        let mut sum = [0.0f32; BLOCK];
                        let sum = &mut sum[..block];
                        for (s, v) in sum.iter_mut().zip(&value[start..start + block]) {
                            *s = v.to_f32();
                        }
                        if let Some(bias) = bias {
                            sum.iter_mut().zip(&bias[col..col + block]).for_each(|(s, b)| *s += b);
                        }
                        if let Some(dropout) = &add.dropout {
                            let mut factors = [0.0f32; BLOCK];
                            super::dropout::factors(isa, dropout, row, col, &mut factors[..block]);
                            sum.iter_mut().zip(&factors).for_each(|(s, f)| *s *= f);
                        }
                        // SAFETY: as above.
                        for (s, x) in sum.iter_mut().zip(unsafe { x.range(start..start + block) }) {
                            *s += x.to_f32();
                        }
                        // SAFETY: as above.
                        for (s, o) in sum.iter().zip(unsafe { out.range(start..start + block) }) {
                            *o = T::from_f32(*s);
                        }
                    }
                }
            },
        );
    });
}
