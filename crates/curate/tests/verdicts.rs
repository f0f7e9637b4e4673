//! Our filters on texts of our own say what datatrove says, label for label, and leave the same text
//! (golden/curation/make_cases.py). Each filter gets the text as it came.

use serde_json::Value;
use triax_curate::{Document, Scratch, Verdict, filters};

#[test]
fn labels_are_those_of_datatrove() {
    let cases = include_str!("golden/verdicts.jsonl");
    let chains = filters::CHAINS.map(|name| (name, filters::chain(name).expect("a named chain")));
    let (mut compared, mut different, mut scratch) = (0, Vec::new(), Scratch::default());
    for case in cases.split('\n').filter(|line| !line.is_empty()) {
        let case: Value = serde_json::from_str(case).expect("a case");
        let text = case["text"].as_str().expect("a text");
        let (_, chain) = chains.iter().find(|(name, _)| case["chain"] == *name).expect("a known chain");
        for (name, expected) in case["labels"].as_object().expect("labels by filter") {
            let filter = chain.iter().find(|filter| filter.name() == name).expect("a filter of the chain");
            let mut document = Document { text: text.to_owned(), ..Document::default() };
            let found = match filter.apply(&mut document, &mut scratch) {
                Verdict::Keep => "keep".to_owned(),
                Verdict::Remove(reason) => reason.label.to_string(),
            };
            if *expected != *found {
                different.push(format!("{name}: ours {found}, datatrove's {expected}: {text:?}"));
            }
            let left = case["left"].as_str().unwrap_or(text);
            if found == "keep" && name == "c4" {
                assert_eq!(document.text, left, "{text:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 800, "{compared} verdicts");
    assert!(different.is_empty(), "{} of {compared} differ:\n{}", different.len(), different.join("\n"));
}
