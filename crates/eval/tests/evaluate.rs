//! Whole evaluations with small deterministic networks whose answers can be known beforehand.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is to panic")]

use std::path::Path;
use triax_data::{TokenType, Writer};
use triax_eval::calibration::{Expansion, Order};
use triax_eval::{
    Cache, Codec, Draw, EvalError, ModelName, Network, Settings, Task, TaskResult, builtin, evaluate, results,
};
use triax_infer::{GenerateRequest, Generated, InferError, ScoreReply, ScoreRequest, Scorer};

/// A token a byte; 256 begins a document.
struct Bytes;

impl Codec for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, EvalError> {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn start(&self) -> Option<u32> {
        Some(256)
    }

    fn name(&self) -> String {
        "bytes of tests".to_owned()
    }
}

/// `ln p(token | all before it)` by a function; counts and may refuse requests.
struct Function<F> {
    log_prob: F,
    length: usize,
    asked: usize,
    /// Requests after which every call fails.
    most: usize,
}

impl<F: Fn(&[u32], u32) -> f32> Scorer for Function<F> {
    fn vocab(&self) -> usize {
        257
    }

    fn context_length(&self) -> usize {
        self.length
    }

    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<ScoreReply>, InferError> {
        self.asked += requests.len();
        if self.asked > self.most {
            return Err(InferError::Elsewhere { message: "the power is out".to_owned() });
        }
        let reply = |request: &ScoreRequest| {
            assert!(!request.context.is_empty() && !request.continuation.is_empty());
            assert!(request.context.len() + request.continuation.len() <= self.length + 1);
            let all = [&request.context[..], &request.continuation].concat();
            let places = request.context.len()..all.len();
            let log_probs: Vec<f32> =
                places.map(|place| (self.log_prob)(&all[..place], all[place])).collect();
            let greedy = log_probs.iter().map(|&log_prob| log_prob > -0.5).collect();
            let of = |&token: &u32| (token, (self.log_prob)(&request.context, token));
            let likeliest = (0..257).map(|token| of(&token)).max_by(|a, b| a.1.total_cmp(&b.1));
            let top = match request.top {
                0 => Vec::new(),
                _ => vec![likeliest.into_iter().chain(request.also.iter().map(of)).collect()],
            };
            ScoreReply { log_probs, greedy, top }
        };
        Ok(requests.iter().map(reply).collect())
    }

    fn generate(&mut self, _: &[GenerateRequest]) -> Result<Vec<Generated>, InferError> {
        unreachable!("evaluation only scores")
    }
}

