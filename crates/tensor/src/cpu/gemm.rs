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

pub(super) use epilogue::{Finish, Store, Tile};
pub(super) use microkernel::Microkernel;
pub(super) use panels::Panels;

use super::Cpu;
use super::isa::Isa;
use super::math::Act;
use super::memory::{Block, overlap};
use super::team::Team;
use crate::{DType, Gemm, Operand, Packed, Quantised, View, even_shard_range, join_order};
use half::{bf16, f16};
use microkernel::MAX_TILE;
use pack::{Part, Source, panel};
use std::ops::Range;

/// Units of the inner dimension up to which a tile runs through all of it at once.
const SHORT_INNER: usize = 2048;
/// Units up to which a virtual shard is one segment, and units of its segments when it is longer. Nothing but the
/// shard's own length may decide, or a rank that holds it alone would sum it differently.
const WHOLE_SHARD: usize = 1024;
const SEGMENT: usize = 512;
/// Bounds of an item with a long inner dimension, whose unfinished tiles are kept in memory.
const LONG_ROWS: usize = 128;
const LONG_COLS: usize = 768;
/// Shards of a sum, and the unfinished tiles on a stack that they need.
const MAX_SHARDS: usize = 64;
const MAX_LEVELS: usize = 8;
/// Fewest rows of a block, so that a panel of the right operand is worth fetching.
const LEAST_ROWS: usize = 32;
/// Bytes of a worker's unfinished tiles; the last row panel may stick out.
const STACK_BYTES: usize = 4 * MAX_LEVELS * (LONG_ROWS + 8) * LONG_COLS;

/// Bytes of a worker's left block: what its kernel keeps in L2, or the fewest rows (in whole panels) of the longest
/// inner dimension at once, every shard of it in whole steps.
const fn left_bytes(kernel: Microkernel) -> usize {
    let padding = MAX_SHARDS * (kernel.left_units(1) - 1);
    4 * (kernel.left_block().0 + (LEAST_ROWS + kernel.mr()) * (SHORT_INNER + padding))
}

const fn worker_bytes(kernel: Microkernel) -> usize {
    left_bytes(kernel).next_multiple_of(64) + STACK_BYTES
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
    let finish = Store::<T, O>::new(arena, gemm);
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

/// One segment of the inner dimension: units, and how many tiles its sum is joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    first: usize,
    units: usize,
    joins: usize,
}

