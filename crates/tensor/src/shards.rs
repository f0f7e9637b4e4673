//! Virtual shards: every sum that a parallel layout may later split is made in a fixed number of shards,
//! each summed on its own, then joined by a fixed binary tree:
//!
//! ```text
//! shard   0   1   2   3   4   5   6   7
//!         └─+─┘   └─+─┘   └─+─┘   └─+─┘
//!           └───+───┘       └───+───┘
//!               └───────+───────┘
//! ```
//!
//! A rank of a tensor group of size t (a power of two dividing the shards) holds a whole subtree, so its
//! partial sum is a node of the same tree and the group's all-reduce finishes it: same bits as one rank.

//!
//! What is cut is halved and halved again, so that any `len` keeps the law that makes this true:
//! shard `i` of the part `shard_range(len, t, r)` is shard `r · shards / t + i` of the whole.

use std::ops::Range;

/// Elements of shard `index` when `len` elements are cut into `shards` parts, whose sizes differ by at most one
/// when `shards` is a power of two. Also the part of rank `index` in a group of `shards`.
pub fn shard_range(len: usize, shards: usize, index: usize) -> Range<usize> {
    debug_assert!(index < shards);
    let (mut start, mut len, mut shards, mut index) = (0, len, shards, index);
    while shards.is_multiple_of(2) {
        shards /= 2;
        let half = len / 2;
        if index < shards {
            len = half;
        } else {
            (start, len, index) = (start + half, len - half, index - shards);
        }
    }
    start + len * index / shards..start + len * (index + 1) / shards
}

/// [`shard_range`] with cuts at even elements only, so that a pair of bf16 never straddles two shards: how the
/// inner dimension of a product and the vocabulary are cut, over virtual shards and over ranks alike.
pub fn even_shard_range(len: usize, shards: usize, index: usize) -> Range<usize> {
    let pairs = shard_range(len.div_ceil(2), shards, index);
    (2 * pairs.start).min(len)..(2 * pairs.end).min(len)
}

/// After shard `index` is summed, how many finished neighbours on the stack it is joined with: the number
/// of trailing ones of `index`; after the last shard all that is left is joined, newest first.
pub fn join_order(shards: usize, index: usize) -> usize {
    let pairs = index.trailing_ones() as usize;
    if index + 1 == shards { index.count_ones() as usize } else { pairs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_everything_once() {
        for len in 0..40 {
            for shards in 1..10 {
                for cut in [shard_range, even_shard_range] {
                    let covered: Vec<usize> = (0..shards).flat_map(|i| cut(len, shards, i)).collect();
                    assert_eq!(covered, (0..len).collect::<Vec<_>>());
                }
                assert!(
                    (1..shards)
                        .all(|i| even_shard_range(len, shards, i).start.min(len - len % 2).is_multiple_of(2))
                );
            }
        }
    }

    #[test]
    fn shards_of_a_part_are_shards_of_the_whole() {
        for (len, cut) in (0..70).chain([50_257]).flat_map(|len| [(len, true), (len, false)]) {
            let cut = if cut { shard_range } else { even_shard_range };
            for (shards, ranks) in [(2, 2), (8, 2), (8, 4), (8, 8), (12, 4), (64, 16)] {
                for rank in 0..ranks {
                    let part = cut(len, ranks, rank);
                    for shard in 0..shards / ranks {
                        let within = cut(part.len(), shards / ranks, shard);
                        let expected = cut(len, shards, rank * shards / ranks + shard);
                        let found = part.start + within.start..part.start + within.end;
                        assert_eq!(found, expected, "{len} in {shards} shards over {ranks} ranks");
                    }
                }
            }
        }
    }

    #[test]
    fn a_power_of_two_of_shards_are_as_even_as_can_be() {
        for len in 0..100 {
            for shards in [2, 4, 8, 16] {
                let sizes = (0..shards).map(|i| shard_range(len, shards, i).len());
                assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1));
            }
        }
    }

    #[test]
    fn joining_leaves_one_sum_for_any_number_of_shards() {
        for shards in 1..20 {
            let mut stack = 0usize;
            for index in 0..shards {
                stack += 1;
                stack -= join_order(shards, index);
            }
            assert_eq!(stack, 1, "{shards} shards");
        }
    }
}
