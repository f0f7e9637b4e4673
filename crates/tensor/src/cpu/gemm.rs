//! Matrix products: cutting into items, packing, and running register tiles over them.
//!
//! ```text
//!  for each item = block of rows × block of column panels          (handed to workers one by one)
//!    for each group of inner segments                              (one, unless the inner dimension is long)
//!      pack the left block into this worker's own memory           (stays in L2)
//!      for each right panel, for each left panel
//!        for each segment (virtual shard): register tile, joined on the tile's stack
//!    finish every tile: epilogue, store
//! ```
//!
//! The right operand is packed beforehand: weights once per optimizer step by [`pack()`], activations here at
//! the start of the product. An element's sum depends on how its own virtual shards of the inner dimension are
//! cut, never on what the outer dimensions hold beside it or how many shards there are.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
mod epilogue;
mod microkernel;
mod pack;
mod panels;
mod segments;

pub(super) use epilogue::{Finish, Store, Tile};
pub(super) use microkernel::{MAX_TILE, Microkernel};
pub(super) use panels::Panels;

use super::Cpu;
use super::isa::Isa;
use super::math::Act;
use super::memory::{Block, overlap};
use super::team::Team;
use crate::{DType, Gemm, Operand, Packed, Quantised, View};
use half::{bf16, f16};
use pack::{Part, Source, panel};
use segments::{Piece, Pieces, Segment, segments};
use std::ops::Range;

/// Units of the inner dimension up to which a tile runs through all of it at once.
const SHORT_INNER: usize = 2048;
/// Shards of a sum, and the unfinished tiles on a stack that they need.
const MAX_SHARDS: usize = 64;
const MAX_LEVELS: usize = 8;
/// Fewest rows of a block, so that a panel of the right operand is worth fetching.
const LEAST_ROWS: usize = 32;
/// Bytes of a worker's left block: what its kernel keeps in L2, or the fewest rows (in whole panels) of the longest
/// inner dimension at once, every shard of it in whole steps.
const fn left_bytes(kernel: Microkernel) -> usize {
    let padding = MAX_SHARDS * (kernel.left_units(1) - 1);
    4 * (kernel.left_block().0 + (LEAST_ROWS + kernel.mr()) * (SHORT_INNER + padding))
}

/// Bytes of a worker's unfinished tiles: those of an item with a long inner dimension.
const fn stack_bytes(kernel: Microkernel) -> usize {
    let (rows, cols) = kernel.long_block();
    let tiles = rows.div_ceil(kernel.mr()) * cols.div_ceil(kernel.nr());
    4 * MAX_LEVELS * kernel.tile_len() * tiles
}

const fn worker_bytes(kernel: Microkernel) -> usize {
    left_bytes(kernel).next_multiple_of(64) + stack_bytes(kernel)
}

pub(super) fn packed_bytes(isa: Isa, inner: usize, outer: usize, shards: usize, dtype: DType) -> usize {
    let kernel = Microkernel::new(isa, dtype);
    4 * kernel.units(inner) * Panels::new(outer, shards, kernel.nr()).count() * kernel.nr()
}

/// For a product whose right operand, if it is a view, is packed in `shards` outer shards.
pub(super) fn scratch_bytes(cpu: &Cpu, n: usize, shards: usize, k: usize, dtype: DType) -> usize {
    packed_bytes(cpu.isa, k, n, shards, dtype).next_multiple_of(64)
        + cpu.threads() * worker_bytes(Microkernel::new(cpu.isa, dtype))
}

pub(super) fn pack(cpu: &mut Cpu, from: Operand, to: Packed) {
    assert_eq!((from.inner(), from.outer()), (to.inner, to.outer), "packing {from:?} into {to:?}");
    let bytes = packed_bytes(cpu.isa, to.inner, to.outer, to.outer_shards, to.dtype);
    assert_eq!(to.bytes, bytes, "size of {to:?}");
    let kernel = Microkernel::new(cpu.isa, to.dtype);
    let source = Source { rounded: to.dtype, ..source(&cpu.arena, from) };
    let units = Units(cpu.arena.packed(to));
    pack_panels(&mut cpu.team, kernel, &source, to.outer_shards, units);
}

