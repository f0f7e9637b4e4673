//! The program's ranks as processes under `mpirun`: the bits of ranks as threads, one line that says who is missing when
//! a rank is killed, refusal of ranks that were started differently, restarts. Skipped without `mpirun`.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod hosts;
mod kernels;
#[path = "../logs/mod.rs"]
mod logs;

use logs::log;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TRIAX: &str = env!("CARGO_BIN_EXE_triax");

/// Longest time of a launch.
const LONGEST: &str = "100";

/// One launch at a time: each has more processes than the machine has cores.
static MACHINE: Mutex<()> = Mutex::new(());

/// Waits for its turn; none without `mpirun`.
fn turn() -> Option<MutexGuard<'static, ()>> {
    let found = Command::new("mpirun").arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        println!("skipped: no mpirun (on Debian: openmpi-bin)");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Arguments of mpirun that every launch here has.
const EVERYWHERE: [&str; 3] = ["--oversubscribe", "--bind-to", "none"];

fn mpirun(folder: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args([LONGEST, "mpirun"]).args(EVERYWHERE).current_dir(folder).stdin(Stdio::null());
    as_root(&mut command);
    command
}

fn as_root(command: &mut Command) {
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
}

/// A launch of the program on `ranks` processes.
fn launch(folder: &Path, ranks: usize, arguments: &[&str]) -> Output {
    mpirun(folder).args(["-n", &ranks.to_string(), TRIAX]).args(arguments).output().unwrap()
}

