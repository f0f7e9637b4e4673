//! Run files as people write them: the recipes, the reference page, many problems at once, writing and reading back.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use proptest::prelude::*;
use std::path::{Path, PathBuf};
use triax_spec::run::{Amount, Decay, OnSpike, Precision, SpikeAction};
use triax_spec::{Fault, Place, Run, presets};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the repository has this folder");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn parse(text: &str) -> Result<Run, triax_spec::Errors> {
    Run::parse("run.toml", text, &[])
}

const BLEND: &str = "[data]\nblend = [{ path = \"tokens/a\" }]\n";

#[test]
fn every_recipe_loads_and_reads_back() {
    // Folders hold recipes of other kinds.
    for path in files(&root().join("recipes")).into_iter().filter(|path| path.is_file()) {
        let run = Run::load(&path, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(parse(&run.to_toml()).unwrap(), run, "{}", path.display());
    }
}

#[test]
fn the_mt_nlg_recipe_is_the_papers() {
    let run = Run::load(&root().join("recipes/mt-nlg-530b.toml"), &[]).unwrap();
    assert_eq!(run.data.blend.len(), 15);
    let sum: f64 = run.data.blend.iter().map(|source| source.weight).sum();
    assert!((sum - 100.0).abs() < 1e-9, "{sum}");
    assert_eq!(run.train.stop, Amount::Tokens(270_000_000_000));
    assert_eq!(run.train.batch_at(0), 32);
    assert_eq!(run.train.precision, Precision::Bf16);
    assert!((triax_spec::parameters(&run.model) as f64 / 1e9 - 529.6).abs() < 0.05);
}

#[test]
fn the_reference_page_is_the_table_of_keys() {
    let path = root().join("docs/run-file.md");
    let page = triax_spec::reference();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page, "docs/run-file.md is out of date; refresh it with UPDATE_EXPECT=1 cargo test");
}

#[test]
fn all_problems_come_together_with_their_places() {
    let text = "[model]\npreset = \"tiny-gpt\"\nlayer = 3\n\n[data]\nblend = [{ path = \"a\", weight = -1 }]\n\n\
                [train]\nlearning_rate = { peek = 1e-4, floor = 2.0 }\nmicro_batch = 2\nstop = 500\n";
    let errors = Run::parse("run.toml", text, &["train.precision=f17".into(), "seed".into()]).unwrap_err();
    let mut seen: Vec<String> = errors.to_string().lines().map(str::to_owned).collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "--set seed: an override needs a `=`; write it as --set train.learning_rate.peak=1e-4",
            "--set train.precision=f17: `train.precision` is \"f17\" but must be one of \"bf16\", \"f16\", \"f32\"; \
             `train.precision = \"f16\"` would work",
            "run.toml:10:1: unknown key `train.micro_batch`; did you mean `layout.micro_batch`?",
            "run.toml:11:8: `train.stop` must be an amount above 0 such as \"500 steps\", \"3k samples\" or \
             \"12B tokens\", not a whole number; `train.stop = \"1000 steps\"` would work",
            "run.toml:3:1: unknown key `model.layer`; did you mean `model.layers`?",
            "run.toml:6:33: `data.blend[0].weight` is -1 but must be a number from 1e-9 to 1000000000.0; \
             `data.blend[0].weight = 2.0` would work",
            "run.toml:9:19: unknown key `train.learning_rate.peek`; did you mean `train.learning_rate.peak`?",
        ]
    );
}

