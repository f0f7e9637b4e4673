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

use std::ops::Range;

/// Elements of shard `index` when `len` elements are cut into `shards` parts (uneven parts allowed).
pub fn shard_range(len: usize, shards: usize, index: usize) -> Range<usize> {
    debug_assert!(index < shards);
    len * index / shards..len * (index + 1) / shards
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
                let covered: Vec<usize> = (0..shards).flat_map(|i| shard_range(len, shards, i)).collect();
                assert_eq!(covered, (0..len).collect::<Vec<_>>());
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
