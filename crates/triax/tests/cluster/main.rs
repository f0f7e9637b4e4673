//! `triax curate --cluster`: the same bytes as without one, from a cluster inside the program, from processes on the
//! loopback interface, and from one of which a worker is killed.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TRIAX: &str = env!("CARGO_BIN_EXE_triax");

/// Longest time of a run, in seconds.
const LONGEST: &str = "600";

/// Longest time of anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(240);

/// One test at a time: each has more processes than the machine has cores.
static MACHINE: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a run with this output folder keeps what a phase has made so far.
fn phase(folder: &Path, out: &str, number: usize) -> PathBuf {
    folder.join(out).join("work").join(format!("phase-{number}"))
}

/// What processes in the background say.
const LOG: &str = "processes.log";

/// Ends with the value.
struct Process(Child);

impl Process {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(folder.join(LOG)).unwrap();
        let mut command = Command::new(TRIAX);
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A coordinator and workers on the loopback interface.
struct Cluster {
    address: String,
    _coordinator: Process,
    workers: Vec<Process>,
}

impl Cluster {
    fn start(folder: &Path, workers: usize) -> Self {
        // Free now; nobody else on the machine asks for one so soon.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let coordinator =
            Process::start(folder, &["cluster", "coordinator", "--listen", &address.to_string()]);
        until("the coordinator", || TcpStream::connect(address).is_ok());
        let mut cluster =
            Self { address: address.to_string(), _coordinator: coordinator, workers: Vec::new() };
        for _ in 0..workers {
            cluster.add_worker(folder);
        }
        cluster
    }

    fn add_worker(&mut self, folder: &Path) {
        let scratch = folder.join(format!("scratch-{}", self.workers.len()));
        let worker = ["cluster", "worker", "--coordinator", &self.address, "--threads", "1"];
        let scratch = ["--scratch", scratch.to_str().unwrap()];
        self.workers.push(Process::start(folder, &[&worker[..], &scratch].concat()));
    }
}

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

/// Text and address of a document: exact copies, near copies, addresses that come again, a footer.
fn document(number: usize) -> (String, String) {
    let text = match number % 12 {
        1 => prose(number - 1, 160),
        3 => {
            let near = prose(number - 1, 160);
            near.replacen(near.split(' ').nth(7).unwrap(), "otherwise", 1)
        }
        5 | 6 => {
            format!("{}\nSubscribe to our newsletter for more stories of this kind.\n", prose(number, 160))
        }
        _ => prose(number, 160),
    };
    let page = if number % 12 == 8 { number / 24 } else { number };
    (text, format!("http://host/{page}"))
}

/// The documents in sources of one file, which are shards of their own, and a recipe with every step that a cluster joins.
fn inputs(folder: &Path, documents: usize, shards: usize) -> String {
    let mut recipe = String::new();
    for shard in 0..shards {
        let each = documents.div_ceil(shards);
        let numbers = shard * each..((shard + 1) * each).min(documents);
        let lines = numbers.fold(String::new(), |mut lines, number| {
            let (text, url) = document(number);
            writeln!(lines, "{}", serde_json::json!({ "key": number, "text": text, "url": url })).unwrap();
            lines
        });
        let name = format!("{shards}-{shard}.jsonl");
        fs::write(folder.join(&name), lines).unwrap();
        writeln!(recipe, "[[source]]\nname = \"web{shard}\"\npaths = [{name:?}]").unwrap();
    }
    for step in [
        "kind = \"exact_dedup\"\nname = \"addresses\"\nby = \"url\"",
        "kind = \"exact_dedup\"",
        "kind = \"minhash_dedup\"\njaccard = 0.6",
        "kind = \"line_dedup\"",
    ] {
        writeln!(recipe, "[[step]]\n{step}").unwrap();
    }
    let name = format!("recipe-{shards}.toml");
    fs::write(folder.join(&name), recipe).unwrap();
    name
}

fn curate(folder: &Path, recipe: &str, out: &str, more: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args([LONGEST, TRIAX, "curate", recipe, "--out", out])
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// All files that a run leaves, but for its own folder, which must hold no relation of a cluster any more.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![out.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let is_work = path.starts_with(out.join("work"));
            if path.is_dir() {
                folders.push(path);
            } else if is_work {
                assert!(path.extension().is_none_or(|ending| ending != "parquet"), "{}", path.display());
            } else {
                files.insert(path.strip_prefix(out).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Key and text of every kept document.
fn kept(out: &Path) -> BTreeSet<(u64, String)> {
    let documents = files(out).into_iter().filter(|(path, _)| path.starts_with("documents"));
    let mut kept = BTreeSet::new();
    for (_, bytes) in documents {
        let lines = zstd::decode_all(&bytes[..]).unwrap();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let document: serde_json::Value = serde_json::from_slice(line).unwrap();
            let text = document["text"].as_str().unwrap().to_owned();
            kept.insert((document["metadata"]["key"].as_u64().unwrap(), text));
        }
    }
    kept
}

fn removed(out: &Path) -> BTreeSet<String> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let steps = manifest["steps"].as_array().unwrap().iter();
    steps.flat_map(|step| step["removed"].as_object().unwrap().keys().cloned()).collect()
}

#[test]
fn a_cluster_inside_the_program_keeps_what_one_thread_and_eight_shards_keep() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (one, eight) = (inputs(folder, 480, 1), inputs(folder, 480, 8));
    curate(folder, &one, "one", &["--threads", "1"]);
    curate(folder, &eight, "eight", &["--threads", "2"]);
    curate(folder, &eight, "cluster", &["--threads", "2", "--cluster", "in-process"]);
    curate(folder, &one, "one-cluster", &["--threads", "1", "--cluster", "in-process"]);
    let reasons = ["duplicate_lines", "duplicate_text", "duplicate_url", "minhash_duplicate"];
    let found = removed(&folder.join("eight"));
    assert!(reasons[1..].iter().all(|&reason| found.contains(reason)), "{found:?}");
    assert!(
        files(&folder.join("cluster")) == files(&folder.join("eight")),
        "eight shards, with and without a cluster"
    );
    assert!(
        files(&folder.join("one-cluster")) == files(&folder.join("one")),
        "one shard, with and without a cluster"
    );
    assert!(kept(&folder.join("one")) == kept(&folder.join("cluster")), "one shard here, eight on a cluster");
}

#[test]
fn processes_of_a_cluster_leave_the_same_bytes_and_take_over_from_a_run_without_one() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let recipe = inputs(folder, 480, 8);
    curate(folder, &recipe, "here", &["--threads", "2"]);
    let expected = files(&folder.join("here"));
    let cluster = Cluster::start(folder, 2);
    curate(folder, &recipe, "there", &["--threads", "2", "--cluster", &cluster.address]);
    assert!(files(&folder.join("there")) == expected);

