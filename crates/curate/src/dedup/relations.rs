//! The joins of copies as plans of a cluster, each followed by the account of its rows. What they find is what the merge
//! of sorted runs finds; decisions are sorted here again, so that they are the same bytes.
//!
//! | relation | a row is | rows |
//! |---|---|---|
//! | `key_counts` | the number of keys, of rows, and of the most frequent key's rows | 1 |
//! | `copies` | a row that is not the first of its key | rows − keys |
//! | `clusters` | a survivor with the number of its copies and itself | sizes − clusters = copies |
//! | `links` | a row of a band but the first, with the first and the one before | rows − keys |
//! | `pairs` | two documents that met, and how often | meetings = links |
//!
//! Windows look back only: of a key's rows a worker holds one at a time, however many there are.

use crate::cluster::{Cluster, Table, conserve};
use crate::global::{GlobalError, Member};
use crate::runs::{Record, Sorter, record};
use std::path::{Path, PathBuf};

/// `key_counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyCounts {
    pub(super) keys: u64,
    /// Rows of all keys.
    pub(super) counted: u64,
    /// Rows of the most frequent one.
    pub(super) largest: u64,
}

record!(KeyCounts, b"kcnt", keys: u64, counted: u64, largest: u64);

impl KeyCounts {
    fn of(cluster: &Cluster, rows: &Table, key: &str, out: &Path) -> Result<Self, GlobalError> {
        let sql = format!(
            "SELECT count(*) AS keys, sum(size) AS counted, max(size) AS largest
             FROM (SELECT count(*) AS size FROM collected GROUP BY {key}) AS sizes"
        );
        let table = cluster.relate("key_counts", &sql, ("collected", rows), out)?;
        let mut counts = Self::default();
        cluster.read(&table, &mut |found| {
            counts = found;
            Ok(())
        })?;
        conserve("key_counts", counts.counted, rows.rows(), "were collected by the shards")?;
        Ok(counts)
    }
}

/// The columns of a 128-bit key.
const WIDE_KEY: &str = "key_high, key_low";
/// What the merge of runs sorts by.
const STANDING: &str = "\"rank\", worse, document";

/// What copies of documents were found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copies {
    pub(super) keys: u64,
    pub(super) clusters: u64,
    pub(super) removed: u64,
    pub(super) largest: u64,
}

/// Members of clusters of equal keys, out of rows of key, rank, worse and document.
pub(super) fn copies<R: Record>(
    cluster: &Cluster,
    runs: &[PathBuf],
    out: &Path,
    members: &mut Sorter<Member>,
) -> Result<Copies, GlobalError> {
    let rows = cluster.table::<R>("collected", runs)?;
    let counts = KeyCounts::of(cluster, &rows, WIDE_KEY, out)?;
    let sql = format!(
        "SELECT document, survivor, 0 AS size FROM (
             SELECT document, first_value(document) OVER so_far AS survivor, row_number() OVER so_far AS nth
             FROM collected
             WINDOW so_far AS (PARTITION BY {WIDE_KEY} ORDER BY {STANDING}
                               ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
         ) AS members WHERE nth > 1"
    );
    let copies = cluster.relate("copies", &sql, ("collected", &rows), out)?;
    conserve("copies", copies.rows(), counts.counted - counts.keys, "are left when every key keeps one row")?;
    cluster.read(&copies, &mut |row: Member| Ok(members.push(row)?))?;
    let sql = "SELECT survivor AS document, survivor, least(count(*) + 1, 4294967295) AS size
               FROM copies GROUP BY survivor";
    let clusters = cluster.relate("clusters", sql, ("copies", &copies), out)?;
    let (mut others, mut largest) = (0, 0);
    cluster.read(&clusters, &mut |row: Member| {
        others += u64::from(row.size) - 1;
        largest = largest.max(u64::from(row.size));
        Ok(members.push(row)?)
    })?;
    conserve("clusters", others, copies.rows(), "copies belong to its survivors")?;
    Ok(Copies { keys: counts.counted, clusters: clusters.rows(), removed: copies.rows(), largest })
}