/// Packs a whole operand, panel by panel. A short panel's room behind its last column holds what comes next in
/// the matrix, or zeros; nobody reads what a tile makes of it.
fn pack_panels(team: &mut Team, kernel: Microkernel, source: &Source, shards: usize, to: Units) {
    let units = kernel.units(source.inner);
    let width = kernel.nr();
    let panels = Panels::new(source.outer, shards, width);
    team.run(panels.count(), &|_, index| {
        let part = Part { first_outer: panels.columns(index).start, first_unit: 0, units, width };
        // SAFETY: panels are disjoint parts of the packed operand, which holds `units · width` for each.
        unsafe { panel(kernel, source, part, to.at(index * units * width)) };
    });
}

/// A pointer to units that workers write disjoint parts of.
#[derive(Clone, Copy)]
struct Units(*mut u32);

// SAFETY: every use writes a part of its own, see the call sites.
unsafe impl Send for Units {}
// SAFETY: as above.
unsafe impl Sync for Units {}

impl Units {
    /// # Safety
    /// The offset lies inside the memory behind the pointer.
    unsafe fn at(self, offset: usize) -> *mut u32 {
        // SAFETY: by the contract.
        unsafe { self.0.add(offset) }
    }
}

fn source(arena: &Block, operand: Operand) -> Source {
    let (view, inner_rows) = match operand {
        Operand::InnerCols(view) => (view, false),
        Operand::InnerRows(view) => (view, true),
        other => panic!("{other:?} can only be the right operand of a product"),
    };
    assert_eq!(view.offset % view.dtype.bytes(), 0, "{view:?} is not aligned");
    let (inner, outer) = (operand.inner(), operand.outer());
    let pointer = arena.pointer(view.offset, view.bytes());
    Source { pointer, dtype: view.dtype, rounded: view.dtype, inner, outer, inner_rows }
}

/// Checks that no operand of a product shares memory with a view it writes.
pub(super) fn check_disjoint(out: View, operand: Operand) {
    let read = match operand {
        Operand::InnerCols(view) | Operand::InnerRows(view) => view,
        Operand::Packed(Packed { offset, bytes, .. })
        | Operand::Quantised(Quantised { offset, bytes, .. }) => {
            View { offset, rows: 1, cols: bytes.div_ceil(4), dtype: DType::F32 }
        }
    };
    assert!(!overlap(out, read), "{out:?} overlaps the operand {read:?}");
}

pub(super) fn run(cpu: &mut Cpu, gemm: &Gemm) {
    check_disjoint(gemm.out, gemm.left);
    check_disjoint(gemm.out, gemm.right);
    match (gemm.left.dtype(), gemm.out.dtype) {
        (DType::F32, DType::F32) => store::<f32, f32>(cpu, gemm),
        (DType::Bf16, DType::Bf16) => store::<bf16, bf16>(cpu, gemm),
        (DType::Bf16, DType::F32) => store::<bf16, f32>(cpu, gemm),
        (DType::F16, DType::F16) => store::<f16, f16>(cpu, gemm),
        (DType::F16, DType::F32) => store::<f16, f32>(cpu, gemm),
        (operands, out) => panic!("a product of {operands} operands cannot be stored as {out}"),
    }
}

fn store<T: Act, O: Act>(cpu: &mut Cpu, gemm: &Gemm) {
    let Cpu { team, isa, arena, scratch } = cpu;
    let place = Place { team, isa: *isa, arena, scratch };
    let finish = Store::<T, O>::new(*isa, arena, gemm);
    let outer_shards = if let Operand::Packed(packed) = gemm.right { packed.outer_shards } else { 1 };
    product(place, gemm.left, gemm.right, Shards { inner: gemm.inner_shards, outer: outer_shards }, &finish);
}

/// Where a product runs: the device, taken apart so that a finish can hold views of the arena.
pub(super) struct Place<'a> {
    pub(super) team: &'a mut Team,
    pub(super) isa: Isa,
    pub(super) arena: &'a Block,
    pub(super) scratch: &'a Block,
}