/// The segments of an inner dimension, in order.
fn segments(kernel: Microkernel, inner: usize, shards: usize) -> impl Iterator<Item = Segment> {
    (0..shards).flat_map(move |shard| {
        let elements = even_shard_range(inner, shards, shard);
        let (start, end) = (elements.start / kernel.group(), kernel.units(elements.end));
        let limit = if end - start <= WHOLE_SHARD { WHOLE_SHARD } else { SEGMENT };
        let blocks = (end - start).div_ceil(limit).max(1);
        (0..blocks).map(move |block| {
            let first = start + block * limit;
            let inside = usize::from(block > 0);
            let across = if block + 1 == blocks { join_order(shards, shard) } else { 0 };
            Segment { first, units: limit.min(end - first), joins: inside + across }
        })
    })
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
    let plan = Cut::new(kernel, m, count, left_units, shards.inner, units > SHORT_INNER, threads);
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
            stacks: unsafe { own.add((worker_bytes(kernel) - STACK_BYTES) / 4).cast() },
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
        left_units: usize,
        shards: usize,
        long: bool,
        threads: usize,
    ) -> Self {
        let (mr, nr) = (kernel.mr(), kernel.nr());
        let (block_units, block_rows) = kernel.left_block();
        let most_rows =
            if long { LONG_ROWS } else { (block_units / left_units.max(1)).clamp(LEAST_ROWS, block_rows) };
        let rows = (m.div_ceil(m.div_ceil(most_rows).max(1))).next_multiple_of(mr).max(mr);
        let row_blocks = m.div_ceil(rows);
        let levels = if long { shards.ilog2() as usize + 2 } else { 1 };
        debug_assert!(levels <= MAX_LEVELS && rows <= most_rows + mr);
        // Enough items for every worker to stay busy, but wide enough to repay packing the left block.
        let wanted = (6 * threads).div_ceil(row_blocks.max(1)).max(1);
        let least = (384 / nr).min(panels);
        let mut per_item = panels.div_ceil(wanted).max(least).max(1);
        if m <= 2 * mr {
            // Few rows (decoding): packing the left block costs nothing, balance counts.
            per_item = panels.div_ceil(4 * threads).max(1);
        }
        if long {
            per_item = per_item.min(LONG_COLS / nr);
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
    /// Packs a segment of the item's rows, and says where the next one may begin.
    fn pack_left(&self, segment: Segment, to: *mut u32) -> *mut u32 {
        let mr = self.kernel.mr();
        let row_panels = self.rows.len().div_ceil(mr);
        let part = Part { first_outer: self.rows.start, first_unit: segment.first, units: segment.units, width: mr };
        let end = to.wrapping_add(row_panels * self.left_panel(segment));
        debug_assert!(end.addr() - self.left_block.addr() <= left_bytes(self.kernel));
        // SAFETY: the worker's left block has room for the item's rows (asserted above).
        unsafe { pack::panels(self.kernel, self.left, part, row_panels, to) };
        end
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

    /// What to bring nearer while row panel `index` runs over a segment: a part of the next right panel, so that
    /// the first few row panels fetch all of it.
    fn ahead(&self, panel: usize, index: usize, segment: Segment) -> *const u8 {
        let next = self.right.0.wrapping_add(((panel + 1) * self.units + segment.first) * self.kernel.nr());
        let bytes = self.kernel.bytes_ahead(segment.units);
        let parts = (segment.units * self.kernel.nr() * 4).div_ceil(bytes.max(1));
        next.cast::<u8>().wrapping_add(index.min(parts.saturating_sub(1)) * bytes).cast_const()
    }

    /// The whole inner dimension at once: unfinished tiles live on one small stack in L1.
    fn short(&self, isa: Isa, finish: &impl Finish) {
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        let tile = mr * nr;
        let mut stack = [const { TileMemory([0.0; MAX_TILE]) }; MAX_LEVELS];
        let stack = stack.as_mut_ptr().cast::<f32>();
        let mut to = self.left_block;
        for segment in segments(self.kernel, self.inner, self.shards) {
            to = self.pack_left(segment, to);
        }
        let row_panels = self.rows.len().div_ceil(mr);
        for panel in self.panels.clone() {
            let cols = self.columns.columns(panel);
            for (index, row) in self.rows.clone().step_by(mr).enumerate() {
                let (mut level, mut left) = (0, self.left_block.cast_const());
                finish.prepare(row, cols.start, mr.min(self.rows.end - row));
                for segment in segments(self.kernel, self.inner, self.shards) {
                    let ahead = self.ahead(panel, index, segment);
                    // SAFETY: operands hold the segment; the stack holds at most log2(shards) + 2 levels.
                    unsafe {
                        let a = left.add(index * self.left_panel(segment));
                        left = left.add(row_panels * self.left_panel(segment));
                        let b = self.right_at(panel, segment.first);
                        self.kernel.tile(segment.units, a, b, stack.add(level * tile), segment.joins, ahead);
                    }
                    level = level + 1 - segment.joins;
                }
                self.finish_tile(isa, finish, stack, row, panel, cols.clone());
            }
        }
    }

    /// Segment by segment: every tile of the item keeps its own stack in memory.
    fn long(&self, isa: Isa, finish: &impl Finish) {
        let (mr, nr) = (self.kernel.mr(), self.kernel.nr());
        let tile = mr * nr;
        let stack_len = (self.shards.ilog2() as usize + 2) * tile;
        let row_panels = self.rows.len().div_ceil(mr);
        let mut level = 0;
        for segment in segments(self.kernel, self.inner, self.shards) {
            self.pack_left(segment, self.left_block);
            for (column, panel) in self.panels.clone().enumerate() {
                for index in 0..row_panels {
                    let ahead = self.ahead(panel, index, segment);
                    // SAFETY: operands hold the segment; the worker has a stack for every tile of the item.
                    unsafe {
                        let a = self.left_block.add(index * self.left_panel(segment));
                        let b = self.right_at(panel, segment.first);
                        let top = self.stacks.add((column * row_panels + index) * stack_len + level * tile);
                        self.kernel.tile(segment.units, a, b, top, segment.joins, ahead);
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

/// A tile on a cache line of its own.
#[repr(align(64))]
struct TileMemory<const N: usize>([f32; N]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_a_part_are_those_of_the_whole() {
        for kernel in [
            Microkernel::new(Isa::choose(super::super::Kernel::Auto).expect("one"), DType::Bf16),
            Microkernel::Portable,
        ] {
            for inner in [5, 769, 3071, 8200, 12_288, 16_400, 50_257] {
                let whole: Vec<usize> = segments(kernel, inner, 8).map(|segment| segment.units).collect();
                for ranks in [2, 4, 8] {
                    let parts = (0..ranks).map(|rank| even_shard_range(inner, ranks, rank).len());
                    let units = parts.flat_map(|part| segments(kernel, part, 8 / ranks)).map(|s| s.units);
                    assert!(units.eq(whole.iter().copied()), "{kernel:?} {inner} over {ranks} ranks");
                }
            }
        }
    }

    #[test]
    fn segments_cover_the_inner_dimension_and_join_into_one_sum() {
        for kernel in [
            Microkernel::new(Isa::choose(super::super::Kernel::Auto).expect("one"), DType::Bf16),
            Microkernel::Portable,
        ] {
            for inner in [1, 2, 3, 15, 16, 17, 768, 3071, 4097, 8200, 50_304] {
                for shards in [1, 2, 3, 8, 64] {
                    let (mut next, mut level, mut highest) = (0, 0, 0);
                    for segment in segments(kernel, inner, shards) {
                        assert_eq!(segment.first, next, "{kernel:?} {inner} {shards}");
                        next += segment.units;
                        level += 1;
                        highest = highest.max(level);
                        level -= segment.joins;
                    }
                    assert_eq!((next, level), (kernel.units(inner), 1), "{kernel:?} {inner} {shards}");
                    assert!(highest <= shards.ilog2() as usize + 2 && highest <= MAX_LEVELS);
                }
            }
        }
    }
}
