//! Products with quantised weights, on the packed form, for one row or a thousand by the same arithmetic:
//!
//! ```text
//! x ──▶ int8, scale a (groups of 32)          weights: codes c, scale s, minimum m (groups of 32 or 16)
//!            └──────────────▶ y += (Σ x̂ · (c - zero)) · (s · a) + m · (a · Σ x̂)      group after group
//! ```
//!
//! Integer sums are exact; each output element is one chain of f32 multiply-adds over the groups in order, so
//! a row's bits depend on the row alone: not on the other rows, the threads or the tile. Rounding x is the
//! one approximation: at most `max |x| / 254` an element of its group. Up to [`FEW`] rows read 4-bit codes
//! as they lie in memory, which is what bounds decoding; more rows unpack a pair of panels once, and sixteen at a
//! time go through tiles of bytes (`amx.rs`) where the machine has them.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod layout;
mod plain;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod wide_rounding;

use super::Cpu;
use super::gemm::{self, Finish, Store, Tile};
use super::isa::Isa;
use super::math::{Act, for_act};
use super::memory::SharedMut;
use crate::{Coding, DType, Gemm, Operand, Quantised};
use activations::{Activations, Rounded};
use layout::{Form, LANES, PANELS, Weights};

/// Rows up to which 4-bit codes are unpacked in registers, again for each tile of rows.
const FEW: usize = 8;
/// Panels that are unpacked together.
const PAIR: usize = 2;
/// Rows of the tallest tile.
const MOST_ROWS: usize = 6;
/// Most super-panels that one worker takes in a row.
const LONGEST: usize = 8;

pub(super) use layout::bytes;

/// Bytes of unpacked codes of a pair of panels.
const fn unpacked_bytes(inner: usize) -> usize {
    PAIR * inner.div_ceil(32) * 512
}

pub(super) fn scratch_bytes(cpu: &Cpu, m: usize, k: usize, coding: Coding) -> usize {
    Rounded::bytes(m, k, coding.group()).next_multiple_of(64) + cpu.threads() * unpacked_bytes(k)
}

pub(super) fn upload(cpu: &mut Cpu, to: Quantised, blocks: &[u8]) {
    let row = to.coding.row_bytes(to.inner);
    assert_eq!(blocks.len(), to.outer * row, "blocks of {to:?}");
    assert_eq!(to.bytes, bytes(to.inner, to.outer, to.coding), "size of {to:?}");
    let (size, memory) = (layout::super_bytes(to.inner, to.coding), memory(cpu, to));
    cpu.team.run(to.outer.div_ceil(PANELS * LANES), &|_, index| {
        // SAFETY: super-panels are disjoint parts of the matrix.
        let part = unsafe { memory.range(index * size..(index + 1) * size) };
        let first = index * PANELS * LANES;
        let rows = &blocks[first * row..(first + PANELS * LANES).min(to.outer) * row];
        layout::pack(to.inner, to.coding, rows, part);
    });
}

fn memory(cpu: &Cpu, matrix: Quantised) -> SharedMut<'static, u8> {
    assert_eq!(matrix.offset % 64, 0, "{matrix:?} starts inside a cache line");
    // SAFETY: the arena is touched through the device alone, which `run` and `upload` hold for their whole call.
    unsafe { cpu.arena.bytes_of(matrix.offset, matrix.bytes) }
}

pub(super) fn run(cpu: &mut Cpu, gemm: &Gemm, matrix: Quantised) {
    gemm::check_disjoint(gemm.out, gemm.left);
    gemm::check_disjoint(gemm.out, gemm.right);
    let Operand::InnerCols(left) = gemm.left else {
        panic!("{:?} must be stored row by row for a product with {matrix:?}", gemm.left);
    };
    assert_eq!(left.cols, matrix.inner, "inner dimensions of {left:?} and {matrix:?}");
    for_act!(left.dtype, T => match gemm.out.dtype {
        DType::F32 => typed::<T, f32>(cpu, gemm, matrix),
        dtype if dtype == left.dtype => typed::<T, T>(cpu, gemm, matrix),
        other => panic!("a product of {} rows cannot be stored as {other}", left.dtype),
    });
}