/// Virtual shards of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shards {
    /// Of the sums.
    pub(super) inner: usize,
    /// Of the columns; panels begin at their borders. A packed operand was packed in as many.
    pub(super) outer: usize,
}

/// Runs `left · right`, handing every finished tile to `finish`.
pub(super) fn product(place: Place<'_>, left: Operand, right: Operand, shards: Shards, finish: &impl Finish) {
    let (m, n, inner) = (left.outer(), right.outer(), left.inner());
    assert_eq!(inner, right.inner(), "inner dimensions of {left:?} and {right:?}");
    assert_eq!(left.dtype(), right.dtype(), "dtypes of {left:?} and {right:?}");
    assert!(
        (1..=MAX_SHARDS).contains(&shards.inner),
        "a sum is made in 1 to {MAX_SHARDS} shards, not {}",
        shards.inner
    );
    let Place { team, isa, arena, scratch } = place;
    let kernel = Microkernel::new(isa, left.dtype());
    let left = source(arena, left);
    let threads = team.threads();
    let units = kernel.units(inner);

    let workers_bytes = threads * worker_bytes(kernel);
    let (right, own) = match right {
        Operand::Packed(packed) => {
            assert_eq!(packed.outer_shards, shards.outer, "outer shards of {packed:?}");
            let bytes = packed_bytes(isa, inner, n, shards.outer, packed.dtype);
            assert_eq!(packed.bytes, bytes, "size of {packed:?}");
            (Units(arena.packed(packed)), 0)
        }
        view => {
            let bytes = packed_bytes(isa, inner, n, shards.outer, view.dtype()).next_multiple_of(64);
            let source = source(arena, view);
            let units = Units(scratch.pointer(workers_bytes, bytes).cast());
            pack_panels(team, kernel, &source, shards.outer, units);
            (units, bytes)
        }
    };
    // Both the workers' part and the packed operand were asked for by `scratch_bytes`.
    let workers = Units(scratch.pointer(0, workers_bytes + own).cast());

    let panels = Panels::new(n, shards.outer, kernel.nr());
    let count = panels.count();
    let left_units = segments(kernel, inner, shards.inner).map(|s| kernel.left_units(s.units)).sum();
    let plan = Cut::new(kernel, m, count, (units, left_units), shards.inner, threads);
    team.run(plan.row_blocks * plan.panel_blocks, &|worker, item| {
        // SAFETY: every worker has its own part of the scratch memory.
        let own = unsafe { workers.at(worker * worker_bytes(kernel) / 4) };
        let item = Item {
            kernel,
            left: &left,
            right,
            units,
            inner,
            shards: shards.inner,
            columns: panels,
            rows: block(m, plan.rows, item / plan.panel_blocks),
            panels: block(count, plan.panels, item % plan.panel_blocks),
            left_block: own,
            // SAFETY: the stacks lie behind the left block in the worker's part.
            stacks: unsafe { own.add((worker_bytes(kernel) - stack_bytes(kernel)) / 4).cast() },
        };
        // SAFETY: the kernel was chosen for this machine.
        let _set_up = unsafe { kernel.set_up() };
        if units <= SHORT_INNER { item.short(isa, finish) } else { item.long(isa, finish) }
    });
}

fn block(len: usize, size: usize, index: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(len)
}

/// How the outer dimensions are cut into items.
struct Cut {
    rows: usize,
    panels: usize,
    row_blocks: usize,
    panel_blocks: usize,
}

