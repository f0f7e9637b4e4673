//! Signatures are those of datatrove (`golden/curation/minhash.py`), bit for bit.

use serde::Deserialize;
use triax_curate::{MinHashDedup, Segmenter, ShingleHash};

#[derive(Deserialize)]
struct Golden {
    language: Segmenter,
    hash: ShingleHash,
    text: String,
    shingles: usize,
    signature: Vec<u64>,
}

#[test]
fn signatures_are_those_of_datatrove() {
    let lines = include_str!("golden/minhash.jsonl");
    let (mut shingles, mut signature) = (Vec::new(), Vec::new());
    let mut count = 0;
    for line in lines.split('\n').filter(|line| !line.is_empty()) {
        let golden: Golden = serde_json::from_str(line).unwrap();
        let step = MinHashDedup { words: golden.language, hash: golden.hash, ..MinHashDedup::default() };
        step.shingler().shingles(&golden.text, &mut shingles);
        assert_eq!(shingles.len(), golden.shingles, "{}", golden.text);
        step.signer().sign(&shingles, &mut signature);
        assert_eq!(signature, golden.signature, "{:?}: {}", golden.hash, golden.text);
        count += 1;
    }
    assert_eq!(count, 48);
}
