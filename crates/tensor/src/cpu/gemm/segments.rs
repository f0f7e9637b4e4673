//! How the inner dimension of a product is summed: virtual shards, their segments, and pieces of those.
//!
//! ```text
//! inner     │ shard 0               │ shard 1               │ …   joined by a fixed tree: decides the bits
//! segments  │ whole, if it is short │ or 512 │ 512 │ rest   │ …   joined from left to right: decides the bits
//! pieces    │ 192 │ 192 │ rest      │ …                         one running sum: decides nothing
//! chunks    what a worker runs all its row panels over before it goes on: a piece, or several short segments
//! ```

use super::microkernel::Microkernel;
use crate::{even_shard_range, join_order};

/// Units up to which a virtual shard is one segment, and units of its segments when it is longer. Nothing but the
/// shard's own length may decide, or a rank that holds it alone would sum it differently.
const WHOLE_SHARD: usize = 1024;
const SEGMENT: usize = 512;

/// One segment of the inner dimension: units, and how many tiles its sum is joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: usize,
    pub(super) units: usize,
    pub(super) joins: usize,
}

/// The segments of an inner dimension, in order.
pub(super) fn segments(
    kernel: Microkernel,
    inner: usize,
    shards: usize,
) -> impl Iterator<Item = Segment> + Clone {
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

impl Segment {
    /// Its pieces as (units before, units), in order; the empty segment has one.
    pub(super) fn pieces(self, kernel: Microkernel) -> impl Iterator<Item = (usize, usize)> {
        let chunk = kernel.chunk().min(self.units.max(1));
        (0..self.units.max(1)).step_by(chunk).map(move |skipped| (skipped, chunk.min(self.units - skipped)))
    }
}

/// A part of a segment that a register tile runs over at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segment: Segment,
    /// Units of the segment before this piece, whose sums it continues.
    pub(super) skipped: usize,
    pub(super) units: usize,
    /// Where its tile lies on the stack.
    pub(super) level: usize,
    /// Units that a row of the left block has before the segment.
    pub(super) left: usize,
    begins_chunk: bool,
}

impl Piece {
    /// A piece of a segment that has the left block to itself.
    pub(super) const fn of_long(segment: Segment, skipped: usize, units: usize, level: usize) -> Self {
        Self { segment, skipped, units, level, left: 0, begins_chunk: true }
    }

    pub(super) const fn first(&self) -> usize {
        self.segment.first + self.skipped
    }

    /// Tiles that the sum is joined with behind this piece.
    pub(super) const fn joins(&self) -> usize {
        if self.skipped + self.units == self.segment.units { self.segment.joins } else { 0 }
    }
}

/// The pieces of an inner dimension that is run over in chunks.
pub(super) struct Pieces {
    list: [Piece; Self::MOST],
    count: usize,
}

impl Pieces {
    /// For 64 shards of [`super::SHORT_INNER`] units together, cut at every segment and every chunk.
    const MOST: usize = 64 + 32;

    pub(super) fn new(kernel: Microkernel, inner: usize, shards: usize) -> Self {
        let none = Segment { first: 0, units: 0, joins: 0 };
        let none = Piece { segment: none, skipped: 0, units: 0, level: 0, left: 0, begins_chunk: false };
        let mut pieces = Self { list: [none; Self::MOST], count: 0 };
        let (mut level, mut left, mut in_chunk) = (0, 0, 0usize);
        for segment in segments(kernel, inner, shards) {
            for (skipped, units) in segment.pieces(kernel) {
                let begins_chunk = pieces.count == 0 || in_chunk.saturating_add(units) > kernel.chunk();
                in_chunk = if begins_chunk { units } else { in_chunk + units };
                pieces.list[pieces.count] = Piece { segment, skipped, units, level, left, begins_chunk };
                pieces.count += 1;
            }
            left += kernel.left_units(segment.units);
            level = level + 1 - segment.joins;
        }
        pieces
    }

    /// As many pieces at a time as fit a chunk, one at least.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[Piece]> {
        self.list[..self.count].chunk_by(|_, next| !next.begins_chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::cpu::gemm::MAX_LEVELS;
    use crate::cpu::{Kernel, isa::Isa};

    #[test]
    fn segments_of_a_part_are_those_of_the_whole() {
        for kernel in
            [Microkernel::new(Isa::choose(Kernel::Auto).expect("one"), DType::Bf16), Microkernel::Portable]
        {
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
    fn pieces_cover_the_segments_and_chunks_stay_in_bounds() {
        let amx = Isa::choose(Kernel::Amx).ok();
        for kernel in
            [Microkernel::Portable].into_iter().chain(amx.map(|isa| Microkernel::new(isa, DType::Bf16)))
        {
            for inner in [1, 31, 768, 1024, 3000, 2048 * kernel.group()] {
                for shards in [1, 3, 8, 64] {
                    let (mut next, mut left) = (0, 0);
                    for chunk in Pieces::new(kernel, inner, shards).chunks() {
                        let units: usize = chunk.iter().map(|piece| piece.units).sum();
                        assert!(units <= kernel.chunk(), "{kernel:?} {inner} {shards}");
                        for piece in chunk {
                            assert_eq!(
                                (piece.first(), piece.left + piece.skipped),
                                (next, left + piece.skipped)
                            );
                            next += piece.units;
                            if piece.skipped + piece.units == piece.segment.units {
                                left += kernel.left_units(piece.segment.units);
                            }
                        }
                    }
                    assert_eq!(next, kernel.units(inner), "{kernel:?} {inner} {shards}");
                }
            }
        }
    }

    #[test]
    fn segments_cover_the_inner_dimension_and_join_into_one_sum() {
        for kernel in
            [Microkernel::new(Isa::choose(Kernel::Auto).expect("one"), DType::Bf16), Microkernel::Portable]
        {
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