impl Cut {
    fn new(
        kernel: Microkernel,
        m: usize,
        panels: usize,
        (units, left_units): (usize, usize),
        shards: usize,
        threads: usize,
    ) -> Self {
        let long = units > SHORT_INNER;
        let (mr, nr) = (kernel.mr(), kernel.nr());
        let (block_units, block_rows) = kernel.left_block();
        let (long_rows, long_cols) = kernel.long_block();
        let most_rows =
            if long { long_rows } else { (block_units / left_units.max(1)).clamp(LEAST_ROWS, block_rows) };
        // Rather several blocks of rows than several of panels, since the left block is packed anew for each of those;
        // unless the right operand is so large that it comes from afar for each block of rows.
        let fair_rows = m.div_ceil(4 * threads).max(kernel.fewest_rows(4 * units * panels * nr));
        let most_rows = most_rows.min(fair_rows);
        let rows = (m.div_ceil(m.div_ceil(most_rows).max(1))).next_multiple_of(mr).max(mr);
        let row_blocks = m.div_ceil(rows);
        let levels = if long { shards.ilog2() as usize + 2 } else { 1 };
        debug_assert!(levels <= MAX_LEVELS && rows <= most_rows + mr);
        // Enough items for every worker to stay busy, but wide enough to repay packing the left block.
        let wanted = (kernel.items() * threads).div_ceil(row_blocks.max(1)).max(1);
        let least = (384 / nr).min(panels);
        let mut per_item = panels.div_ceil(wanted).max(least).max(1);
        if m <= 2 * mr {
            // Few rows (decoding): packing the left block costs nothing, balance counts.
            per_item = panels.div_ceil(4 * threads).max(1);
        }
        if long {
            per_item = per_item.min(long_cols / nr);
        }
        Self { rows, panels: per_item, row_blocks, panel_blocks: panels.div_ceil(per_item) }
    }
}

/// One worker's piece of a product.
struct Item<'a> {
    kernel: Microkernel,
    left: &'a Source,
    right: Units,
    units: usize,
    inner: usize,
    shards: usize,
    columns: Panels,
    rows: Range<usize>,
    /// Right panels.
    panels: Range<usize>,
    left_block: *mut u32,
    stacks: *mut f32,
}

