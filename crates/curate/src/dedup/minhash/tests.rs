//! Near copies over small corpora: which are found, and that nothing depends on shards, order or memory.

use super::*;
use crate::testing::{document, kept_ids, run_in_shards};

/// Sentences of made-up words, all different; `seed` tells texts apart.
fn text(seed: u64, words: u64) -> Vec<String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..words)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = state >> 40;
            ["ka", "to", "mi", "re", "su", "no", "la", "vi"]
                .iter()
                .cycle()
                .skip((number % 8) as usize)
                .step_by(1 + (number / 8 % 3) as usize)
                .take(2 + (number / 24 % 4) as usize)
                .copied()
                .collect::<String>()
        })
        .collect()
}

/// The text with `changes` of its words replaced, spread evenly.
fn changed(words: &[String], changes: usize) -> String {
    let step = words.len() / changes.max(1);
    let word = |(place, word): (usize, &String)| match changes > 0 && place % step == step / 2 {
        true => format!("changed{place}x"),
        false => word.clone(),
    };
    let mut out = Vec::new();
    for (place, text) in words.iter().enumerate().map(word).enumerate() {
        out.push(text);
        out.push(if place % 12 == 11 { ".\n".to_owned() } else { " ".to_owned() });
    }
    out.concat()
}

/// Ten clusters of four near copies (similarity about 0.9), and forty texts of their own.
fn corpus() -> Vec<(Document, Standing)> {
    let mut documents = Vec::new();
    for cluster in 0..10u64 {
        let words = text(cluster, 600);
        for copy in 0..4 {
            let id = format!("cluster-{cluster}-{copy}");
            documents.push((document(&id, &changed(&words, copy * 2)), Standing::new(copy as u16 % 2, 0.0)));
        }
    }
    for single in 0..40u64 {
        documents.push((
            document(&format!("single-{single}"), &changed(&text(100 + single, 400), 0)),
            Standing::new(0, 0.0),
        ));
    }
    // Copies lie apart.
    let count = documents.len();
    (0..count).map(|place| documents[place * 7 % count].clone()).collect()
}

#[test]
fn near_copies_are_removed_and_nothing_else() {
    let documents = corpus();
    let run = run_in_shards(&MinHashDedup::default(), &documents, 1, 1 << 20);
    assert_eq!(run.kept.len(), 50, "{:?}", kept_ids(&run));
    assert_eq!(kept_ids(&run).iter().filter(|id| id.starts_with("single")).count(), 40);
    for document in run.kept.iter().filter(|document| document.id.starts_with("cluster")) {
        assert!(
            document.id.ends_with("-0") || document.id.ends_with("-2"),
            "rank 0 goes first: {}",
            document.id
        );
        assert_eq!(document.metadata["minhash_cluster_size"], 4);
    }
    assert!(run.removed.iter().all(|(_, label)| label == "minhash_duplicate"));
    assert_eq!(run.resolution["clusters"], 10);
}

#[test]
fn the_same_documents_stay_for_any_number_of_shards_and_any_memory() {
    let documents = corpus();
    let whole = run_in_shards(&MinHashDedup::default(), &documents, 1, 1 << 20);
    for (shards, memory) in [(8, 1 << 20), (3, 600), (80, 100)] {
        let run = run_in_shards(&MinHashDedup::default(), &documents, shards, memory);
        assert_eq!(run.kept.len(), whole.kept.len());
        assert_eq!(kept_ids(&run), kept_ids(&whole), "{shards} shards, {memory} bytes");
    }
}

#[test]
fn the_true_similarity_separates_what_bands_bring_together() {
    let words = text(1, 800);
    let documents: Vec<_> = [("whole", 0), ("near", 4), ("far", 30)]
        .into_iter()
        .map(|(id, changes)| (document(id, &changed(&words, changes)), Standing::new(0, 0.0)))
        .collect();
    // One row a band: anything that shares a little meets.
    let step = MinHashDedup { bands: 64, rows: 1, ..MinHashDedup::default() };
    let run = run_in_shards(&step, &documents, 2, 1 << 20);
    assert_eq!(kept_ids(&run), ["whole"]);
    let run = run_in_shards(&MinHashDedup { jaccard: Some(0.8), ..step }, &documents, 2, 1 << 20);
    assert_eq!(kept_ids(&run), ["whole", "far"]);
    assert!(run.resolution["dissimilar_pairs"].as_u64().unwrap() > 0);
}

#[test]
fn texts_shorter_than_a_shingle_stay() {
    let documents: Vec<_> =
        ["a", "b"].into_iter().map(|id| (document(id, "too short"), Standing::new(0, 0.0))).collect();
    assert_eq!(run_in_shards(&MinHashDedup::default(), &documents, 1, 1 << 20).kept.len(), 2);
}

#[test]
fn impossible_numbers_are_refused() {
    for (step, expected) in [
        (MinHashDedup { bands: 0, ..MinHashDedup::default() }, "at least 1"),
        (MinHashDedup { jaccard: Some(80.0), ..MinHashDedup::default() }, "jaccard = 80"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = step.collect(folder.path(), 0).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