fn typed<T: Act, O: Act>(cpu: &mut Cpu, gemm: &Gemm, matrix: Quantised) {
    let (m, inner, coding) = (gemm.left.outer(), matrix.inner, matrix.coding);
    let finish = Store::<T, O>::new(cpu.isa, &cpu.arena, gemm);
    let memory = memory(cpu, matrix);
    let rounded = Rounded::place(&cpu.scratch, m, inner, coding.group());
    let start = Rounded::bytes(m, inner, coding.group()).next_multiple_of(64);
    let own = unpacked_bytes(inner);
    // SAFETY: nobody else uses the scratch memory during an operation; it lies behind the rounded rows.
    let work = unsafe { cpu.scratch.bytes_of(start, cpu.threads() * own) };

    let Operand::InnerCols(left) = gemm.left else { unreachable!("checked by the caller") };
    // SAFETY: the left operand is not written by this operation (checked by the caller).
    let x = unsafe { cpu.arena.slice::<T>(left) };
    let isa = cpu.isa;
    cpu.team.ranges(m, 8, &|rows| {
        for row in rows {
            isa.vectorize(
                #[inline(always)]
                || rounded.round(isa, row, &x[row * inner..(row + 1) * inner]),
            );
        }
    });

    let product = Product { isa, rows: m, outer: matrix.outer, inner, coding, rounded: rounded.read() };
    let supers = matrix.outer.div_ceil(PANELS * LANES);
    let size = layout::super_bytes(inner, coding);
    // Long items read memory in one stream; short ones share out what is left, and keep tiles tall.
    let threads = cpu.threads();
    let long = if m <= 2 { supers / threads * threads } else { 0 };
    let run = (long / (2 * threads)).clamp(1, LONGEST);
    let (runs, short) = (long.div_ceil(run), (supers - long) * (PANELS / PAIR));
    cpu.team.run(runs + short, &|worker, item| {
        let (indices, panels) = match item.checked_sub(runs) {
            None => (item * run..((item + 1) * run).min(long), 0..PANELS),
            Some(item) => {
                let (index, first) = (long + item / (PANELS / PAIR), item % (PANELS / PAIR) * PAIR);
                (index..index + 1, first..first + PAIR)
            }
        };
        // SAFETY: this worker's part.
        let work = unsafe { work.range(worker * own..(worker + 1) * own) };
        for index in indices {
            // SAFETY: nobody writes the matrix during the product.
            let part = unsafe { memory.range(index * size..(index + 1) * size) };
            product.item(part, index, panels.clone(), work, &finish);
        }
    });
}

/// What all items of a product share.
struct Product<'a> {
    isa: Isa,
    rows: usize,
    outer: usize,
    inner: usize,
    coding: Coding,
    rounded: Activations<'a>,
}

impl Product<'_> {
    /// All rows of some panels of super-panel `index`.
    fn item(
        &self,
        part: &[u8],
        index: usize,
        panels: std::ops::Range<usize>,
        work: &mut [u8],
        finish: &impl Finish,
    ) {
        let mut form = Form::of(self.coding);
        let mut weights = Weights::new(part, self.inner, form, panels.start);
        if form.nibbles && self.rows > FEW {
            self.isa.vectorize(
                #[inline(always)]
                || layout::unpack(part, self.inner, panels.start, work),
            );
            form.nibbles = false;
            weights.unpacked(work);
        }
        let width = panels.len() * LANES;
        let col = (index * PANELS + panels.start) * LANES;
        if col >= self.outer {
            return;
        }
        let mut values = Values([0.0; MOST_ROWS * PANELS * LANES]);
        let mut row = self.tall_tiles(form, &weights, (col, panels.len()), &mut values, finish);
        while row < self.rows {
            let rows = match self.rows - row {
                1 => 1,
                2 | 3 => 2,
                4 | 5 | 8 => 4,
                _ => MOST_ROWS,
            };
            let values = &mut values.0[..rows * width];
            tile(self.isa, form, &weights, &self.rounded, (row, rows), panels.len(), values);
            let cols = width.min(self.outer - col);
            let tile = Tile { values, stride: width, panel: col / LANES, row, rows, col, cols };
            self.isa.vectorize(
                #[inline(always)]
                || finish.finish(tile),
            );
            row += rows;
        }
    }
}

impl Product<'_> {
    /// Sixteen rows at a time, where the machine has tiles of bytes; the number of rows that are done.
    #[cfg(target_arch = "x86_64")]
    fn tall_tiles(
        &self,
        form: Form,
        weights: &Weights<'_>,
        (first, panels): (usize, usize),
        values: &mut Values,
        finish: &impl Finish,
    ) -> usize {
        let fits = form.parts == 1 && !form.nibbles && self.rows >= amx::ROWS;
        if !fits || self.isa != Isa::Amx {
            return 0;
        }
        // SAFETY: the device runs on tile registers only where they are available.
        let mut tiles = unsafe { amx::Tiles::new() };
        let values = values.0.first_chunk_mut().expect("a tile of sixteen rows and one panel is no larger");
        let done = self.rows / amx::ROWS * amx::ROWS;
        for row in (0..done).step_by(amx::ROWS) {
            for (panel, col) in (first..self.outer).step_by(LANES).take(panels).enumerate() {
                tiles.product(form, weights, &self.rounded, row, panel, values);
                let cols = LANES.min(self.outer - col);
                let tile = Tile {
                    values: &mut *values,
                    stride: LANES,
                    panel: col / LANES,
                    row,
                    rows: amx::ROWS,
                    col,
                    cols,
                };
                self.isa.vectorize(
                    #[inline(always)]
                    || finish.finish(tile),
                );
            }
        }
        done
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn tall_tiles(
        &self,
        _form: Form,
        _weights: &Weights<'_>,
        _panels: (usize, usize),
        _values: &mut Values,
        _finish: &impl Finish,
    ) -> usize {
        0
    }
}

#[repr(align(64))]
struct Values([f32; MOST_ROWS * PANELS * LANES]);

/// `values[rows][panels · LANES]` of some rows.
fn tile(
    isa: Isa,
    form: Form,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    rows: (usize, usize),
    panels: usize,
    values: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Amx | Isa::Avx512 | Isa::Avx512Bf16)
        && std::arch::is_x86_feature_detected!("avx512vnni")
    {
        // SAFETY: the machine has the instructions; weights and rows hold what their makers checked.
        return unsafe { vnni::tile(form, weights, rounded, rows, panels, values) };
    }
    plain::tile(isa, form, weights, rounded, rows, panels, values);
}
