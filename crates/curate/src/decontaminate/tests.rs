//! What is cut, what is dropped, what is left alone.

use super::*;
use crate::testing::{Outcome, document, run_in_shards};

const ITEM: &str = "The quick brown fox jumps over the lazy dog while seven wizards brew a potion";

/// A sentence of 60 characters that no item holds, told apart by a number.
fn sentence(number: usize) -> String {
    format!("Sentence number {number:05} is about nothing that anyone would ask. ")
}

fn filler(sentences: usize) -> String {
    (0..sentences).map(sentence).collect()
}

fn step(folder: &Path, rule: ContaminationRule, lines: &[&str]) -> Decontaminate {
    let path = folder.join("set.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let set = EvaluationSet { path, fields: vec!["text".to_owned(), "options".to_owned()] };
    Decontaminate::by_rule(rule, vec![set])
}

fn run(rule: ContaminationRule, items: &[&str], texts: &[&str], shards: usize) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> =
        items.iter().map(|item| serde_json::json!({ "text": item, "label": 1 }).to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let documents: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| (document(&number.to_string(), text), Standing::new(0, 0.0)))
        .collect();
    run_in_shards(&step(folder.path(), rule, &lines), &documents, shards, 1 << 16)
}

fn texts(outcome: &Outcome) -> Vec<&str> {
    outcome.kept.iter().map(|document| document.text.as_str()).collect()
}

#[test]
fn an_item_is_cut_out_with_its_surroundings_whatever_its_punctuation_and_case() {
    let quoted = "the QUICK, brown fox -- jumps over the lazy dog; while seven wizards brew a potion";
    let text = format!("{}And {quoted}. {}", filler(10), filler(10));
    let outcome = run(ContaminationRule::English, &[ITEM], &[&text, &filler(4)], 2);
    let texts = texts(&outcome);
    assert_eq!(texts.len(), 3, "two pieces and the clean document");
    // 200 characters are 3 sentences and a part of the fourth; those and the sentence of the item go.
    assert_eq!(texts[0], filler(6).trim_end());
    let after: String = (4..10).map(sentence).collect();
    assert_eq!(texts[1].trim(), after.trim());
    assert_eq!(texts[2], filler(4));
    assert_eq!(outcome.resolution["ngrams_hit"], 3, "fifteen words are three n-grams of thirteen");
}

#[test]
fn small_pieces_are_dropped_and_with_them_documents() {
    let short = format!("{}{ITEM}. {}", sentence(1), sentence(2));
    let one_sided = format!("{}{ITEM}.", filler(12));
    let outcome = run(ContaminationRule::English, &[ITEM], &[&short, &one_sided], 1);
    assert_eq!(outcome.removed, [("0".to_owned(), "contaminated".to_owned())]);
    assert_eq!(texts(&outcome), [filler(8).trim_end()]);
    assert_eq!(outcome.kept[0].metadata["contaminated_by"], "set.jsonl");
}

#[test]
fn short_items_count_as_a_whole_and_very_short_ones_not_at_all() {
    let (eight, seven) =
        ("one red bicycle stood alone outside my door", "seven words are not nearly quite enough");
    let text = |item| format!("{}So: {item}. {}", filler(10), filler(10));
    let outcome = run(ContaminationRule::English, &[eight, seven], &[&text(eight), &text(seven)], 1);
    assert_eq!(outcome.kept.len(), 3);
    assert_eq!(texts(&outcome)[2], text(seven));
}

#[test]
fn a_phrase_that_the_whole_corpus_repeats_is_nobodys() {
    let often: Vec<String> = (0..11).map(|n| format!("{} {ITEM}. {}", sentence(n), filler(8))).collect();
    let often: Vec<&str> = often.iter().map(String::as_str).collect();
    let outcome = run(ContaminationRule::English, &[ITEM], &often, 3);
    assert_eq!(texts(&outcome), often);
    assert_eq!(outcome.resolution["ngrams_ignored"], 3);
    let outcome = run(ContaminationRule::English, &[ITEM], &often[..10], 3);
    assert!(texts(&outcome).iter().all(|text| !text.contains("wizards")));
}