#[test]
fn contradictions_give_one_message_with_a_way_out() {
    for (lines, key, works) in [
        ("model.heads = 5", "model.heads", "model.heads = 4 with model.head_dim = 16"),
        ("model.kv_heads = 3", "model.kv_heads", "model.kv_heads = 4"),
        ("model.positions = \"rotary\"\nmodel.head_dim = 15", "model.head_dim", "model.head_dim = 16"),
        ("train.sequence = 129", "train.sequence", "train.sequence = 128"),
        (
            "train.learning_rate.floor = 0.5",
            "train.learning_rate.floor",
            "train.learning_rate.floor = 1.0e-4",
        ),
        (
            "train.learning_rate.warmup = \"400 steps\"",
            "train.learning_rate.warmup",
            "train.learning_rate.warmup = \"4 steps\"",
        ),
        ("layout.micro_batch = 3", "layout.micro_batch", "layout.micro_batch = 2"),
        (
            "train.global_batch = { start = 32, step = 30, end = 128, over = \"1M tokens\" }",
            "train.global_batch.step",
            "train.global_batch.step = 32",
        ),
        (
            "train.global_batch = { start = 32, step = 32, end = 16, over = \"1M tokens\" }",
            "train.global_batch.step",
            "train.global_batch.start = 16",
        ),
        (
            "train.global_batch = { start = 16, step = 16, end = 32 }",
            "train.global_batch.step",
            "train.global_batch.over = \"3200 samples\"",
        ),
        (
            "train.precision = \"f16\"\ntrain.loss_scale = { initial = 8.0, minimum = 16.0 }",
            "train.loss_scale.initial",
            "train.loss_scale.minimum = 1.0",
        ),
        ("train.loss_scale.window = 10", "train.loss_scale.window", "train.precision = \"f16\""),
        (
            "train.on_spike.action = \"rollback\"\ncheckpoint.every = \"0 steps\"",
            "train.on_spike.action",
            "checkpoint.every = \"500 steps\"",
        ),
        ("train.on_spike.loss_sigma = 0", "train.on_spike.loss_sigma", "train.on_spike.loss_sigma = 6.0"),
        ("train.evaluate_every = 5", "train.evaluate_every", "train.evaluate_every = 0"),
        (
            "data.validation = [{ path = \"v\" }, { path = \"v\" }]",
            "data.validation[1].path",
            "one entry with weight 2.0",
        ),
        ("model.rope_base = 5e5", "model.rope_base", "model.positions = \"rotary\""),
        ("device = { kind = \"reference\", kernel = \"avx2\" }", "device.kernel", "device.kind = \"cpu\""),
    ] {
        let text = format!("data.blend = [{{ path = \"a\" }}]\nmodel.preset = \"tiny-gpt\"\n{lines}\n");
        let errors = parse(&text).expect_err(&text);
        let [problem] = errors.problems.as_slice() else { panic!("{text}\n--\n{errors}") };
        let Fault::Rule { key: at, works: way, .. } = &problem.fault else { panic!("{errors}") };
        assert_eq!((at.as_str(), way.as_str()), (key, works), "{errors}");
        assert!(matches!(problem.place, Place::File { line: 3.., .. }), "{errors}");
    }
}

#[test]
fn an_empty_file_says_what_a_run_needs() {
    let errors = parse("").unwrap_err();
    let missing: Vec<String> = errors.problems.iter().map(|problem| problem.fault.to_string()).collect();
    assert_eq!(missing.len(), 3, "{errors}");
    for (message, key) in missing.iter().zip(["model.preset", "data.blend", "train.stop"]) {
        assert!(message.starts_with(&format!("`{key}` is missing")), "{message}");
    }
}

#[test]
fn broken_toml_is_shown_at_its_place() {
    let errors = parse("[model]\npreset = \"tiny-gpt\nlayers = 3\n").unwrap_err();
    assert!(matches!(errors.problems[0].place, Place::File { line: 2, .. }), "{errors}");
    assert!(matches!(errors.problems[0].fault, Fault::Syntax { .. }));
}

#[test]
fn a_missing_file_and_a_binary_one_are_named() {
    let errors = Run::load(Path::new("no/such.toml"), &[]).unwrap_err();
    assert!(errors.to_string().starts_with("no/such.toml: cannot be read"), "{errors}");
}

