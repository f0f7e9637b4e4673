//! Exact copies: documents whose text, or whose address, is the same.

use super::members::{Members, members_path};
use super::relations::{self, Copies};
use crate::cluster::{Cluster, Joins};
use crate::document::Document;
use crate::global::{Collect, Decide, GlobalError, GlobalStep, Member, Resolution, Standing};
use crate::runs::{Sorter, merge, record};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// `[[step]] kind = "exact_dedup"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactDedup {
    /// What must be equal.
    pub by: ExactKey,
}

/// What makes two documents copies of each other. Compared by 128-bit XXH3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExactKey {
    /// The text but for white space at its ends.
    #[default]
    Text,
    /// The address without scheme, user, default port, fragment and a last slash, its host in lower case. Documents without an
    /// address have no copies.
    Url,
}

impl ExactKey {
    fn of(self, document: &Document) -> Option<u128> {
        match self {
            Self::Text => Some(xxh3_128(document.text.trim().as_bytes())),
            Self::Url => document.url.as_deref().map(|url| xxh3_128(comparable_url(url).as_bytes())),
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Text => "duplicate_text",
            Self::Url => "duplicate_url",
        }
    }

    const fn size_key(self) -> &'static str {
        match self {
            Self::Text => "text_copies",
            Self::Url => "url_copies",
        }
    }
}

/// The form in which addresses are compared.
fn comparable_url(url: &str) -> String {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split('#').next().unwrap_or_default();
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).to_lowercase();
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let host = host.strip_suffix(port).unwrap_or(&host);
    format!("{host}{}", path.strip_suffix('/').unwrap_or(path))
}

/// Sorted, copies stand side by side with the one that stays in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: u128,
    rank: u16,
    worse: u32,
    document: u64,
}

record!(Row, b"exct", key: u128, rank: u16, worse: u32, document: u64);

fn rows_path(folder: &Path) -> PathBuf {
    folder.join("keys.run")
}

struct Keys {
    by: ExactKey,
    folder: PathBuf,
    rows: Sorter<Row>,
}

impl Collect for Keys {
    fn see(&mut self, number: u64, standing: Standing, document: &Document) -> Result<(), GlobalError> {
        if let Some(key) = self.by.of(document) {
            let (rank, worse) = standing.parts();
            self.rows.push(Row { key, rank, worse, document: number })?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GlobalError> {
        self.rows.write(&rows_path(&self.folder))?;
        Ok(())
    }
}

impl GlobalStep for ExactDedup {
    fn name(&self) -> &'static str {
        "exact_dedup"
    }

    fn collect(&self, folder: &Path, memory: usize) -> Result<Box<dyn Collect>, GlobalError> {
        let rows = Sorter::new(folder, "keys", memory);
        Ok(Box::new(Keys { by: self.by, folder: folder.to_owned(), rows }))
    }

    fn share(&self, folder: &Path, cluster: &Cluster) -> Result<(), GlobalError> {
        cluster.share::<Row>(&rows_path(folder))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        joins: &Joins,
    ) -> Result<Resolution, GlobalError> {
        let paths: Vec<PathBuf> = shards.iter().map(|folder| rows_path(folder)).collect();
        let mut members = Sorter::new(out, "members", memory / 2);
        let found = match joins {
            Joins::Here => copies(&paths, memory / 2, out, &mut members)?,
            Joins::Cluster(cluster) => relations::copies::<Row>(cluster, &paths, out, &mut members)?,
        };
        members.write(&members_path(out))?;
        let counts = [
            ("keys", found.keys),
            ("clusters", found.clusters),
            ("removed", found.removed),
            ("largest_cluster", found.largest),
        ];
        Ok(counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
    }

    fn decide(&self, out: &Path, first: u64) -> Result<Box<dyn Decide>, GlobalError> {
        Ok(Box::new(Members::open(out, first, self.by.label(), self.by.size_key())?))
    }
}

/// Members of clusters of equal keys, by a merge of the runs at `paths`.
fn copies(
    paths: &[PathBuf],
    memory: usize,
    out: &Path,
    members: &mut Sorter<Member>,
) -> Result<Copies, GlobalError> {
    let mut found = Copies::default();
    // The copy that stays, and how many there are of it so far.
    let mut group: Option<(Row, u64)> = None;
    let mut rows = merge::<Row>(paths, memory, out)?;
    loop {
        let row = rows.next().transpose()?;
        match (&mut group, row) {
            (Some((first, size)), Some(row)) if first.key == row.key => {
                *size += 1;
                found.removed += 1;
                members.push(Member { document: row.document, survivor: first.document, size: 0 })?;
            }
            _ => {
                if let Some((first, size)) = group.filter(|&(_, size)| size > 1) {
                    let document = first.document;
                    let count = u32::try_from(size).unwrap_or(u32::MAX);
                    members.push(Member { document, survivor: document, size: count })?;
                    found.clusters += 1;
                    found.largest = found.largest.max(size);
                }
                group = row.map(|row| (row, 1));
            }
        }
        if row.is_none() {
            return Ok(found);
        }
        found.keys += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{document, kept_ids, run_in_shards};

    #[test]
    fn the_copy_of_the_best_source_stays_then_of_the_best_quality_then_the_first() {
        let mut documents = Vec::new();
        for (id, text, source, quality) in [
            ("a", "one text", 1, 0.5),
            ("b", " one text\n", 0, 0.1),
            ("c", "one text", 0, 0.3),
            ("d", "one text", 0, 0.3),
            ("e", "another", 1, 0.0),
        ] {
            documents.push((document(id, text), Standing::new(source, quality)));
        }
        for shards in [1, 2, 5] {
            let run = run_in_shards(&ExactDedup::default(), &documents, shards, 1 << 20);
            assert_eq!(kept_ids(&run), ["c", "e"]);
            assert_eq!(run.resolution["removed"], 3);
            let survivor = &run.kept.iter().find(|document| document.id == "c").unwrap();
            assert_eq!(survivor.metadata["text_copies"], 4);
        }
    }

    #[test]
    fn addresses_are_compared_by_what_they_lead_to() {
        for (one, other, is_same) in [
            ("http://Example.com/a", "https://example.com/a/", true),
            ("http://example.com:80", "http://example.com/", true),
            ("https://example.com:443/?q=1#top", "https://user@example.com/?q=1", true),
            ("http://example.com/A", "http://example.com/a", false),
            ("http://example.com/?q=1", "http://example.com/?q=2", false),
            ("http://example.com:8080/", "http://example.com/", false),
        ] {
            assert_eq!(comparable_url(one) == comparable_url(other), is_same, "{one} {other}");
        }
    }

    #[test]
    fn documents_without_an_address_stay() {
        let documents: Vec<_> =
            (0..3).map(|n| (document(&n.to_string(), "same"), Standing::new(0, 0.0))).collect();
        let run = run_in_shards(&ExactDedup { by: ExactKey::Url }, &documents, 2, 1 << 20);
        assert_eq!(run.kept.len(), 3);
    }
}