#[test]
fn a_document_in_too_many_pieces_is_dropped() {
    let items: Vec<String> = (0..12)
        .map(|n| (0..14).map(|word| format!("item{n}word{word}")).collect::<Vec<_>>().join(" "))
        .collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let text = |count: usize| {
        items[..count].iter().map(|item| format!("{}{item}. ", filler(14))).collect::<String>()
    };
    let outcome = run(ContaminationRule::English, &items, &[&text(12), &text(9)], 1);
    assert_eq!(outcome.removed, [("0".to_owned(), "contaminated_pieces".to_owned())]);
    assert_eq!(outcome.kept.len(), 9);
}

#[test]
fn chinese_is_compared_by_characters_without_punctuation() {
    let item = "小明有三个苹果，他给了小红一个，又从树上摘了五个，请问小明现在一共有多少个苹果？";
    let quoted = item.replace('，', " ").replace('？', "?!");
    let filler: String = (0..30).map(|n| format!("这是第{n}句与考题毫无关系的话。")).collect();
    let text = format!("{filler}{quoted}{filler}");
    let poem = format!("{filler}小明有三个苹果，他给了小红。{filler}");
    let outcome = run(ContaminationRule::Chinese, &[item], &[&text, &poem], 1);
    assert_eq!(outcome.kept.len(), 3);
    assert!(!texts(&outcome)[0].contains("小明") && !texts(&outcome)[1].contains("小明"));
    assert_eq!(texts(&outcome)[2], poem);
}

#[test]
fn the_report_names_what_was_hit() {
    let folder = tempfile::tempdir().unwrap();
    let line = serde_json::json!({ "options": ["x", ITEM] }).to_string();
    let step = step(folder.path(), ContaminationRule::English, &["", &line]);
    let (shard, out) = (folder.path().join("shard"), folder.path().join("out"));
    std::fs::create_dir(&shard).unwrap();
    std::fs::create_dir(&out).unwrap();
    let mut collect = step.collect(&shard, 1 << 16).unwrap();
    collect.see(0, Standing::new(0, 0.0), &document("a", &ITEM.to_uppercase())).unwrap();
    collect.finish().unwrap();
    let counts = step.resolve(&[shard], &out, 1 << 16, &Joins::Here).unwrap();
    assert_eq!(counts["ngrams_hit_by_set"]["set.jsonl"], 3);
    let report = std::fs::read_to_string(out.join(HITS)).unwrap();
    let hit: serde_json::Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
    assert_eq!(hit["line"], 2);
    assert_eq!(hit["ngram"], "The quick brown fox jumps over the lazy dog while seven wizards brew");
}

#[test]
fn sets_that_cannot_be_read_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.jsonl");
    for (content, expected) in
        [("{\"text\": \"a\"}\n[1]", "line 2"), ("{\"question\": \"a\"}", "no line has text")]
    {
        std::fs::write(&path, content).unwrap();
        let set = EvaluationSet { path: path.clone(), fields: vec!["text".to_owned()] };
        let step = Decontaminate::by_rule(ContaminationRule::English, vec![set]);
        let error = step.collect(folder.path(), 0).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("set.jsonl"), "{error}");
    }
}

#[test]
fn numbers_that_a_recipe_leaves_out_are_those_of_the_rule() {
    let step: Decontaminate = serde_json::from_str(r#"{"sets": [], "rule": "chinese", "cut": 5}"#).unwrap();
    assert_eq!((step.ngram, step.min_ngram, step.cut, step.max_pieces), (30, 16, 5, 10));
    let written = serde_json::to_string(&step).unwrap();
    let read: Decontaminate = serde_json::from_str(&written).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), written);
    assert!(serde_json::from_str::<Decontaminate>(r#"{"sets": [], "ngrams": 5}"#).is_err());
}
