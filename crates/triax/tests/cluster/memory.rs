//! A corpus of ten times the memory on a cluster inside the program: the bytes of a run that merges, and a worker that
//! spills instead of growing with its rows.

use super::{LONGEST, TRIAX, files, turn};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Megabytes that a run has for its rows.
const MEMORY: usize = 4;
const LINES: usize = 40;
const SHARDS: usize = 8;
/// Bytes of a row of `line_dedup` without its names.
const ROW: usize = 34;

/// Thirty letters in three words; no other number gives them.
fn line(number: u64) -> String {
    let mut state = number * 0x9e37_79b9 + 1;
    let mut line = String::new();
    for place in 0..30 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        line.push(char::from(b'a' + (state >> 33) as u8 % 26));
        if place % 10 == 9 && place < 29 {
            line.push(' ');
        }
    }
    line
}

/// A recipe over documents of which every third line stands in four others, too.
fn inputs(folder: &Path, documents: usize) -> String {
    let mut recipe = String::new();
    for shard in 0..SHARDS {
        let mut lines = String::new();
        for document in (shard..documents).step_by(SHARDS) {
            let number = |place| {
                let own = (document * LINES + place) as u64;
                if place % 3 == 0 { own * 7919 % (documents * LINES / 15) as u64 } else { own + (1 << 40) }
            };
            let text: Vec<String> = (0..LINES).map(|place| line(number(place))).collect();
            writeln!(lines, "{}", serde_json::json!({ "key": document, "text": text.join("\n") })).unwrap();
        }
        let name = format!("{documents}-{shard}.jsonl");
        fs::write(folder.join(&name), lines).unwrap();
        writeln!(recipe, "[[source]]\nname = \"web{shard}\"\npaths = [{name:?}]").unwrap();
    }
    writeln!(recipe, "[[step]]\nkind = \"line_dedup\"\n[run]\nthreads = 2\nmemory_mb = {MEMORY}").unwrap();
    let name = format!("lines-{documents}.toml");
    fs::write(folder.join(&name), recipe).unwrap();
    name
}

/// Runs a recipe and returns the most megabytes that its process had resident.
fn curate(folder: &Path, recipe: &str, out: &str, more: &[&str]) -> usize {
    let mut command = Command::new(TRIAX);
    command.args(["curate", recipe, "--out", out]).args(more).current_dir(folder);
    let mut run = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (status, mut peak) = (format!("/proc/{}/status", run.id()), 0);
    let patience = Duration::from_secs(LONGEST.parse().unwrap());
    let begin = std::time::Instant::now();
    loop {
        // The system keeps the highest value itself; it goes with the process.
        let now = fs::read_to_string(&status).unwrap_or_default();
        let highest = now.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak =
            peak.max(highest.map_or(0, |kibibytes| kibibytes.parse::<usize>().unwrap() * 1024 / 1_000_000));
        if let Some(status) = run.try_wait().unwrap() {
            assert!(status.success(), "{recipe} {more:?}: {status}");
            return peak;
        }
        assert!(begin.elapsed() < patience, "{recipe} {more:?} does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_cluster_inside_the_program_takes_rows_of_ten_times_its_memory() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    const DOCUMENTS: usize = 30_000;
    const { assert!(DOCUMENTS * LINES * ROW >= 10 * MEMORY * 1_000_000) };
    let (few, many) = (inputs(folder, 300), inputs(folder, DOCUMENTS));
    curate(folder, &many, "here", &[]);
    let inside = ["--cluster", "in-process"];
    let small = curate(folder, &few, "small", &inside);
    let large = curate(folder, &many, "there", &inside);
    println!("resident at the most: {small} MB with 300 documents, {large} MB with {DOCUMENTS}");
    assert!(files(&folder.join("there")) == files(&folder.join("here")));
    assert!(
        !folder.join("there").join("work").join("cluster").exists(),
        "what was spilled and shuffled is gone"
    );
    // 40 MB were measured, and 150 where the worker may hold all rows at once.
    assert!(large < small + 90, "{small} MB with few rows, {large} MB with many");
}
