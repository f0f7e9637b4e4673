//! `triax curate`: a recipe from the command line, its output, and what was removed.

use super::{errors, lines, run, succeed, triax};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
[[source]]
name = "web"
paths = ["web.jsonl"]
[[step]]
kind = "size"
min_bytes = 20
[[step]]
kind = "exact_dedup"
"#;

fn inputs(folder: &Path) {
    let texts = [
        "a text that is long enough to be kept",
        "short",
        "a text that is there twice, I say",
        "one more text, of its own",
    ];
    let text = |number: usize| if number.is_multiple_of(5) { texts[2] } else { texts[number % 4] };
    let rows = (0..40).map(|number| {
        let text =
            if number % 4 == 1 { "short".to_owned() } else { format!("{} {}", text(number), number / 10) };
        format!("{}\n", serde_json::json!({ "text": text, "url": format!("http://host/{number}") }))
    });
    fs::write(folder.join("web.jsonl"), rows.collect::<String>()).unwrap();
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
}

#[test]
fn a_recipe_ends_in_documents_a_manifest_that_balances_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    inputs(folder);
    let arguments = ["curate", "recipe.toml", "--set", "step.size.min_bytes=10", "--out", "out", "--json"];
    let outcome = lines(&succeed(folder, &arguments)).remove(0);
    let number = |key: &str| outcome[key].as_u64().unwrap();
    assert_eq!(number("found"), 40);
    assert_eq!(number("kept") + number("removed"), 40);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["recipe"]["step"][0]["min_bytes"], 10);
    assert!(fs::read_to_string(folder.join("out/report.html")).unwrap().ends_with("</html>"));
    assert!(folder.join("out/documents/web/shard-00000.jsonl.zst").is_file());

    let removed = lines(&succeed(
        folder,
        &["curate", "inspect", "out", "--reason", "too_short", "--limit", "0", "--json"],
    ));
    assert_eq!(removed.len(), 10);
    assert!(removed.iter().all(|document| document["text"] == "short" && document["step"] == "size"));
    let shown = succeed(folder, &["curate", "inspect", "out", "--step", "exact_dedup", "--limit", "1"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("http://host/"));

    // Once more: nothing is left to do, and the outcome is the same.
    let again = lines(&succeed(folder, &arguments)).remove(0);
    assert_eq!(again["kept"], outcome["kept"]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    inputs(folder);
    for (arguments, part) in [
        (
            &["curate", "recipe.toml", "--set", "step.size.min_bites=1", "--out", "out"][..],
            "step.size.min_bytes",
        ),
        (&["curate", "crawl-em", "--out", "out"], "crawl-en"),
        (&["curate", "crawl-en", "--out", "out"], "--set source.crawl.paths"),
        (
            &["curate", "recipe.toml", "--rank", "3", "--world", "2", "--out", "out"],
            "ranks are counted from 0",
        ),
        (&["curate", "recipe.toml"], "--out"),
    ] {
        let output = run(folder, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(part), "{arguments:?}: {}", errors(&output));
        assert!(!folder.join("out").exists(), "{arguments:?}");
    }
    let printed = succeed(folder, &["curate", "recipe.toml", "--print"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("max_seconds") && printed.contains("min_bytes = 20"));
}

/// Eight sources of web pages' length, with equal and near copies across them, for a recipe of four phases.
fn many_sources(folder: &Path) {
    let mut recipe = String::new();
    for source in 0..8usize {
        let rows = (0..160usize).map(|number| {
            // Every fourth text is in two sources, and differs by its last word in every eighth.
            let seed =
                if number % 4 == 0 { number * 31 + source / 2 } else { number * 31 + source * 7919 + 5 };
            let mut state = seed as u64;
            let words = (0..150).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Letters: digits count as equal among near copies.
                let letter = |place: u32| char::from(b'a' + (state >> (30 + 5 * place) & 15) as u8);
                (0..4).map(letter).collect::<String>()
            });
            let text = words.collect::<Vec<_>>().join(" ");
            let end = if number % 8 == 0 { format!("{source}") } else { "end".to_owned() };
            let line = format!("{text}\nA line that all the pages of this site have in common.\nThe {end}.");
            format!(
                "{}\n",
                serde_json::json!({ "text": line, "url": format!("http://host{source}/{number}") })
            )
        });
        fs::write(folder.join(format!("{source}.jsonl")), rows.collect::<String>()).unwrap();
        recipe += &format!("[[source]]\nname = \"s{source}\"\npaths = [\"{source}.jsonl\"]\n");
    }
    for kind in ["gopher_repetition", "exact_dedup", "minhash_dedup", "line_dedup", "fineweb"] {
        recipe += &format!("[[step]]\nkind = \"{kind}\"\n");
    }
    fs::write(folder.join("recipe.toml"), recipe).unwrap();
}

/// Every file of a finished run but those it works with.
fn output(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != root.join("work") {
                walk(root, &path, files);
            } else if path.is_file() {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(out, out, &mut files);
    files
}

fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (output(found), output(expected));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{} differs", name.display());
    }
}

fn start(folder: &Path, out: &str, more: &[&str]) -> Child {
    let mut command = triax(folder);
    command.args(["curate", "recipe.toml", "--threads", "1", "--out", out]).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the run has `count` files to work with, then kills it; whether it was still at work.
fn kill_at(process: &mut Child, work: &Path, count: usize) -> bool {
    fn files(folder: &Path) -> usize {
        let Ok(entries) = fs::read_dir(folder) else { return 0 };
        entries.flatten().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
    }
    while files(work) < count {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    let was_at_work = process.try_wait().unwrap().is_none();
    process.kill().unwrap();
    process.wait().unwrap();
    was_at_work
}

#[test]
fn a_run_killed_at_any_point_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    many_sources(folder);
    assert!(start(folder, "whole", &[]).wait().unwrap().success());
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("whole/manifest.json")).unwrap()).unwrap();
    let count = |key: &str| manifest["totals"][key].as_u64().unwrap();
    assert!(count("removed") > 100 && count("kept") > 800, "copies are found: {}", manifest["totals"]);
    let mut killed = 0;
    for round in 0..3usize {
        let out = format!("killed-{round}");
        for kill in 0..8usize {
            // Somewhere in any phase; at a place that the run has passed it is killed as it starts.
            let count = (round * 61 + kill * 37) % 90;
            let was_at_work = kill_at(&mut start(folder, &out, &[]), &folder.join(&out).join("work"), count);
            killed += usize::from(was_at_work);
        }
        assert!(start(folder, &out, &[]).wait().unwrap().success());
        assert_same(&folder.join(&out), &folder.join("whole"));
    }
    assert!(killed > 3, "it was killed {killed} times");
}

#[test]
fn eight_processes_of_which_some_are_killed_keep_what_one_thread_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    many_sources(folder);
    assert!(start(folder, "whole", &[]).wait().unwrap().success());
    let rank = |rank: usize| start(folder, "ranks", &["--rank", &rank.to_string(), "--world", "8"]);
    let mut ranks: Vec<Child> = (0..8).map(rank).collect();
    // A worker and then the one that decides.
    for (victim, count) in [(5, 8), (0, 20)] {
        kill_at(&mut ranks[victim], &folder.join("ranks/work"), count);
        ranks[victim] = rank(victim);
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    for (number, mut process) in ranks.into_iter().enumerate() {
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                process.kill().unwrap();
                panic!("rank {number} has not ended");
            }
            sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "rank {number}: {status}");
    }
    assert_same(&folder.join("ranks"), &folder.join("whole"));
}
