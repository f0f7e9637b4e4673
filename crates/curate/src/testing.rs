//! Runs a step over a small corpus in any number of shards, for the tests of this crate.

use crate::cluster::Joins;
use crate::document::Document;
use crate::global::{Decision, GlobalStep, Resolution, Standing};

pub(crate) fn document(id: &str, text: &str) -> Document {
    Document { id: id.to_owned(), source: "test".to_owned(), text: text.to_owned(), ..Document::default() }
}

pub(crate) struct Outcome {
    pub(crate) kept: Vec<Document>,
    /// Ids with the reason's label.
    pub(crate) removed: Vec<(String, String)>,
    pub(crate) resolution: Resolution,
}

pub(crate) fn kept_ids(outcome: &Outcome) -> Vec<&str> {
    outcome.kept.iter().map(|document| document.id.as_str()).collect()
}

/// Both passes over `documents`, cut into `shards` parts that are collected in an order of their own.
pub(crate) fn run_in_shards(
    step: &dyn GlobalStep,
    documents: &[(Document, Standing)],
    shards: usize,
    memory: usize,
) -> Outcome {
    run_joined(step, documents, shards, memory, &Joins::Here)
}

/// As [`run_in_shards`], joined where `joins` says.
pub(crate) fn run_joined(
    step: &dyn GlobalStep,
    documents: &[(Document, Standing)],
    shards: usize,
    memory: usize,
    joins: &Joins,
) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let length = documents.len().div_ceil(shards).max(1);
    let parts: Vec<_> = documents.chunks(length).enumerate().collect();
    let number = |part: usize, place: usize| (part as u64) << 32 | place as u64;
    let mut folders = vec![std::path::PathBuf::new(); parts.len()];
    for &(part, documents) in parts.iter().rev() {
        folders[part] = folder.path().join(format!("shard-{part}"));
        std::fs::create_dir(&folders[part]).unwrap();
        let mut collect = step.collect(&folders[part], memory).unwrap();
        for (place, (document, standing)) in documents.iter().enumerate() {
            collect.see(number(part, place), *standing, document).unwrap();
        }
        collect.finish().unwrap();
    }
    let resolution = step.resolve(&folders, &out, memory, joins).unwrap();
    let mut outcome = Outcome { kept: Vec::new(), removed: Vec::new(), resolution };
    for (part, documents) in parts {
        let mut decide = step.decide(&out, number(part, 0)).unwrap();
        for (place, (document, _)) in documents.iter().enumerate() {
            let mut document = document.clone();
            match decide.decide(number(part, place), &mut document).unwrap() {
                Decision::Keep => outcome.kept.push(document),
                Decision::Remove(reason) => outcome.removed.push((document.id, reason.label.into_owned())),
                Decision::Split(texts) => {
                    outcome.kept.extend(texts.into_iter().map(|text| Document { text, ..document.clone() }))
                }
            }
        }
    }
    outcome
}
