//! Extraction on 181 real article pages, scored as ScrapingHub's article-extraction-benchmark scores it:
//!
//! ```text
//! 4-shingles of words, as multisets:  tp = |found ∩ true|   fp = |found − true|   fn = |true − found|
//! each page's three numbers divided by their sum, then summed over pages;  F1 = 2·P·R / (P + R)
//! ```

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use triax_curate::extract::{Extract, Fallback, STACK, extract, extractor};

type Shingles<'a> = HashMap<Vec<&'a str>, u64>;

fn shingles(text: &str) -> Shingles<'_> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words: Vec<&str> = text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
    let mut shingles = Shingles::new();
    for start in 0..words.len().saturating_sub(3).max(1) {
        *shingles.entry(words[start..words.len().min(start + 4)].to_vec()).or_default() += 1;
    }
    shingles
}

/// Precision, recall and F1 over pairs of true and found text.
fn score(pairs: &[(String, String)]) -> (f64, f64, f64) {
    let mut sums = [0.0; 3];
    for (truth, found) in pairs {
        let (truth, found) = (shingles(truth), shingles(found));
        let count = |shingles: &Shingles<'_>| shingles.values().sum::<u64>();
        let common: u64 =
            truth.iter().map(|(key, number)| found.get(key).map_or(0, |other| *number.min(other))).sum();
        let parts = [common, count(&found) - common, count(&truth) - common];
        let whole: u64 = parts.iter().sum();
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum += part as f64 / whole.max(1) as f64;
        }
    }
    let [hit, wrong, missed] = sums;
    let (precision, recall) = (hit / (hit + wrong), hit / (hit + missed));
    (precision, recall, 2.0 * precision * recall / (precision + recall))
}

#[test]
fn the_score_is_that_of_the_benchmark() {
    let pair = |truth: &str, found: &str| (truth.to_owned(), found.to_owned());
    assert_eq!(score(&[pair("a b c d e", "a b c d e")]).2, 1.0);
    let (precision, recall, _) = score(&[pair("a b c d", "a b c d e f")]);
    assert!((precision - 1.0 / 3.0).abs() < 1e-12 && recall == 1.0);
}

#[test]
fn text_that_the_rules_leave_aside_is_found_where_there_is_doubt() {
    let sentence =
        "The water stood in the streets of the lower town until the end of the month, and nobody came. ";
    let rules = format!("<div class=post-content>{}</div>", format!("<p>{sentence}</p>").repeat(4));
    let aside = format!("<div>{}</div>", format!("<p>{}</p>", sentence.repeat(3)).repeat(9));
    let html = format!("<html><head><title>a</title></head><body>{rules}{aside}</body></html>");
    let length = |fallback| {
        let settings = Extract { fallback, ..Extract::default() };
        extract(html.as_bytes(), None, None, &settings, &*extractor(&settings)).unwrap().text.len()
    };
    let [never, doubtful, always] = [Fallback::Never, Fallback::Doubtful, Fallback::Always].map(length);
    assert!(never < 5 * sentence.len() && always > 20 * sentence.len(), "{never}, {always}");
    assert_eq!(doubtful, always);
}

fn pages() -> Option<Vec<(String, Vec<u8>)>> {
    let Some(folder) = std::env::var_os("TRIAX_TEST_DATA") else {
        eprintln!("skipped: TRIAX_TEST_DATA is not set");
        return None;
    };
    let folder = PathBuf::from(folder).join("extraction/articles");
    let truth: Value =
        serde_json::from_reader(File::open(folder.join("ground-truth.json")).unwrap()).unwrap();
    let read = |(name, entry): (&String, &Value)| {
        let mut html = Vec::new();
        let file = File::open(folder.join(format!("html/{name}.html.gz"))).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut html).unwrap();
        (entry["articleBody"].as_str().unwrap().to_owned(), html)
    };
    Some(truth.as_object().unwrap().iter().map(read).collect())
}

/// On these pages, 0.967 was measured on 2026-12-01, and 0.960 on 2026-11-24 with Python's trafilatura 2.3.1 without comments.
#[test]
fn the_main_text_of_real_pages_is_found() {
    let Some(pages) = pages() else { return };
    let settings = Extract::default();
    let extractor = extractor(&settings);
    let text = |html: &[u8]| {
        extract(html, None, None, &settings, &*extractor).map_or(String::new(), |found| found.text)
    };
    let work = &|pages: &[(String, Vec<u8>)]| -> Vec<(String, String)> {
        pages.iter().map(|(truth, html)| (truth.clone(), text(html))).collect()
    };
    let pairs: Vec<(String, String)> = std::thread::scope(|scope| {
        let halves = pages.split_at(pages.len() / 2);
        // The algorithms recurse with the tree.
        let spawn = |half| {
            let work = move || work(half);
            std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).unwrap()
        };
        let threads = [spawn(halves.0), spawn(halves.1)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (precision, recall, f1) = score(&pairs);
    println!("precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}");
    assert!(f1 >= 0.960, "F1 {f1:.4} is below 0.960");
}
