//! The order of samples: each window of each epoch once, whatever the batch size and the stages of the blend.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use triax_data::{DataError, IGNORE, Identity, SampleOrigin, Samples, Stage, TokenType, Writer};

/// Token `t` of the stream is `t`, cut into documents of uneven lengths.
fn counting_file(directory: &Path, name: &str, tokens: u32, identity: Option<Identity>) -> PathBuf {
    let prefix = directory.join(name);
    let mut writer = Writer::create(&prefix, TokenType::I32, identity).unwrap();
    let (mut start, mut length) = (0, 1);
    while start < tokens {
        let end = tokens.min(start + length);
        writer.push_document(&(start..end).collect::<Vec<u32>>()).unwrap();
        (start, length) = (end, length * 5 % 23 + 1);
    }
    writer.finish().unwrap();
    prefix
}

fn identity(hash: &str, vocab: u32) -> Option<Identity> {
    Some(Identity { name: "test".into(), vocab, hash: hash.into(), eod: Some(0) })
}

#[test]
fn a_sample_is_the_window_its_origin_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = counting_file(directory.path(), "a", 103, None);
    let samples = Samples::open(&[(path, 1.0)], 10, 5).unwrap();
    assert_eq!(samples.describe()[0].samples_per_epoch, 10);
    let mut tokens = [0; 11];
    for number in 0..40 {
        let origin = samples.fill(number, &mut tokens).unwrap();
        assert_eq!(origin, samples.at(number));
        assert_eq!(origin.epoch, number / 10);
        let start = origin.index_in_epoch as u32 * 10;
        assert_eq!(tokens.to_vec(), (start..=start + 10).collect::<Vec<u32>>());
    }
}

#[test]
fn the_order_depends_on_seed_and_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let path = counting_file(directory.path(), "a", 1001, None);
    let order = |seed, start: u64| {
        let samples = Samples::open(&[(path.clone(), 1.0)], 10, seed).unwrap();
        (start..start + 100).map(|number| samples.at(number).index_in_epoch).collect::<Vec<_>>()
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(2, 0));
    assert_ne!(order(1, 0), order(1, 100));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_is_lost_or_repeated_over_stages_and_batch_sizes(
        sizes in prop::collection::vec(30u32..400, 1..4),
        weights in prop::collection::vec(prop::collection::vec(0.0f64..3.0, 3), 1..4),
        starts in prop::collection::vec(1u64..500, 3),
        batches in prop::collection::vec(1u64..40, 1..6),
        seed in any::<u64>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let named = sizes.iter().enumerate();
        let paths: Vec<PathBuf> =
            named.map(|(n, &size)| counting_file(directory.path(), &format!("s{n}"), size, None)).collect();
        let mut start = 0;
        let mut stages = Vec::new();
        for (stage_weights, length) in weights.iter().zip(starts) {
            let mut weights = stage_weights[..sizes.len()].to_vec();
            weights[0] += 0.01;
            stages.push(Stage { start, weights });
            start += length;
        }
        let samples = Samples::open_staged(&paths, &stages, 7, seed).unwrap();
        // The reader of the run: batches of changing size, one counter.
        let mut seen: HashMap<usize, Vec<SampleOrigin>> = HashMap::new();
        let mut counter = 0;
        for &batch in batches.iter().cycle().take(60) {
            for number in counter..counter + batch {
                let origin = samples.at(number);
                seen.entry(origin.source).or_default().push(origin);
            }
            counter += batch;
        }
        for (source, origins) in seen {
            let per_epoch = samples.describe()[source].samples_per_epoch;
            let distinct: HashSet<SampleOrigin> = origins.iter().copied().collect();
            prop_assert_eq!(distinct.len(), origins.len(), "a window was repeated");
            // All epochs but the last are whole.
            for (number, origin) in origins.iter().enumerate() {
                prop_assert_eq!(origin.epoch, number as u64 / per_epoch);
                prop_assert!(origin.index_in_epoch < per_epoch);
            }
        }
    }

    #[test]
    fn each_token_but_the_first_is_a_target_once(tokens in 2u32..300, sequence in 1usize..50) {
        let directory = tempfile::tempdir().unwrap();
        let path = counting_file(directory.path(), "a", tokens, None);
        let windows = Samples::open_sequential(&path, sequence).unwrap();
        let (mut inputs, mut targets) = (vec![0; sequence], vec![0; sequence]);
        let mut next = 1;
        for window in 0..windows.count() {
            let real = windows.fill(window, &mut inputs, &mut targets).unwrap();
            for place in 0..real {
                prop_assert_eq!((inputs[place], targets[place]), (next - 1, next));
                next += 1;
            }
            prop_assert!(targets[real..].iter().all(|&target| target == IGNORE));
            prop_assert!(real > 0 && (real == sequence || window + 1 == windows.count()));
        }
        prop_assert_eq!(next, tokens);
        prop_assert!(windows.fill(windows.count(), &mut inputs, &mut targets).is_err());
    }
}

#[test]
fn a_blend_of_two_tokenizers_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let a = counting_file(directory.path(), "a", 50, identity("aa", 60));
    let b = counting_file(directory.path(), "b", 50, identity("bb", 60));
    let unnamed = counting_file(directory.path(), "c", 50, None);
    let error = Samples::open(&[(a.clone(), 1.0), (unnamed.clone(), 1.0), (b, 1.0)], 8, 0).unwrap_err();
    assert!(matches!(error, DataError::TokenizerMismatch { .. }), "{error}");
    let samples = Samples::open(&[(unnamed, 1.0), (a, 1.0)], 8, 0).unwrap();
    assert_eq!((samples.vocab(), samples.tokenizer().unwrap().hash.as_str()), (Some(60), "aa"));
}

#[test]
fn ids_beyond_the_vocabulary_are_found_in_fill() {
    let directory = tempfile::tempdir().unwrap();
    let path = counting_file(directory.path(), "a", 50, identity("aa", 40));
    let samples = Samples::open(&[(path, 1.0)], 7, 0).unwrap();
    let results: Vec<_> = (0..7).map(|number| samples.fill(number, &mut [0; 8])).collect();
    // 40 is in the windows 35..=42 and is the first bad id; the next window is 42..=49.
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 2);
    let error = results.into_iter().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("document") && error.contains("vocabulary size 40"), "{error}");
}

#[test]
fn a_source_shorter_than_a_sample_is_refused_with_what_would_work() {
    let directory = tempfile::tempdir().unwrap();
    let path = counting_file(directory.path(), "a", 50, None);
    let error = Samples::open(&[(path.clone(), 1.0)], 50, 0).unwrap_err();
    assert!(error.to_string().contains("at most sequence = 49"), "{error}");
    assert!(Samples::open(&[(path, 1.0)], 49, 0).is_ok());
}

#[test]
fn a_buffer_of_the_wrong_length_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = counting_file(directory.path(), "a", 50, None);
    let samples = Samples::open(&[(path, 1.0)], 8, 0).unwrap();
    assert!(matches!(samples.fill(0, &mut [0; 8]), Err(DataError::BufferLength { expected: 9, found: 8 })));
}