#[test]
fn overrides_reach_nested_values_and_bare_words() {
    let text = format!("model.preset = \"gpt2-124m\"\n{BLEND}");
    let overrides = [
        "train.learning_rate.peak=1e-4",
        "train.stop=12B tokens",
        "train.precision = f32",
        "data.blend.0.weight=3",
        "model.vocab=50304",
        "layout.recompute=\"full\"",
        "train.global_batch={ start = 32, step = 32, end = 64, over = '1M tokens' }",
    ];
    let run = Run::parse("run.toml", &text, &overrides.map(str::to_owned)).unwrap();
    assert_eq!(run.train.learning_rate.peak, 1e-4);
    assert!((run.train.learning_rate.floor - 1e-5).abs() < 1e-10, "the floor keeps its share of the peak");
    assert_eq!(run.train.stop, Amount::Tokens(12_000_000_000));
    assert_eq!(run.train.precision, Precision::F32);
    assert_eq!(run.data.blend[0].weight, 3.0);
    assert_eq!(run.model.vocab, 50304);
    assert_eq!(run.train.global_batch.end, 64);
}

#[test]
fn an_impossible_layout_says_what_would_work() {
    let with = |layout: &str| {
        let text = format!(
            "[model]\npreset = \"gpt2-124m\"\n[data]\nblend = [ {{ path = \"a\" }} ]\n[layout]\n{layout}"
        );
        Run::parse("run.toml", &text, &[]).unwrap_err().to_string()
    };
    let heads = with("tensor = 8");
    assert!(heads.contains("heads 12 cannot be split by tensor 8: use 1, 2, 3, 4, 6 or 12"), "{heads}");
    let stages = with("pipeline = 13");
    assert!(stages.contains("12 layers cannot fill 13 stages"), "{stages}");
    let tokens = with("tensor = 4\nsequence_parallel = true\nmicro_batch = 6");
    assert!(tokens.contains("cannot be cut into 4 parts"), "{tokens}");
}

#[test]
fn a_wider_preset_keeps_its_proportions() {
    let text = format!("model = {{ preset = \"llama3-8b\", hidden = 2048, heads = 16 }}\n{BLEND}");
    let model = parse(&text).unwrap().model;
    assert_eq!((model.head_dim, model.kv_heads, model.ffn), (128, 4, 7168));
}

#[test]
fn units_of_warm_up_and_decay_are_made_one() {
    let text = format!(
        "model.preset = \"tiny-gpt\"\ntrain.global_batch = 4\n\
         train.learning_rate = {{ warmup = \"10 steps\", over = \"1M tokens\" }}\n{BLEND}"
    );
    let rate = parse(&text).unwrap().train.learning_rate;
    assert_eq!((rate.warmup, rate.over), (Amount::Samples(40), Amount::Samples(7813)));
}

#[test]
fn the_corpus_replays() {
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")) {
        triax_spec::fuzz_run_file(&std::fs::read(path).unwrap());
    }
}

proptest! {
    #[test]
    fn every_run_reads_back_from_what_it_writes(
        preset in 0..presets::PRESETS.len(),
        peak in 1e-9f32..1.0,
        tail in 0.001f32..1.0,
        weight in 1e-6f64..1e6,
        seed in 0..i64::MAX as u64,
        stop in 1u64..=Amount::MOST,
        path in "\\PC{1,20}",
        spikes in any::<bool>(),
    ) {
        prop_assume!(!path.trim().is_empty());
        let preset = &presets::PRESETS[preset];
        let text = format!("model.preset = \"{}\"\n{BLEND}", preset.name);
        let mut run = parse(&text).unwrap();
        prop_assert_eq!(&run.model, &preset.model);
        prop_assert_eq!(&run.train, &preset.recipe.train(&preset.model));
        run.data.seed = seed;
        run.data.blend[0].weight = weight;
        run.data.blend[0].path = path.into();
        run.train.stop = Amount::Tokens(stop);
        run.train.learning_rate.peak = peak;
        run.train.learning_rate.floor = peak / 3.0;
        run.train.learning_rate.decay = Decay::WarmupStableDecay { tail };
        run.train.on_spike = spikes.then_some(OnSpike {
            loss_sigma: 4.0, norm_sigma: 0.0, window: 7, action: SpikeAction::Stop, limit: 1,
        });
        prop_assert_eq!(parse(&run.to_toml()).map_err(|errors| errors.to_string()), Ok(run));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,80}", override_text in "[a-z.]{0,12}=?\\PC{0,12}") {
        triax_spec::fuzz_run_file(text.as_bytes());
        let _ = Run::parse("run.toml", &text, &[override_text]);
    }
}
