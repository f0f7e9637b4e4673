//! The recipes that come with the program: each is whole, and runs on real files.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use triax_curate::Recipe;
use triax_curate::pipeline::{Manifest, Place, run};
use triax_curate::recipe::{Built, READY};

/// A ready recipe with the same paths for every source.
fn ready(name: &str, paths: &[PathBuf], more: &[String]) -> Recipe {
    let (_, text) = READY.iter().find(|(found, _)| *found == name).unwrap();
    let plain = Recipe::parse(name, text, &[]).unwrap();
    let paths = toml::Value::from(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>());
    let mut overrides: Vec<String> =
        plain.sources.iter().map(|source| format!("source.{}.paths={paths}", source.name)).collect();
    overrides.extend_from_slice(more);
    Recipe::parse(name, text, &overrides).unwrap()
}

fn carry_out(recipe: &Recipe) -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let manifest = run(recipe, &out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap();
    let totals = manifest.totals;
    assert_eq!(totals.found + totals.made, totals.kept + totals.removed, "{}", recipe.name);
    assert!(totals.found > 0, "{} found nothing", recipe.name);
    manifest
}

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("TRIAX_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TRIAX_TEST_DATA is not set");
    }
    folder
}

fn removed(manifest: &Manifest, step: &str) -> u64 {
    let step = manifest.steps.iter().find(|found| found.name == step).unwrap();
    step.count.removed.values().map(|removed| removed.tally.documents).sum()
}

#[test]
fn every_ready_recipe_is_read_built_and_says_every_parameter() {
    for (name, text) in READY {
        let recipe = Recipe::parse(name, text, &[]).unwrap();
        assert_eq!(recipe.name, *name);
        let steps = recipe.build().unwrap();
        assert!(steps.iter().any(|step| matches!(step, Built::Global(_))), "{name} compares documents");
        // Written out it is the same recipe, with nothing left to defaults.
        assert_eq!(Recipe::parse(name, &recipe.to_toml(), &[]).unwrap(), recipe);
        // The steps over all documents stand in the file with every parameter.
        let file: toml::Table = text.parse().unwrap();
        for (written, step) in file["step"].as_array().unwrap().iter().zip(&recipe.steps) {
            let is_crawl = name.starts_with("crawl");
            if is_crawl && matches!(&*step.kind, "exact_dedup" | "minhash_dedup" | "decontaminate") {
                for key in step.settings.keys() {
                    assert!(written.get(key).is_some(), "{name} leaves {}.{key} to its default", step.name);
                }
            }
        }
    }
}

#[test]
fn the_recipes_of_files_and_of_many_sources_run_on_the_programs_own_sources() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = carry_out(&ready("files", &[here.join("src/readers"), here.join("../../recipes")], &[]));
    assert!(manifest.totals.kept > 10);
    // Fifteen sources of the same texts: the one of the highest priority keeps them.
    let manifest = carry_out(&ready("mt-nlg", &[here.join("src/readers")], &[]));
    let kept: Vec<&str> = manifest
        .sources
        .iter()
        .filter(|source| source.files.iter().any(|file| file.documents > 0))
        .map(|source| source.name.as_str())
        .collect();
    assert_eq!(kept, ["books3"]);
    assert_eq!(removed(&manifest, "exact_dedup") * 15, manifest.totals.found * 14);
}

#[test]
fn the_recipe_of_an_english_crawl_runs_on_archives() {
    let Some(data) = data() else { return };
    let sets = format!(
        "step.decontaminate.sets=[{{path={}, fields=[\"text\"]}}]",
        toml::Value::from(data.join("eval/en/lambada_test.jsonl").display().to_string())
    );
    let archives = [data.join("warc/sample-0000.warc.gz"), data.join("warc/sample-0001.warc.gz")];
    let manifest = carry_out(&ready("crawl-en", &archives, &[sets]));
    let step = manifest.steps.iter().find(|step| step.name == "decontaminate").unwrap();
    assert!(step.resolution.as_ref().unwrap()["ngrams"].as_u64().unwrap() > 5000);
    // Articles with their text given: good ones are among them, and each twice leaves one.
    let folder = tempfile::tempdir().unwrap();
    let truth: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data.join("extraction/articles/ground-truth.json")).unwrap())
            .unwrap();
    let lines = |from: usize| -> String {
        let articles = truth.as_object().unwrap().values().skip(from).take(60);
        articles
            .map(|article| format!("{}\n", serde_json::json!({ "text": article["articleBody"] })))
            .collect()
    };
    std::fs::write(folder.path().join("a.jsonl"), lines(0)).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), lines(30)).unwrap();
    let jsonl = "source.crawl.format=\"jsonl\"".to_owned();
    let manifest = carry_out(&ready("crawl-en", &[folder.path().to_owned()], &[jsonl]));
    assert_eq!(manifest.totals.found, 120);
    let copies = removed(&manifest, "exact_dedup");
    assert!((20..=30).contains(&copies), "{copies} copies of 30");
    assert!(manifest.totals.kept >= 60, "{} articles are kept", manifest.totals.kept);
}

#[test]
fn the_recipe_of_a_chinese_crawl_runs_on_texts_good_and_bad() {
    let Some(data) = data() else { return };
    let sets = format!(
        "step.decontaminate.sets=[{{path={}, fields=[\"content\"]}}]",
        toml::Value::from(data.join("eval/zh/chid/test_public.json").display().to_string())
    );
    let jsonl = "source.crawl.format=\"jsonl\"".to_owned();
    let (good, bad) = (data.join("zh-quality/clean.jsonl"), data.join("zh-quality/dirty.jsonl"));
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again.jsonl");
    std::fs::copy(&good, &again).unwrap();
    let manifest = carry_out(&ready("crawl-zh", &[good, bad, again], &[jsonl, sets]));
    assert!(removed(&manifest, "exact_dedup") > 0, "the texts that are there twice");
    assert!(manifest.totals.kept > 0);
}
