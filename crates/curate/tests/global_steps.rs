//! Every step over the whole corpus in one recipe: the same documents for any number of threads and shards, and the same
//! bytes after any interruption.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use triax_curate::pipeline::{Manifest, Place, run};
use triax_curate::{CurateError, Document, Recipe};

const ITEM: &str = "Which of these seven lighthouse keepers wrote the letter that the harbour master found in the rain barrel";

/// Words that no other number gives.
fn prose(number: usize, words: usize) -> String {
    let mut state = number as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut text = String::new();
    for place in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let letters = state.to_be_bytes().map(|byte| char::from(b'a' + byte % 26));
        text.extend(&letters[..3 + (state >> 60) as usize % 5]);
        text.push_str(if place % 11 == 10 { ".\n" } else { " " });
    }
    text
}

/// Documents with their ids: exact copies, near copies, a footer, items of a test.
fn documents() -> Vec<(String, String)> {
    let mut documents = Vec::new();
    for number in 0..240 {
        let mut text = prose(number, 260);
        match number % 12 {
            1 => text = prose(number - 1, 260),
            3 => {
                let near = prose(number - 1, 260);
                text = near.replacen(near.split(' ').nth(7).unwrap(), "otherwise", 1);
            }
            5 | 6 => text.push_str("\nSubscribe to our newsletter for more stories of this kind.\n"),
            8 if number < 60 => text = format!("{text}{ITEM}. {}", prose(number + 1000, 200)),
            _ => {}
        }
        documents.push((format!("d{number}"), text));
    }
    documents
}

/// Writes the documents to `files` sources of one file, which are shards of their own, and returns a recipe over them.
fn recipe(folder: &Path, files: usize, settings: &str) -> Recipe {
    let documents = documents();
    let mut sources = String::new();
    for (number, part) in documents.chunks(documents.len().div_ceil(files)).enumerate() {
        let lines = part.iter().fold(String::new(), |mut lines, (id, text)| {
            writeln!(lines, "{}", serde_json::json!({ "key": id, "text": text })).unwrap();
            lines
        });
        let path = folder.join(format!("{files}-{number:02}.jsonl"));
        std::fs::write(&path, lines).unwrap();
        let path = path.display().to_string();
        writeln!(sources, "[[source]]\nname = \"web{number}\"\npaths = [{path:?}]").unwrap();
    }
    let set = folder.join("set.jsonl");
    std::fs::write(&set, serde_json::json!({ "question": ITEM }).to_string()).unwrap();
    let text = format!(
        "{sources}[[step]]\nkind = \"exact_dedup\"\n[[step]]\nkind = \"minhash_dedup\"\njaccard = 0.6\n\
         [[step]]\nkind = \"line_dedup\"\n[[step]]\nkind = \"substring_dedup\"\n\
         [[step]]\nkind = \"decontaminate\"\nsets = [{{ path = {:?}, fields = [\"question\"] }}]\n[run]\n{settings}\n",
        set.display().to_string()
    );
    Recipe::parse("test.toml", &text, &[]).unwrap()
}

fn run_whole(recipe: &Recipe, out: &Path) -> Manifest {
    run(recipe, out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap()
}

/// Key and text of every kept document.
fn kept(out: &Path, manifest: &Manifest) -> BTreeSet<(String, String)> {
    let mut kept = BTreeSet::new();
    for file in manifest.sources.iter().flat_map(|source| &source.files) {
        let bytes = zstd::decode_all(std::fs::File::open(out.join(&file.path)).unwrap()).unwrap();
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let document: Document = serde_json::from_slice(line).unwrap();
            kept.insert((document.metadata["key"].as_str().unwrap().to_owned(), document.text));
        }
    }
    kept
}

/// All files that a run leaves, but for the recipe and its own folder.
fn output(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(out).unwrap().display().to_string();
            if path.is_dir() {
                if name != "work" {
                    folders.push(path);
                }
            } else if name != "recipe.toml" {
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn each_step_finds_what_was_planted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let manifest = run_whole(&recipe(folder.path(), 1, "threads = 1"), &out);
    let removed = |step: &str, reason: &str| {
        let step = manifest.steps.iter().find(|found| found.name == step).unwrap();
        step.count.removed.get(reason).map_or(0, |removed| removed.tally.documents)
    };
    assert_eq!(removed("exact_dedup", "duplicate_text"), 20);
    assert_eq!(removed("minhash_dedup", "minhash_duplicate"), 20);
    let kept = kept(&out, &manifest);
    assert_eq!(kept.iter().filter(|(_, text)| text.contains("newsletter")).count(), 1);
    assert!(kept.iter().all(|(_, text)| !text.contains("lighthouse")));
    let pieces = kept.iter().filter(|(key, _)| key == "d8").count();
    assert_eq!(pieces, 2, "the text before the item and the text after it");
}

#[test]
fn threads_shards_and_memory_keep_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let run = |files, settings: &str| {
        let out = folder.path().join(format!("out-{files}-{}", settings.len()));
        let manifest = run_whole(&recipe(folder.path(), files, settings), &out);
        kept(&out, &manifest)
    };
    let one = run(1, "threads = 1");
    assert_eq!(run(8, "threads = 4"), one);
    assert_eq!(run(240, "threads = 2\nmemory_mb = 20"), one);
}

#[test]
fn a_run_stopped_at_random_points_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), 8, "threads = 2");
    run_whole(&recipe, &folder.path().join("whole"));
    let expected = output(&folder.path().join("whole"));
    for seed in 0..3u64 {
        let out = folder.path().join(format!("stopped-{seed}"));
        let mut stops = 0;
        loop {
            let stop = AtomicBool::new(false);
            // Longer from time to time, so that the run ends on the slowest machine too.
            let wait = Duration::from_micros((seed + 1) * 1500 + stops * 700);
            let made = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(wait);
                    stop.store(true, Ordering::Relaxed);
                });
                run(&recipe, &out, Place::WHOLE, &stop, &mut |_| ())
            });
            match made {
                Ok(_) => break,
                Err(CurateError::Interrupted) => stops += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(stops > 0, "it was stopped at least once");
        assert_eq!(output(&out), expected, "after {stops} stops");
    }
}
