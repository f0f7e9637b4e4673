//! From pairs of copies to clusters: connected components by union-find, each named by its smallest document, so that the
//! result does not depend on the order of the pairs.

use crate::global::{GlobalError, Member, Standing};
use crate::runs::{RunError, RunReader, Sorter, record};
use std::path::Path;

/// Two documents that are copies, the smaller number first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) first: u64,
    pub(super) second: u64,
}

record!(Edge, b"edge", first: u64, second: u64);

/// A document with what decides between copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) document: u64,
    pub(super) rank: u16,
    pub(super) worse: u32,
}

record!(Candidate, b"cand", document: u64, rank: u16, worse: u32);

/// A document that is in some pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    document: u64,
}

record!(End, b"ends", document: u64);

/// Documents of the pairs in the run at `pairs`, ascending. 8 bytes of memory for each.
pub(super) fn documents_of(pairs: &Path, folder: &Path, memory: usize) -> Result<Vec<u64>, GlobalError> {
    let mut ends = Sorter::new(folder, "ends", memory);
    for edge in RunReader::<Edge>::open(pairs, BUFFER)? {
        let edge = edge?;
        ends.push(End { document: edge.first })?;
        ends.push(End { document: edge.second })?;
    }
    let mut documents: Vec<u64> = Vec::new();
    for end in ends.sorted()? {
        let document = end?.document;
        if documents.last() != Some(&document) {
            documents.push(document);
        }
    }
    Ok(documents)
}

const BUFFER: usize = 1 << 18;

/// What clusters were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clusters {
    pub(super) clusters: u64,
    pub(super) removed: u64,
    pub(super) largest: u64,
}

/// Writes one [`Member`] row for each document of the pairs in the run at `pairs`. `candidates`: ascending, among them all
/// documents of pairs. Holds 44 bytes a document that has a copy, whatever the size of the corpus.
pub(super) fn write_members(
    pairs: &Path,
    candidates: impl Iterator<Item = Result<Candidate, RunError>>,
    folder: &Path,
    memory: usize,
    path: &Path,
) -> Result<Clusters, GlobalError> {
    let documents = documents_of(pairs, folder, memory)?;
    let place =
        |document: u64| documents.binary_search(&document).expect("every end of a pair is in the list");
    let mut parents: Vec<usize> = (0..documents.len()).collect();
    for edge in RunReader::<Edge>::open(pairs, BUFFER)? {
        let edge = edge?;
        let (one, other) = (root(&mut parents, place(edge.first)), root(&mut parents, place(edge.second)));
        parents[one.max(other)] = one.min(other);
    }
    // By root: the best member and the number of members.
    let mut best: Vec<Option<(Standing, u64)>> = vec![None; documents.len()];
    let mut sizes = vec![0u32; documents.len()];
    let mut known = 0;
    for candidate in candidates {
        let candidate = candidate?;
        if documents.get(known) != Some(&candidate.document) {
            continue;
        }
        let root = root(&mut parents, known);
        let member = (Standing::from_parts(candidate.rank, candidate.worse), candidate.document);
        best[root] = Some(best[root].map_or(member, |best| best.min(member)));
        sizes[root] += 1;
        known += 1;
    }
    if known < documents.len() {
        return Err(GlobalError::Input {
            path: path.to_owned(),
            message: format!("document {} has signatures but was not counted", documents[known]),
        });
    }
    let mut rows = Sorter::new(folder, "members", memory);
    let mut found = Clusters::default();
    for (place, &document) in documents.iter().enumerate() {
        let root = root(&mut parents, place);
        let (_, survivor) = best[root].expect("every document was counted above");
        let size = if survivor == document { sizes[root] } else { 0 };
        rows.push(Member { document, survivor, size })?;
        found.removed += u64::from(survivor != document);
        found.clusters += u64::from(root == place);
        found.largest = found.largest.max(sizes[root].into());
    }
    rows.write(path)?;
    Ok(found)
}

/// Halves the path on the way; roots are the smallest of their component.
fn root(parents: &mut [usize], mut place: usize) -> usize {
    while parents[place] != place {
        parents[place] = parents[parents[place]];
        place = parents[place];
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(edges: &[Edge], ranks: &[u16]) -> Vec<Member> {
        let folder = tempfile::tempdir().unwrap();
        let (pairs, path) = (folder.path().join("pairs.run"), folder.path().join("members.run"));
        let mut sorter = Sorter::new(folder.path(), "pairs", 100);
        edges.iter().for_each(|&edge| sorter.push(edge).unwrap());
        sorter.write(&pairs).unwrap();
        let candidates = ranks
            .iter()
            .enumerate()
            .map(|(document, &rank)| Ok(Candidate { document: document as u64, rank, worse: 0 }));
        write_members(&pairs, candidates, folder.path(), 1 << 16, &path).unwrap();
        RunReader::open(&path, 1000).unwrap().collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        #[test]
        fn clusters_are_components_with_their_best_member(
            pairs in prop::collection::vec((0u64..30, 0u64..30), 0..40),
            ranks in prop::collection::vec(0u16..3, 30),
        ) {
            let edges: Vec<Edge> =
                pairs.iter().map(|&(a, b)| Edge { first: a.min(b), second: a.max(b) }).collect();
            let rows = members(&edges, &ranks);
            // By the definition: spread the smallest number along edges until nothing changes.
            let mut labels: Vec<u64> = (0..30).collect();
            for _ in 0..30 {
                for edge in &edges {
                    let least = labels[edge.first as usize].min(labels[edge.second as usize]);
                    labels[edge.first as usize] = least;
                    labels[edge.second as usize] = least;
                }
            }
            for row in rows {
                let label = labels[row.document as usize];
                let cluster: Vec<u64> = (0..30).filter(|&other| labels[other as usize] == label).collect();
                let survivor = cluster.iter().min_by_key(|&&other| (ranks[other as usize], other));
                prop_assert_eq!(Some(&row.survivor), survivor);
                let size = if row.survivor == row.document { cluster.len() } else { 0 };
                prop_assert_eq!(row.size as usize, size);
            }
        }
    }
}