/// Hands over the rows that are not the first of their key, out of rows of key, rank, worse, document and place; says how
/// many rows there are.
pub(super) fn later_lines<R: Record, C: Record>(
    cluster: &Cluster,
    runs: &[PathBuf],
    out: &Path,
    see: &mut dyn FnMut(C) -> Result<(), GlobalError>,
) -> Result<u64, GlobalError> {
    let rows = cluster.table::<R>("collected", runs)?;
    let counts = KeyCounts::of(cluster, &rows, WIDE_KEY, out)?;
    let sql = format!(
        "SELECT document, place FROM (
             SELECT document, place, row_number() OVER (PARTITION BY {WIDE_KEY} ORDER BY {STANDING}, place) AS nth
             FROM collected
         ) AS lines WHERE nth > 1"
    );
    let copies = cluster.relate("copies", &sql, ("collected", &rows), out)?;
    conserve("copies", copies.rows(), counts.counted - counts.keys, "are left when every key keeps one row")?;
    cluster.read(&copies, see)?;
    Ok(counts.counted)
}

/// Two documents of one band.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Met {
    first: u64,
    second: u64,
    meetings: u64,
}

record!(Met, b"met ", first: u64, second: u64, meetings: u64);

/// Hands over the pairs of each document of a band with the band's first and, where `neighbours` are wanted, with the one
/// before; a pair may come twice. Rows have key and document.
pub(super) fn pairs<R: Record>(
    cluster: &Cluster,
    runs: &[PathBuf],
    out: &Path,
    neighbours: bool,
    see: &mut dyn FnMut(u64, u64) -> Result<(), GlobalError>,
) -> Result<KeyCounts, GlobalError> {
    let rows = cluster.table::<R>("collected", runs)?;
    let counts = KeyCounts::of(cluster, &rows, "\"key\"", out)?;
    let sql = "SELECT \"first\", previous, document AS \"second\" FROM (
             SELECT document, first_value(document) OVER so_far AS \"first\", lag(document) OVER in_order AS previous,
                    row_number() OVER so_far AS nth
             FROM collected
             WINDOW in_order AS (PARTITION BY \"key\" ORDER BY document),
                    so_far AS (PARTITION BY \"key\" ORDER BY document
                               ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
         ) AS bands WHERE nth > 1";
    let links = cluster.relate("links", sql, ("collected", &rows), out)?;
    conserve("links", links.rows(), counts.counted - counts.keys, "are left when every band keeps one row")?;
    let partners: &[&str] = if neighbours { &["first", "previous"] } else { &["first"] };
    for partner in partners {
        let sql = format!(
            "SELECT \"{partner}\" AS \"first\", \"second\", count(*) AS meetings FROM links
             GROUP BY \"{partner}\", \"second\""
        );
        let pairs = cluster.relate("pairs", &sql, ("links", &links), out)?;
        let mut meetings = 0;
        cluster.read(&pairs, &mut |met: Met| {
            meetings += met.meetings;
            see(met.first, met.second)
        })?;
        conserve("pairs", meetings, links.rows(), "links brought documents together")?;
    }
    Ok(counts)
}

#[cfg(test)]
#[cfg(feature = "cluster")]
mod tests {
    use super::*;
    use crate::cluster::tests::{cluster, with_cluster};

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Row {
        key: u128,
        document: u64,
    }
    record!(Row, b"lost", key: u128, document: u64);

    #[test]
    fn a_cluster_that_reads_fewer_rows_than_were_collected_decides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, part] = [10, 7].map(|rows| {
            let path = folder.path().join(format!("{rows}.run"));
            let mut sorter = Sorter::new(folder.path(), "rows", 1 << 16);
            (0..rows)
                .for_each(|number| sorter.push(Row { key: (number / 3).into(), document: number }).unwrap());
            sorter.write(&path).unwrap();
            path
        });
        with_cluster(|joins| {
            let cluster = cluster(joins);
            let rows = cluster.table::<Row>("collected", std::slice::from_ref(&whole)).unwrap();
            let counts = KeyCounts::of(cluster, &rows, WIDE_KEY, folder.path()).unwrap();
            assert_eq!(counts, KeyCounts { keys: 4, counted: 10, largest: 3 });
            // The file is another when the plan comes to it.
            cluster.share::<Row>(&part).unwrap();
            std::fs::rename(part.with_extension("parquet"), whole.with_extension("parquet")).unwrap();
            let error = KeyCounts::of(cluster, &rows, WIDE_KEY, folder.path()).unwrap_err().to_string();
            assert!(error.contains("key_counts") && error.contains("has 7 rows"), "{error}");
            assert!(error.contains("10 were collected"), "{error}");
        });
    }
}
