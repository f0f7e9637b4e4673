//! Copies of stretches: what goes is exactly what the definition says.

use super::*;
use crate::testing::{document, kept_ids, run_in_shards};
use proptest::prelude::*;

/// By the definition: every window that stands elsewhere goes, but for its best copy.
fn by_definition(texts: &[(String, u16)], length: usize) -> Vec<Vec<bool>> {
    let mut gone: Vec<Vec<bool>> = texts.iter().map(|(text, _)| vec![false; text.len()]).collect();
    let windows = |number: usize| (texts[number].0.len() + 1).saturating_sub(length);
    let window = |number: usize, place: usize| &texts[number].0.as_bytes()[place..place + length];
    let all: Vec<(usize, usize)> =
        (0..texts.len()).flat_map(|number| (0..windows(number)).map(move |place| (number, place))).collect();
    for &(number, place) in &all {
        let order = |&&(number, place): &&(usize, usize)| (texts[number].1, number, place);
        let same = all.iter().filter(|&&(n, p)| window(n, p) == window(number, place));
        if same.min_by_key(order) != Some(&(number, place)) {
            gone[number][place..place + length].fill(true);
        }
    }
    gone
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_goes_is_what_stands_elsewhere(
        texts in prop::collection::vec(("[ab]{0,14}(xyzabba)?[ab]{0,8}", 0u16..2), 1..5),
        shards in 1usize..4,
    ) {
        let step = SubstringDedup { length: 4, min_document_characters: 0 };
        let documents: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(number, (text, rank))| (document(&number.to_string(), text), Standing::new(*rank, 0.0)))
            .collect();
        let run = run_in_shards(&step, &documents, shards, 1 << 20);
        // Within less memory than the suffix array takes, down to a few rows at a time.
        let bytes: usize = texts.iter().map(|(text, _)| text.len() + 1).sum();
        for memory in [600, 2 * bytes, MEMORY_A_BYTE as usize * bytes - 1] {
            let bounded = run_in_shards(&step, &documents, shards, memory);
            prop_assert_eq!(&bounded.resolution, &run.resolution);
            prop_assert_eq!(&bounded.removed, &run.removed);
            prop_assert_eq!(&bounded.kept, &run.kept);
        }
        let gone = by_definition(&texts, 4);
        for (number, (text, _)) in texts.iter().enumerate() {
            let expected: String =
                text.chars().zip(&gone[number]).filter(|(_, gone)| !**gone).map(|(c, _)| c).collect();
            let kept = run.kept.iter().find(|document| document.id == number.to_string());
            prop_assert_eq!(kept.map_or("", |document| &document.text), &expected);
        }
    }
}

#[test]
fn a_passage_stays_in_the_best_document_and_characters_stay_whole() {
    let passage = "这一段话在两篇文章里都出现过，一字不差，因此应当只保留一次，其余的副本都要删去。";
    let text =
        |n: usize| format!("第{n}篇文章的开头与众不同。{passage}第{n}篇的结尾也不一样{}。", "长".repeat(n));
    let documents =
        [(document("a", &text(1)), Standing::new(1, 0.0)), (document("b", &text(2)), Standing::new(0, 0.0))];
    let step = SubstringDedup { min_document_characters: 10, ..SubstringDedup::default() };
    let run = run_in_shards(&step, &documents, 2, 1 << 20);
    assert!(!run.kept[0].text.contains("一字不差") && run.kept[0].text.contains("1篇的结尾"));
    assert_eq!(run.kept[1].text, text(2));
}

#[test]
fn what_is_left_too_short_is_removed() {
    let same = "the same hundred and more bytes of text stand in both of these documents, word for word and mark for mark.";
    let documents: Vec<_> = ["a", "b"].map(|id| (document(id, same), Standing::new(0, 0.0))).into();
    let run = run_in_shards(&SubstringDedup::default(), &documents, 1, 1 << 20);
    assert_eq!(kept_ids(&run), ["a"]);
    assert_eq!(run.removed, [("b".to_owned(), "duplicate_substrings".to_owned())]);
}

/// Text that looks random, so that nothing in it is a copy but what is put there.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (state >> 59) as u8 % 26)
        })
        .collect()
}

#[test]
fn a_corpus_of_ten_times_the_memory_gives_what_the_suffix_array_gives() {
    let passage = noise(300, 1);
    let mut documents = Vec::new();
    for number in 0..200 {
        let (start, end) = (noise(2000, 2 + number), noise(2000, 1000 + number));
        let text = if number % 7 == 3 { format!("{start}{passage}{end}") } else { start + &end };
        documents.push((document(&number.to_string(), &text), Standing::new((number % 3) as u16, 0.0)));
    }
    let bytes: usize = documents.iter().map(|(document, _)| document.text.len() + 1).sum();
    let step = SubstringDedup::default();
    let whole = run_in_shards(&step, &documents, 3, MEMORY_A_BYTE as usize * bytes);
    let bounded = run_in_shards(&step, &documents, 3, bytes / 10);
    // All passages but one; what surrounds them agrees by chance in a few letters.
    let removed = whole.resolution["removed_bytes"].as_u64().unwrap();
    assert!((28 * 300..29 * 300).contains(&removed), "{removed}");
    assert_eq!(bounded.resolution, whole.resolution);
    assert_eq!(bounded.kept, whole.kept);
}
