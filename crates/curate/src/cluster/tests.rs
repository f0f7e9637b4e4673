//! What the plans find on a cluster inside this process, beside what the merge of sorted runs finds.

use super::*;
use crate::dedup::{ExactDedup, ExactKey, LineDedup, MinHashDedup};
use crate::document::Document;
use crate::global::{GlobalStep, Standing};
use crate::runs::{Sorter, record};
use crate::testing::{Outcome, document, run_in_shards, run_joined};

/// One for all: a start takes longer than a plan.
pub(crate) fn with_cluster(test: impl FnOnce(&Joins)) {
    static CLUSTER: std::sync::LazyLock<std::sync::Mutex<Joins>> = std::sync::LazyLock::new(|| {
        std::sync::Mutex::new(Joins::Cluster(Cluster::standalone(2, 1 << 30, &std::env::temp_dir()).unwrap()))
    });
    test(&CLUSTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

pub(crate) fn cluster(joins: &Joins) -> &Cluster {
    match joins {
        Joins::Cluster(cluster) => cluster,
        Joins::Here => unreachable!("with_cluster makes one"),
    }
}

/// Texts of a few words, many of which are there often, in sources of two priorities and three qualities.
fn documents(count: usize) -> Vec<(Document, Standing)> {
    let mut state = 7u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    // Digits are all one to the comparison of documents.
    let word = |mut number: u64| {
        let mut word = String::new();
        for _ in 0..7 {
            word.push(char::from(b'a' + (number % 26) as u8));
            number /= 26;
        }
        word
    };
    (0..count)
        .map(|number| {
            let (theme, change) = (random(150), random(4));
            let mut words: Vec<String> = (0..60).map(|place| word(theme * 100 + place)).collect();
            match change {
                0 => words = (0..60).map(|_| word(random(1 << 31))).collect(),
                1 => words[usize::try_from(random(60)).unwrap()] = "changed".to_owned(),
                _ => {}
            }
            let text = format!(
                "{}\nThis notice is below very many of these documents.\nLine {} of some of them.",
                words.join(" "),
                word(theme)
            );
            let mut document = document(&number.to_string(), &text);
            document.url = (random(3) > 0).then(|| format!("http://host/{}", random(50)));
            (document, Standing::new(random(2) as u16, random(3) as f32))
        })
        .collect()
}

/// What decides: ids and texts kept, ids and reasons removed, the step's figures.
fn told(outcome: &Outcome) -> String {
    let kept: Vec<_> = outcome.kept.iter().map(|document| (&document.id, &document.text)).collect();
    serde_json::json!([kept, outcome.removed, outcome.resolution]).to_string()
}

#[test]
fn every_step_decides_on_a_cluster_as_it_does_here() {
    let documents = documents(600);
    let steps: [Box<dyn GlobalStep>; 5] = [
        Box::new(ExactDedup::default()),
        Box::new(ExactDedup { by: ExactKey::Url }),
        Box::new(LineDedup { min_document_characters: 30, ..LineDedup::default() }),
        Box::new(MinHashDedup::default()),
        Box::new(MinHashDedup { jaccard: Some(0.9), ..MinHashDedup::default() }),
    ];
    with_cluster(|joins| {
        for step in &steps {
            let here = run_in_shards(step.as_ref(), &documents, 1, 1 << 20);
            assert!(!here.removed.is_empty() && here.kept.len() > 20, "{} has something to do", step.name());
            for shards in [1, 8] {
                let here = run_in_shards(step.as_ref(), &documents, shards, 1 << 20);
                let there = run_joined(step.as_ref(), &documents, shards, 1 << 20, joins);
                assert_eq!(told(&there), told(&here), "{} in {shards} shards", step.name());
            }
        }
    });
}

#[test]
fn a_corpus_without_keys_has_no_copies() {
    let documents: Vec<_> =
        (0..3).map(|number| (document(&number.to_string(), "short"), Standing::new(0, 0.0))).collect();
    with_cluster(|joins| {
        for step in [
            &ExactDedup { by: ExactKey::Url } as &dyn GlobalStep,
            &LineDedup { min_document_characters: 1, ..LineDedup::default() },
        ] {
            let there = run_joined(step, &documents, 2, 1 << 20, joins);
            assert_eq!(told(&there), told(&run_in_shards(step, &documents, 2, 1 << 20)));
            assert_eq!(there.kept.len(), 3);
        }
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: u128,
    document: u64,
}
record!(Row, b"crow", key: u128, document: u64);

fn run(path: &std::path::Path, rows: u64) {
    let mut sorter = Sorter::new(path.parent().unwrap(), "rows", 1 << 16);
    (0..rows).for_each(|number| sorter.push(Row { key: (number / 3).into(), document: number }).unwrap());
    sorter.write(path).unwrap();
}

#[test]
fn rows_that_a_shard_shared_only_in_part_end_the_step_with_both_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = (folder.path().join("whole.run"), folder.path().join("part.run"));
    run(&whole, 10);
    run(&part, 7);
    with_cluster(|joins| {
        let cluster = cluster(joins);
        cluster.share::<Row>(&part).unwrap();
        std::fs::rename(part.with_extension("parquet"), whole.with_extension("parquet")).unwrap();
        let error = cluster.table::<Row>("collected", &[whole]).unwrap_err().to_string();
        assert!(error.contains("collected") && error.contains("7 rows") && error.contains("10"), "{error}");
    });
}

#[test]
fn a_part_that_is_gone_or_short_ends_the_step() {
    let folder = tempfile::tempdir().unwrap();
    // No character of a path is a pattern or an escape.
    let folder = folder.path().join("a b[1]*%20é?");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("rows.run");
    run(&path, 1000);
    with_cluster(|joins| {
        let cluster = cluster(joins);
        let rows = cluster.table::<Row>("collected", &[path]).unwrap();
        let sql = "SELECT key_high, key_low, document FROM collected WHERE document % 2 = 0";
        let table = cluster.relate("even", sql, ("collected", &rows), &folder).unwrap();
        assert_eq!(table.rows(), 500);
        let mut documents = Vec::new();
        cluster
            .read(&table, &mut |row: Row| {
                documents.push(row.document);
                Ok(())
            })
            .unwrap();
        documents.sort_unstable();
        assert!(documents.iter().copied().eq((0..1000).step_by(2)));
        // A part replaced by another of the same relation, with fewer rows.
        let place = folder.join("even/attempt-1");
        let part = place.read_dir().unwrap().next().unwrap().unwrap().path();
        let none = cluster
            .relate("none", "SELECT * FROM collected WHERE document = 1", ("collected", &rows), &folder)
            .unwrap();
        let other = folder.join("none/attempt-1").read_dir().unwrap().next().unwrap().unwrap().path();
        std::fs::copy(other, &part).unwrap();
        let error = cluster.read(&table, &mut |_: Row| Ok(())).unwrap_err().to_string();
        assert!(error.contains("even") && error.contains("500"), "{error}");
        drop((table, none));
        assert!(
            !folder.join("even").exists() && !folder.join("none").exists(),
            "relations go with their values"
        );
    });
}

#[test]
fn a_plan_that_cannot_be_made_and_a_coordinator_that_is_not_there_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.run");
    run(&path, 10);
    with_cluster(|joins| {
        let cluster = cluster(joins);
        let rows = cluster.table::<Row>("collected", &[path]).unwrap();
        let error =
            cluster.relate("wrong", "SELECT nothing FROM collected", ("collected", &rows), folder.path());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("relation wrong") && error.contains("nothing"), "{error}");
    });
    let error = Cluster::connect("127.0.0.1:1").unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("triax cluster coordinator"), "{error}");
}
