//! `--max-restarts`: runs whose process is killed go on from their last good checkpoint, on as many ranks as still come,
//! and end with the bits of a run that nothing happened to.

use super::logs::log;
use super::{errors, lines, succeed, triax};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const RUN_FILE: &str = "[model]\nlayers = 2\nhidden = 32\nheads = 2\nvocab = 300\nsequence = 32\n\
    [data]\nblend = [{ path = \"tokens/text\" }]\n\
    [train]\nglobal_batch = 8\nstop = \"60 steps\"\n\
    learning_rate = { peak = 3e-3, warmup = \"1 steps\", decay = \"constant\" }\n\
    [layout]\ntensor = 2\ndata = 2\n[checkpoint]\nevery = \"5 steps\"\n";

/// Token files, a run file, and the log of a run that nothing happened to.
fn prepare(folder: &Path) -> Vec<Value> {
    super::road::tokens(folder);
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();
    succeed(folder, &["train", "run.toml", "--out", "whole"]);
    log(&folder.join("whole"))
}

/// A run of the supervisor, whose processes are killed at the steps given (once each has been reached).
fn killed_at(folder: &Path, more: &[&str], mut kills: Vec<(u64, &dyn Fn())>) -> (Child, Vec<Value>, String) {
    let mut child = triax(folder)
        .args(["train", "run.toml", "--json", "--out", "killed"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = Vec::new();
    let mut process = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // A process that is killed may leave half a line, and the next one's first event behind it.
        let line = line.unwrap();
        let event = line.find("{\"event\"").map_or(line.as_str(), |at| &line[at..]);
        let Ok(event) = serde_json::from_str::<Value>(event) else { continue };
        if event["event"] == "process" {
            process = event["id"].as_u64();
        }
        if let (Some(step), Some((at, before))) = (event["step"].as_u64(), kills.first())
            && step >= *at
            && event["loss"].is_number()
            // Steps that the killed process told before its end may still come.
            && let Some(id) = process.take()
        {
            before();
            kills.remove(0);
            assert!(Command::new("sh").args(["-c", &format!("kill -9 {id}")]).status().unwrap().success());
        }
        events.push(event);
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child, events, said)
}

fn processes(events: &[Value]) -> Vec<u64> {
    let processes = events.iter().filter(|event| event["event"] == "process");
    processes.map(|event| event["ranks"].as_u64().unwrap()).collect()
}

#[test]
fn a_killed_run_is_started_again_from_its_last_checkpoint_until_restarts_are_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = prepare(folder);
    let kills: Vec<(u64, &dyn Fn())> = vec![(13, &|| ()), (22, &|| ())];
    let (mut child, events, said) = killed_at(folder, &["--max-restarts", "2"], kills);
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(processes(&events), [4, 4, 4]);
    // Saves go on beside the steps, so that the newest whole one may be a few steps old.
    for restart in ["restart 1 of 2 from step ", "restart 2 of 2 from step "] {
        assert!(said.contains(&format!("was killed by signal 9; {restart}")), "{said}");
    }
    assert_eq!(log(&folder.join("killed")), whole);

    fs::remove_dir_all(folder.join("killed")).unwrap();
    let kills: Vec<(u64, &dyn Fn())> = vec![(13, &|| ()), (13, &|| ())];
    let (mut child, _, said) = killed_at(folder, &["--max-restarts", "1"], kills);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(said.contains("after 1 restarts; --max-restarts allows no more"), "{said}");
    // By hand it goes on from there all the same.
    let go_on = succeed(folder, &["train", "run.toml", "--out", "killed", "--max-restarts", "1"]);
    assert!(errors(&go_on).contains("going on from killed/checkpoints/step-"), "{}", errors(&go_on));
    assert_eq!(log(&folder.join("killed")), whole);
}

#[test]
fn a_damaged_newest_checkpoint_is_set_aside_at_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = prepare(folder);
    succeed(folder, &["train", "run.toml", "--out", "killed", "--set", "train.stop=\"10 steps\""]);
    let newest = folder.join("killed/checkpoints/step-00000010");
    let mut shards = fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().path());
    let shard = shards.find(|path| path.extension().is_some_and(|end| end == "safetensors")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    // By hand it is refused, and the supervisor's first start is by hand.
    let output = succeed(folder, &["train", "run.toml", "--out", "killed", "--max-restarts", "1"]);
    let said = errors(&output);
    for part in
        ["step-00000010 is damaged", "step-00000005 is intact", "restart 1 of 1 from step 5, on 4 ranks"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(folder.join("killed/checkpoints/step-00000010.damaged").is_dir());
    assert_eq!(log(&folder.join("killed")), whole);
}

#[test]
fn ranks_that_no_longer_come_are_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let whole = prepare(folder);
    // Stands for mpirun: it has so many places, and its ranks are threads.
    let launcher = folder.join("launcher");
    let script = "#!/bin/sh\nranks=$2\nshift 2\nif [ \"$ranks\" -gt \"$(cat places)\" ]; then\n  \
                  echo \"$ranks ranks, and $(cat places) places\" >&2\n  exit 1\nfi\nexec \"$@\" --ranks \"$ranks\"\n";
    fs::write(&launcher, script).unwrap();
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("places"), "4").unwrap();
    let lose_two = || fs::write(folder.join("places"), "2").unwrap();
    let kills: Vec<(u64, &dyn Fn())> = vec![(14, &lose_two)];
    let launch = format!("{} -n {{ranks}}", launcher.display());
    let (mut child, events, said) = killed_at(folder, &["--max-restarts", "2", "--launch", &launch], kills);
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(processes(&events), [4, 4, 2], "{said}");
    assert!(said.contains("was killed by signal 9; restart 1 of 2 from step "), "{said}");
    assert!(said.contains("failed with exit code 1; restart 2 of 2 from step "), "{said}");
    assert!(said.contains(", on 2 ranks\n"), "{said}");
    assert_eq!(log(&folder.join("killed")), whole);
}

#[test]
fn a_supervisor_that_is_asked_to_stop_saves_first() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    super::road::tokens(folder);
    fs::write(folder.join("run.toml"), RUN_FILE.replace("60 steps", "1000000 steps")).unwrap();
    for signal in ["TERM", "KILL"] {
        let mut child = triax(folder)
            .args(["train", "run.toml", "--json", "--max-restarts", "3"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("grad_norm") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the run ended by itself");
        }
        let id = child.id().to_string();
        assert!(
            Command::new("sh").args(["-c", &format!("kill -s {signal} {id}")]).status().unwrap().success()
        );
        // Standard output ends with the last process that has it.
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("\"event\":\"stopped\""), "SIG{signal}: {rest}");
        assert_eq!(child.wait().unwrap().success(), signal == "TERM");
    }
    let saved = lines(&succeed(folder, &["verify", "checkpoint", "runs/run", "--json"])).remove(0);
    assert_eq!(saved["whole"], true);
}