/// Something different for every text, from the last sixteen tokens.
fn mixed(before: &[u32], token: u32) -> f32 {
    let seen = &before[before.len().saturating_sub(16)..];
    let hash = seen
        .iter()
        .chain([&token])
        .fold(7u64, |hash, &id| (hash ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
    -((hash >> 40) as f32) / (1u64 << 22) as f32
}

fn network<F: Fn(&[u32], u32) -> f32>(log_prob: F) -> Function<F> {
    Function { log_prob, length: 4096, asked: 0, most: usize::MAX }
}

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn run(
    scorer: &mut dyn Scorer,
    cache: &mut Cache,
    task: &Task,
    folder: &Path,
    settings: &Settings,
) -> Result<(TaskResult, Vec<serde_json::Value>, Vec<u8>), EvalError> {
    let mut network = Network { scorer, codec: &Bytes, identity: "of tests".to_owned(), start_always: false };
    let mut lines = Vec::new();
    let result = evaluate(&mut network, cache, task, folder, settings, &mut lines, |_| {})?;
    let items = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Ok((result, items.map(|line| serde_json::from_slice(line).unwrap()).collect(), lines))
}

fn settings() -> Settings {
    Settings { seeds: vec![1], ..Settings::default() }
}

/// 40 sentences with a word for joy or sorrow, in a task of two labels.
fn sentiment(prompt: &str) -> (tempfile::TempDir, Task) {
    let folder = tempfile::tempdir().unwrap();
    let line = |n: usize| {
        let (word, label) = if n.is_multiple_of(4) { ("joy", "good") } else { ("sorrow", "bad") };
        format!(
            "{{\"id\": {n}, \"text\": \"Sentence number {n} is full of {word}\", \"label\": \"{label}\"}}\n"
        )
    };
    std::fs::write(folder.path().join("s.jsonl"), (0..40).map(line).collect::<String>()).unwrap();
    let text = format!(
        r#"
        name = "sentiment"
        version = 1
        about = "of tests"
        prompt = "p"
        gold = "{{label}}"
        inputs = ["text"]
        [[test]]
        path = "s.jsonl"
        [prompts.p]
        about = "ours"
        context = "{{text}}. This is"
        target = " {{choice}}"
        {prompt}
        "#
    );
    (folder, Task::parse("sentiment.toml", &text).unwrap())
}

const WORDS: &str = "labels = [{ is = \"bad\", words = [\"bad\", \"dire\"] }, { is = \"good\", words = [\"good\", \"nice\"] }]";

/// Evidence of the word in the text, times a prior that is ten times larger for `g` and `n` (good, nice).
fn biased(before: &[u32], token: u32) -> f32 {
    let text = Bytes.decode(before).unwrap();
    let is = |letters: &str| letters.bytes().any(|letter| u32::from(letter) == token);
    let good = is("gn");
    if !text.ends_with("This is ") || !(good || is("bd")) {
        return 0.0;
    }
    let evidence = match (text.contains("joy"), text.contains("sorrow")) {
        (true, _) => {
            if good {
                0.8
            } else {
                0.2
            }
        }
        (_, true) => {
            if good {
                0.2
            } else {
                0.8
            }
        }
        _ => 0.5,
    };
    let prior = if good { 0.1 } else { 0.01 };
    (evidence * prior as f32).ln()
}

#[test]
fn calibration_recovers_what_a_prior_hides() {
    for (evidence, expand) in [("word", "first"), ("word", "mean"), ("word", "max")] {
        let (folder, task) = sentiment(&format!(
            "{WORDS}\nevidence = \"{evidence}\"\nexpand = \"{expand}\"\ncalibrate = \"before\""
        ));
        let (result, items, _) =
            run(&mut network(biased), &mut Cache::in_memory(), &task, folder.path(), &settings()).unwrap();
        // All are called good without calibration: a quarter is right.
        assert_eq!(result.measures["sum"].value, 0.25);
        assert_eq!((result.measure.as_str(), result.measures["calibrated"].value), ("calibrated", 1.0));
        assert_eq!((result.chance, result.majority), (Some(0.5), Some(0.75)));
        assert_eq!(
            (result.labels[0].items, result.labels[0].predicted, result.labels[0].right),
            (30, 30, 30)
        );
        assert_eq!(items[0]["calibration"]["content_free"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn either_order_of_calibration_and_every_way_of_joining_can_be_asked_for() {
    let (folder, task) = sentiment(&format!("{WORDS}\ncalibrate = \"before\""));
    for order in [Order::Before, Order::After] {
        for expand in [Expansion::First, Expansion::Sum, Expansion::Mean, Expansion::Max] {
            let asked = Settings { calibrate: Some(order), expand: Some(expand), ..settings() };
            let (result, ..) =
                run(&mut network(biased), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
            assert_eq!(result.measures["calibrated"].value, 1.0, "{order:?} {expand:?}");
        }
    }
    let asked = Settings { calibrate: Some(Order::None), ..settings() };
    let (result, ..) =
        run(&mut network(biased), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    assert_eq!((result.measure.as_str(), result.score().unwrap().value), ("sum", 0.25));
}

#[test]
fn first_tokens_that_cannot_be_told_apart_are_reported() {
    let labels =
        "labels = [{ is = \"bad\", words = [\"gone\"] }, { is = \"good\", words = [\"good\", \"glad\"] }]";
    let (folder, task) = sentiment(&format!("{labels}\nevidence = \"first-token\"\nexpand = \"sum\""));
    let (result, items, _) =
        run(&mut network(mixed), &mut Cache::in_memory(), &task, folder.path(), &settings()).unwrap();
    // Every first token is the space of " gone", " good", " glad".
    assert_eq!(result.collisions.len(), 1);
    assert_eq!(result.collisions[0].labels, ["bad", "good"]);
    assert_eq!(result.collisions[0].words, ["gone", "good", "glad"]);
    // The second word of a label with the same token does not count twice.
    assert_eq!(items[0]["choices"].as_array().unwrap().len(), 2);
    let iflytek = builtin::task("iflytek").unwrap();
    let (result, ..) =
        run(&mut network(mixed), &mut Cache::in_memory(), &iflytek, fixtures(), &settings()).unwrap();
    let words: Vec<&str> = result.collisions.iter().map(|collision| collision.words[0].as_str()).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert!(["经营", "工具", "视频"].iter().all(|word| words.contains(word)), "{words:?}");
}

#[test]
fn every_built_in_task_and_prompt_set_goes_through_with_true_sums() {
    for (name, _) in builtin::TASKS {
        let task = builtin::task(name).unwrap();
        for set in task.prompts.keys() {
            let asked = Settings { prompts: vec![set.clone()], shots: Some(1), ..settings() };
            let (result, items, _) =
                run(&mut network(mixed), &mut Cache::in_memory(), &task, fixtures(), &asked).unwrap();
            assert_eq!((result.items, &result.prompt), (items.len(), set), "{name}");
            assert!(result.score().unwrap().value.is_finite());
            for choice in items.iter().flat_map(|item| item["choices"].as_array().unwrap()) {
                let text = |name: &str| choice[name].as_str().unwrap().to_owned();
                let context = text("context");
                let kept = context.trim_end();
                let mut before: Vec<u32> = Bytes.encode(kept).unwrap();
                if before.is_empty() {
                    before.push(256);
                }
                let target = format!("{}{}", &context[kept.len()..], text("target"));
                let mut sum = 0.0;
                let count = choice["tokens"].as_u64().unwrap() as usize;
                for token in Bytes.encode(&target).unwrap().into_iter().take(count) {
                    sum += f64::from(mixed(&before, token));
                    before.push(token);
                }
                assert!((sum - choice["sum"].as_f64().unwrap()).abs() < 1e-9, "{name} {set}");
            }
        }
    }
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_bytes() {
    let (folder, task) = sentiment(&format!("{WORDS}\ncalibrate = \"after\"\nexpand = \"mean\""));
    // Enough text that scores are written several times.
    let long = "x".repeat(900);
    let data = std::fs::read_to_string(folder.path().join("s.jsonl")).unwrap().replace("full", &long);
    std::fs::write(folder.path().join("s.jsonl"), data).unwrap();
    let asked = Settings { shots: Some(1), seeds: vec![1, 2], ..Settings::default() };
    let mut whole = network(mixed);
    let (result, _, lines) = run(&mut whole, &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    let path = folder.path().join("scores.bin");
    for most in [60, 200, 500] {
        let mut broken = Function { most, ..network(mixed) };
        let stopped = run(&mut broken, &mut Cache::open(&path).unwrap(), &task, folder.path(), &asked);
        assert!(stopped.unwrap_err().to_string().contains("the power is out"));
    }
    let mut cache = Cache::open(&path).unwrap();
    let known = cache.len();
    assert!(known > 0);
    let mut rest = network(mixed);
    let (again, _, lines_again) = run(&mut rest, &mut cache, &task, folder.path(), &asked).unwrap();
    assert!(lines_again == lines);
    assert_eq!(rest.asked + known, whole.asked);
    let model = ModelName {
        name: "m".to_owned(),
        identity: "i".to_owned(),
        tokenizer: "t".to_owned(),
        context_length: 4096,
    };
    let bytes = |result| serde_json::to_string(&results(&model, &[result])).unwrap();
    assert_eq!(bytes(again), bytes(result));
}

#[test]
fn an_items_score_does_not_depend_on_the_others() {
    let (folder, task) = sentiment(WORDS);
    for draw in [Draw::Random, Draw::Once, Draw::First, Draw::Balanced] {
        let asked = Settings { shots: Some(3), draw, ..settings() };
        let (_, all, _) =
            run(&mut network(mixed), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
        let few = Settings { limit: Some(5), ..asked };
        let (result, some, _) =
            run(&mut network(mixed), &mut Cache::in_memory(), &task, folder.path(), &few).unwrap();
        assert_eq!((some.len(), result.limited), (5, true));
        assert_eq!(some, all[..5]);
        for item in &all {
            let shots = item["shots"].as_array().unwrap();
            assert!(shots.len() == 3 && !shots.contains(&item["item"]));
        }
    }
}

#[test]
fn several_seeds_have_a_mean_and_a_deviation_where_they_matter() {
    let (folder, task) = sentiment(WORDS);
    let asked = Settings { shots: Some(2), seeds: vec![1, 2, 3], ..Settings::default() };
    let (result, items, _) =
        run(&mut network(mixed), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    let score = result.score().unwrap();
    assert_eq!((result.seeds.len(), items.len(), score.seeds.len()), (3, 120, 3));
    let mean = score.seeds.iter().map(|seed| seed.value).sum::<f64>() / 3.0;
    assert!((score.value - mean).abs() < 1e-12 && score.deviation.is_some());
    // No shots: seeds change nothing, one is enough.
    let asked = Settings { seeds: vec![1, 2, 3], ..Settings::default() };
    let (result, items, _) =
        run(&mut network(mixed), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    assert_eq!((result.seeds, items.len()), (vec![1], 40));
}

#[test]
fn prompts_that_are_too_long_are_cut_from_the_left_and_counted() {
    let (folder, task) = sentiment(WORDS);
    let asked = Settings { shots: Some(4), ..settings() };
    let mut short = Function { length: 60, ..network(biased) };
    let (result, items, _) = run(&mut short, &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    assert_eq!((result.truncated, result.items), (40, 40));
    assert!(items.iter().all(|item| item["truncated"] == true));
    let (result, ..) = run(&mut short, &mut Cache::in_memory(), &task, folder.path(), &settings()).unwrap();
    assert_eq!(result.truncated, 0);
}

#[test]
fn a_document_longer_than_the_context_is_scored_whole() {
    let folder = tempfile::tempdir().unwrap();
    let text = "Every byte of this text costs the network exactly one bit. ".repeat(20);
    std::fs::write(folder.path().join("text.txt"), &text).unwrap();
    let task = builtin::task("perplexity").unwrap();
    let mut coin = Function { length: 50, ..network(|_: &[u32], _| -std::f32::consts::LN_2) };
    let (result, ..) = run(&mut coin, &mut Cache::in_memory(), &task, folder.path(), &settings()).unwrap();
    assert!((result.measures["bits_per_byte"].value - 1.0).abs() < 1e-6);
    assert!((result.measures["token_perplexity"].value - 2.0).abs() < 1e-6);
    assert!(result.measures["word_perplexity"].value > 30.0);
    assert_eq!(result.measures["bits_per_byte"].standard_error, None, "one document");
}

#[test]
fn a_cloze_is_right_when_every_token_is_the_likeliest() {
    let task = builtin::task("lambada").unwrap();
    let score = |log_prob: f32| {
        let mut network = network(move |_: &[u32], _| log_prob);
        run(&mut network, &mut Cache::in_memory(), &task, fixtures(), &settings()).unwrap().0
    };
    let sure = score(-0.25);
    assert_eq!((sure.measure.as_str(), sure.score().unwrap().value), ("greedy", 1.0));
    // " letter" is seven tokens here.
    assert!((sure.measures["perplexity"].value - (7.0f64 * 0.25).exp()).abs() < 1e-9);
    assert_eq!(score(-1.0).score().unwrap().value, 0.0);
}

#[test]
fn items_in_the_training_text_are_told_apart() {
    let (folder, task) = sentiment(WORDS);
    let prefix = folder.path().join("tokens");
    let mut writer = Writer::create(&prefix, TokenType::U16, None).unwrap();
    for n in [4, 9] {
        let word = if n == 4 { "joy" } else { "sorrow" };
        let text = format!("Once upon a time: Sentence number {n} is full of {word}, they said.");
        writer.push_document(&Bytes.encode(&text).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let asked = Settings { training: vec![prefix], ..settings() };
    let (result, items, _) =
        run(&mut network(biased), &mut Cache::in_memory(), &task, folder.path(), &asked).unwrap();
    let found = result.decontamination.unwrap();
    // A run of thirteen bytes, "e number 4 is" or " is full of joy", is in many: those that share none are clean.
    assert_eq!(found.contaminated, 40);
    assert!(items[4]["contaminated"] == true && found.clean.is_none());
    assert_eq!(found.dirty.unwrap().value, 0.25);
}

#[test]
fn a_prompt_set_that_a_task_lacks_is_refused_unless_another_of_the_list_fits() {
    let task = builtin::task("lambada").unwrap();
    let asked = |names: &[&str]| Settings {
        prompts: names.iter().map(|&name| name.to_owned()).collect(),
        ..settings()
    };
    let run = |asked: &Settings| {
        run(&mut network(mixed), &mut Cache::in_memory(), &task, fixtures(), asked)
            .map(|found| found.0.prompt)
    };
    assert!(run(&asked(&["yuan"])).unwrap_err().to_string().contains("it has gpt3, lm-eval"));
    assert_eq!(run(&asked(&["yuan", "gpt3"])).unwrap(), "gpt3");
}

#[test]
fn groups_and_results_under_foreign_names_are_there() {
    let task = builtin::task("hans").unwrap();
    let (result, ..) =
        run(&mut network(mixed), &mut Cache::in_memory(), &task, fixtures(), &settings()).unwrap();
    let heuristics: Vec<&String> = result.groups["heuristic"].keys().collect();
    assert_eq!(heuristics, ["constituent", "subsequence"]);
    let model = ModelName {
        name: "m".to_owned(),
        identity: "i".to_owned(),
        tokenizer: "t".to_owned(),
        context_length: 64,
    };
    let json = results(&model, &[result]);
    let scores = &json["results"]["hans"];
    for name in ["acc", "acc_norm", "acc_bytes", "acc_stderr"] {
        assert!(scores[format!("{name},none")].is_number(), "{name} in {scores}");
    }
    assert_eq!((&json["versions"]["hans"], &json["n-samples"]["hans"]["effective"]), (&1.into(), &2.into()));
    assert_eq!(json["higher_is_better"]["hans"]["acc"], true);
}