fn triax(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(TRIAX).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Token files and a run file with this layout.
fn prepare(folder: &Path, layout: &str, steps: usize) {
    let text: String = (0..800)
        .map(|i| format!("let value_{} = compute({}, {});\n", i % 17, i * 7 % 101, i * i % 89))
        .collect();
    fs::write(folder.join("text.txt"), text).unwrap();
    let tokenize = "tokenize text.txt --train-tokenizer bpe --vocab 300 --output tokens/text";
    triax(folder, &tokenize.split(' ').collect::<Vec<_>>());
    let run = format!(
        "[model]\nlayers = 4\nhidden = 32\nheads = 4\nvocab = 300\nsequence = 32\n\
         [data]\nblend = [{{ path = \"tokens/text\" }}]\n\
         [train]\nglobal_batch = 8\nstop = \"{steps} steps\"\nevaluate_every = 0\n\
         learning_rate = {{ peak = 3e-3, warmup = \"1 steps\", decay = \"constant\" }}\n\
         [layout]\n{layout}\n[numerics]\ndata_groups = 2\n[checkpoint]\nevery = \"5 steps\"\n"
    );
    fs::write(folder.join("run.toml"), run).unwrap();
}

/// The last checkpoint's manifest: position, statistics, and the hash of every slice of every tensor.
fn manifest(run: &Path) -> String {
    let mut all: Vec<PathBuf> =
        fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    fs::read_to_string(all.pop().unwrap().join("manifest.json")).unwrap()
}

#[test]
fn processes_have_the_bits_of_threads() {
    let Some(_turn) = turn() else { return };
    for (ranks, layout) in [
        (2, "tensor = 2"),
        (2, "pipeline = 2"),
        (2, "data = 2\nzero = 1"),
        (4, "tensor = 2\npipeline = 2\nschedule = \"1f1b\""),
        (4, "tensor = 2\ndata = 2\nzero = 1\nsequence_parallel = true"),
        (8, "tensor = 2\npipeline = 2\ndata = 2\nzero = 1\nsequence_parallel = true"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        prepare(folder, layout, 7);
        triax(folder, &["train", "run.toml", "--out", "threads"]);
        let output = launch(folder, ranks, &["train", "run.toml", "--out", "processes", "--json"]);
        let said = said(&output);
        assert!(output.status.success(), "{layout}: {said}");
        assert!(said.contains(&format!("rank 0 of {ranks}")) && said.contains("mpi ("), "{said}");
        assert!(said.contains("OMPI_COMM_WORLD_RANK=0"), "{said}");
        assert_eq!(said.matches("OMPI_COMM_WORLD_RANK").count(), 1, "only the first rank speaks: {said}");
        assert_eq!(json(&output).iter().filter(|event| event["loss"].is_number()).count(), 7, "{layout}");
        assert_eq!(log(&folder.join("processes")), log(&folder.join("threads")), "{layout}");
        assert_eq!(manifest(&folder.join("processes")), manifest(&folder.join("threads")), "{layout}");
    }
}

#[test]
fn training_is_measured_under_mpirun() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let bench = "bench train --model tiny-gpt --seq 32 --batch 4 --steps 2 --json --layout";
    for (ranks, layout) in [(2, "tp=2"), (4, "tp=2,pp=2,dp=1")] {
        let mut arguments: Vec<&str> = bench.split(' ').collect();
        arguments.push(layout);
        arguments.extend(["--micro-batches", "2"]);
        let output = launch(folder.path(), ranks, &arguments);
        assert!(output.status.success(), "{}", said(&output));
        let (processes, threads) = (json(&output), json(&triax(folder.path(), &arguments)));
        assert_eq!(processes.len(), 1, "only the first rank reports");
        assert_eq!(processes[0]["loss_last"], threads[0]["loss_last"]);
    }
    let output = launch(folder.path(), 3, &bench.split(' ').chain(["tp=2"]).collect::<Vec<_>>());
    assert!(
        !output.status.success() && said(&output).contains("3 ranks are not tensor 2"),
        "{}",
        said(&output)
    );
    assert_eq!(said(&output).matches("3 ranks are not").count(), 1, "{}", said(&output));
}

/// The process of each rank of a launch, found among this machine's by the variable and the folder they run in.
fn process_of(rank: usize, folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().unwrap();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let path = entry.path();
        let environment = fs::read(path.join("environ")).ok()?;
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        let is_rank = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        let program = fs::read_link(path.join("exe")).ok()?;
        let here = fs::read_link(path.join("cwd")).ok()? == folder
            && program == Path::new(TRIAX).canonicalize().ok()?;
        (is_rank && here).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

fn signal(name: &str, process: &str) {
    let command = format!("kill -s {name} {process}");
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

#[test]
fn the_end_of_one_rank_ends_all_with_one_line_that_names_it() {
    let Some(_turn) = turn() else { return };
    // Dead is noticed at once; a rank that only hangs, after the time allowed.
    for (name, rank, timeout, line) in [
        ("KILL", 1, "60", "found dead: rank 1 last began the "),
        ("KILL", 0, "60", "found dead: rank 0 last began the "),
        ("STOP", 2, "2", "s in vain in the "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        prepare(folder, "tensor = 2\npipeline = 2", 1_000_000);
        let mut child = mpirun(folder)
            .args([
                "-n",
                "4",
                TRIAX,
                "train",
                "run.toml",
                "--json",
                "--set",
                &format!("layout.peer_timeout={timeout}"),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = child.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut all = Vec::new();
            said.read_to_end(&mut all).unwrap();
            String::from_utf8_lossy(&all).into_owned()
        });
        for _ in 0..9 {
            let mut line = String::new();
            assert!(
                output.read_line(&mut line).unwrap() > 0,
                "the run ended by itself: {}",
                said.join().unwrap()
            );
        }
        signal(name, &process_of(rank, folder).expect("the rank is running"));
        let began = Instant::now();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert!(!child.wait().unwrap().success());
        let (took, said) = (began.elapsed(), said.join().unwrap());
        assert!(took < Duration::from_secs(20), "{took:?}: {said}");
        let told: Vec<&str> = said.lines().filter(|line| line.contains("the run ends: ")).collect();
        assert_eq!(told.len(), 1, "SIG{name} of rank {rank}: {said}");
        assert!(told[0].contains(line) && told[0].contains(&format!("rank {rank} ")), "{said}");
        println!("SIG{name} of rank {rank}: ended in {:.1} s: {}", took.as_secs_f64(), told[0]);
        assert!(process_of(3, folder).is_none(), "nobody is left behind");
    }
}

#[test]
fn ranks_that_were_started_differently_find_out_before_anything_is_allocated() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "tensor = 2", 5);
    let other = folder.join("other.toml");
    fs::write(&other, fs::read_to_string(folder.join("run.toml")).unwrap().replace("3e-3", "2e-3")).unwrap();
    // The same program but for one byte behind its end.
    let program = folder.join("triax-of-another-build");
    fs::copy(TRIAX, &program).unwrap();
    let mut bytes = fs::OpenOptions::new().append(true).open(&program).unwrap();
    std::io::Write::write_all(&mut bytes, b"\n").unwrap();
    drop(bytes);
    let program = program.to_str().unwrap();
    for (binary, file, named) in
        [(TRIAX, "other.toml", "run file: 1 of 2 have"), (program, "run.toml", "program: 1 of 2 have")]
    {
        let output = mpirun(folder)
            .args([
                "-n", "1", TRIAX, "train", "run.toml", ":", "-n", "1", binary, "train", file, "--out",
                "runs/run",
            ])
            .output()
            .unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.matches("ranks were started differently").count(), 1, "{said}");
        assert!(said.contains(named) && !said.contains(" parameters on "), "nothing was planned: {said}");
        assert!(!folder.join("runs").exists(), "nothing was written");
    }
    // A launcher that sets variables but starts no MPI.
    let alone = Command::new(TRIAX)
        .args(["train", "run.toml"])
        .current_dir(folder)
        .envs([("RANK", "0"), ("WORLD_SIZE", "2")])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2), "{}", said(&alone));
    for words in ["rank 0 of 2, from torchrun-style variables", "MPI says rank 0 of 1", "docs/launching.md"] {
        assert!(said(&alone).contains(words), "{words}: {}", said(&alone));
    }
    let run = fs::read_to_string(folder.join("run.toml")).unwrap();
    fs::write(&other, run.replace("layers", "layrs")).unwrap();
    let output = launch(folder, 4, &["train", "other.toml"]);
    assert!(!output.status.success());
    assert_eq!(said(&output).matches("layrs").count(), 1, "{}", said(&output));
}

#[test]
fn a_job_step_is_started_again_on_as_many_ranks_as_come() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, "tensor = 2\ndata = 2\nzero = 1", 30);
    triax(folder, &["train", "run.toml", "--out", "threads"]);
    fs::write(folder.join("hosts"), "localhost slots=4\n").unwrap();
    let mut command = Command::new(TRIAX);
    as_root(&mut command);
    let mut child = command
        .args(["train", "run.toml", "--out", "processes", "--json", "--max-restarts", "2", "--launch"])
        .arg("mpirun -n {ranks} --hostfile hosts --bind-to none")
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ranks = Vec::new();
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else { continue };
        if event["event"] == "process" {
            ranks.push(event["ranks"].as_u64().unwrap());
        }
        if !killed && event["loss"].is_number() && event["step"].as_u64() >= Some(13) {
            // Half of the places are gone with it.
            fs::write(folder.join("hosts"), "localhost slots=2\n").unwrap();
            signal("KILL", &process_of(3, folder).expect("the rank is running"));
            killed = true;
        }
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(ranks, [4, 4, 2], "{said}");
    assert!(said.contains("restart 2 of 2 from step "), "{said}");
    assert_eq!(log(&folder.join("processes")), log(&folder.join("threads")));
}