impl Item<'_> {
    /// Packs a segment of the item's rows.
    fn pack_left(&self, segment: Segment, to: *mut u32) {
        let mr = self.kernel.mr();
        let row_panels = self.rows.len().div_ceil(mr);
        let part =
            Part { first_outer: self.rows.start, first_unit: segment.first, units: segment.units, width: mr };
        let end = to.wrapping_add(row_panels * self.left_panel(segment));
        debug_assert!(end.addr() - self.left_block.addr() <= left_bytes(self.kernel));
        // SAFETY: the worker's left block has room for the item's rows (asserted above).
        unsafe { pack::panels(self.kernel, self.left, part, row_panels, to) };
    }

    /// Units of a row panel of a segment in the left block.
    fn left_panel(&self, segment: Segment) -> usize {
        self.kernel.left_units(segment.units) * self.kernel.mr()
    }

    /// A right panel at a unit.
    ///
    /// # Safety
    /// Both are inside the operand.
    unsafe fn right_at(&self, panel: usize, unit: usize) -> *const u32 {
        // SAFETY: by the contract.
        unsafe { self.right.at((panel * self.units + unit) * self.kernel.nr()) }
    }

    /// What to bring nearer while row panel `index` runs over a piece: a part of the next right panel, so that
    /// the first few row panels fetch all of it.
    fn ahead(&self, panel: usize, index: usize, piece: &Piece) -> *const u8 {
        let next = self.right.0.wrapping_add(((panel + 1) * self.units + piece.first()) * self.kernel.nr());
        let bytes = self.kernel.bytes_ahead(piece.units);
        let parts = (piece.units * self.kernel.nr() * 4).div_ceil(bytes.max(1));
        next.cast::<u8>().wrapping_add(index.min(parts.saturating_sub(1)) * bytes).cast_const()
    }

    /// Runs a tile over a piece, whose own row panel of its segment begins at `left`.
    ///
    /// # Safety
    /// The segment was packed at `left`, and `stack` has room for the piece's level.
    #[inline(always)]
    unsafe fn run(&self, piece: &Piece, left: *const u32, (panel, index): (usize, usize), stack: *mut f32) {
        let ahead = self.ahead(panel, index, piece);
        // SAFETY: operands hold the piece, the stack its tile, by the contract.
        unsafe {
            let a = left.add(piece.skipped * self.kernel.mr());
            let b = self.right_at(panel, piece.first());
            let top = stack.add(piece.level * self.kernel.tile_len());
            self.kernel.tile(piece.units, a, b, top, piece.skipped > 0, piece.joins(), ahead);
        }
    }

    /// The left block of the whole inner dimension at once, `[segment][row panel]`, chunk by chunk. With one chunk,
    /// unfinished tiles live on one small stack in L1, else every row panel has its own.
    fn short(&self, isa: Isa, finish: &impl Finish) {
        let mr = self.kernel.mr();
        let row_panels = self.rows.len().div_ceil(mr);
        let all = Pieces::new(self.kernel, self.inner, self.shards);
        let left_of = |piece: &Piece| {
            // SAFETY: the left block holds all segments one behind the other.
            unsafe { self.left_block.add(piece.left * row_panels * mr) }
        };
        for piece in all.chunks().flatten().filter(|piece| piece.skipped == 0) {
            self.pack_left(piece.segment, left_of(piece));
        }
        let one_chunk = self.units <= self.kernel.chunk();
        let levels = if one_chunk { 0 } else { self.shards.ilog2() as usize + 2 };
        for panel in self.panels.clone() {
            let cols = self.columns.columns(panel);
            for (number, chunk) in all.chunks().enumerate() {
                let ends = chunk.last().is_some_and(|piece| piece.first() + piece.units == self.units);
                for (index, row) in self.rows.clone().step_by(mr).enumerate() {
                    // SAFETY: the worker has a stack for every row panel.
                    let stack = unsafe { self.stacks.add(index * levels * self.kernel.tile_len()) };
                    if number == 0 {
                        finish.prepare(row, cols.start, mr.min(self.rows.end - row));
                    }
                    for piece in chunk {
                        // SAFETY: all segments were packed; the stack holds log2(shards) + 2 levels.
                        unsafe {
                            let left = left_of(piece).add(index * self.left_panel(piece.segment));
                            self.run(piece, left, (panel, index), stack);
                        }
                    }
                    if ends {
                        self.finish_tile(isa, finish, stack, row, panel, cols.clone());
                    }
                }
            }
        }
    }

    /// Segment by segment: every tile of the item keeps its own stack in memory.
    fn long(&self, isa: Isa, finish: &impl Finish) {
        let mr = self.kernel.mr();
        let stack_len = (self.shards.ilog2() as usize + 2) * self.kernel.tile_len();
        let row_panels = self.rows.len().div_ceil(mr);
        let mut level = 0;
        for segment in segments(self.kernel, self.inner, self.shards) {
            self.pack_left(segment, self.left_block);
            for (column, panel) in self.panels.clone().enumerate() {
                for (skipped, units) in segment.pieces(self.kernel) {
                    let piece = Piece::of_long(segment, skipped, units, level);
                    for index in 0..row_panels {
                        // SAFETY: the segment was packed; the worker has a stack for every tile of the item.
                        unsafe {
                            let stack = self.stacks.add((column * row_panels + index) * stack_len);
                            let left = self.left_block.add(index * self.left_panel(segment));
                            self.run(&piece, left, (panel, index), stack);
                        }
                    }
                }
            }
            level = level + 1 - segment.joins;
        }
        for (column, panel) in self.panels.clone().enumerate() {
            for (index, row) in self.rows.clone().step_by(mr).enumerate() {
                // SAFETY: this tile's own stack.
                let stack = unsafe { self.stacks.add((column * row_panels + index) * stack_len) };
                self.finish_tile(isa, finish, stack, row, panel, self.columns.columns(panel));
            }
        }
    }

    fn finish_tile(
        &self,
        isa: Isa,
        finish: &impl Finish,
        values: *mut f32,
        row: usize,
        panel: usize,
        cols: Range<usize>,
    ) {
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        // SAFETY: one finished tile, written by the kernel.
        let values = unsafe { std::slice::from_raw_parts_mut(values, mr * nr) };
        let tile = Tile {
            values,
            stride: nr,
            row,
            rows: mr.min(self.rows.end - row),
            panel,
            col: cols.start,
            cols: cols.len(),
        };
        isa.vectorize(
            #[inline(always)]
            || finish.finish(tile),
        );
    }
}