    // Begun without a cluster and killed in the middle.
    let mut begun = Process::start(folder, &["curate", &recipe, "--out", "both", "--threads", "2"]);
    until("the first phase", || phase(folder, "both", 0).join("done").exists());
    begun.kill();
    curate(folder, &recipe, "both", &["--threads", "2", "--cluster", &cluster.address]);
    assert!(files(&folder.join("both")) == expected);
}

#[test]
fn a_killed_worker_and_a_killed_run_change_no_byte_that_a_cluster_leaves() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let recipe = inputs(folder, 6000, 8);
    curate(folder, &recipe, "here", &["--threads", "2"]);
    let mut cluster = Cluster::start(folder, 2);
    let arguments =
        ["curate", &recipe, "--out", "there", "--threads", "2", "--cluster", &cluster.address.clone()]
            .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    // A worker with rows of a plan on its disk is killed while the plan runs, and nobody takes its place.
    let mut run = Process::start(folder, &arguments);
    until("a plan", || phase(folder, "there", 0).join("decisions").exists());
    until("shuffled rows", || holds_files(&folder.join("scratch-0")));
    cluster.workers[0].kill();
    // The command itself is killed in a later join, with the plan under way.
    until("a later plan", || phase(folder, "there", 2).join("decisions/links").exists());
    assert!(run.0.try_wait().unwrap().is_none(), "the run goes on with one worker");
    run.kill();

    // Another worker comes; the last of the first ones is killed too while the run goes on from where it stopped.
    cluster.add_worker(folder);
    let mut run = Process::start(folder, &arguments);
    until("a plan of the second start", || phase(folder, "there", 2).join("decisions/pairs").exists());
    cluster.workers[1].kill();
    until("the end", || run.0.try_wait().unwrap().is_some());
    assert!(run.0.wait().unwrap().success(), "{}", fs::read_to_string(folder.join(LOG)).unwrap());
    assert!(files(&folder.join("there")) == files(&folder.join("here")));
}

fn holds_files(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() { holds_files(&path) } else { true }
    })
}

#[test]
fn a_cluster_without_a_coordinator_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = inputs(folder.path(), 12, 1);
    for (address, part) in [("127.0.0.1:1", "triax cluster coordinator"), ("localhost", "HOST:PORT")] {
        let output = Command::new(TRIAX)
            .args(["curate", &recipe, "--out", "out", "--cluster", address])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{said}");
        assert!(!folder.path().join("out").exists());
    }
}
