//! Where the column panels of a product begin: anew at the border of every virtual shard of the columns.
//!
//! ```text
//! columns  │ shard 0          │ shard 1         │ …        a panel is the widest register tile
//! panels   │ 48 │ 48 │ 48 │ 9│ 48 │ 48 │ 48 │ 8│ …        or what is left of its shard
//! ```
//! So what a finished tile leaves behind for its shard (see `loss.rs`) does not depend on the shards before it.

use crate::even_shard_range;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    columns: usize,
    shards: usize,
    width: usize,
}

impl Panels {
    pub(crate) const fn new(columns: usize, shards: usize, width: usize) -> Self {
        Self { columns, shards, width }
    }

    pub(crate) fn count(&self) -> usize {
        self.per_shard().map(|(_, panels)| panels.len()).sum()
    }

    /// For every shard its columns and its panels.
    pub(crate) fn per_shard(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let mut next = 0;
        let Self { columns, shards, width } = *self;
        (0..shards).map(move |shard| {
            let columns = even_shard_range(columns, shards, shard);
            let first = next;
            next += columns.len().div_ceil(width);
            (columns, first..next)
        })
    }

    /// The columns of one panel.
    pub(crate) fn columns(&self, panel: usize) -> Range<usize> {
        let (columns, panels) = self
            .per_shard()
            .find(|(_, panels)| panels.contains(&panel))
            .expect("panels are numbered below their count");
        let start = columns.start + (panel - panels.start) * self.width;
        start..(start + self.width).min(columns.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_the_columns_once_and_begin_anew_with_every_shard() {
        for columns in [1, 2, 7, 48, 97, 769, 50_257] {
            for shards in [1, 2, 3, 8, 64] {
                for width in [16, 48] {
                    let panels = Panels::new(columns, shards, width);
                    let covered: Vec<usize> =
                        (0..panels.count()).flat_map(|panel| panels.columns(panel)).collect();
                    assert!(covered.iter().copied().eq(0..columns), "{panels:?}");
                    for (columns, of_shard) in panels.per_shard().filter(|(columns, _)| !columns.is_empty()) {
                        assert_eq!(panels.columns(of_shard.start).start, columns.start, "{panels:?}");
                    }
                }
            }
        }
    }
}
