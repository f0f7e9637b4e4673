//! A small trained network judged by tasks of each kind, interrupted, and asked for things that are not there.

use super::{errors, lines, road, run, succeed, triax};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

const RUN_FILE: &str = r#"
[model]
layers = 1
hidden = 32
heads = 2
vocab = 300
sequence = 512
[data]
blend = [{ path = "tokens/text" }]
[train]
global_batch = 1
learning_rate = { peak = 3e-3, warmup = "5 steps", decay = "constant" }
stop = "20 steps"
[layout]
micro_batch = 1
"#;

/// Items in the official formats, as in the tests of `eval`.
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../eval/tests/fixtures");

/// Lines as the network was trained on, with the end to be guessed.
const TASK: &str = r#"
name = "assignments"
version = 1
about = "Which number a line of the training text ends with"
gold = "{right}"
inputs = ["line"]
options = ["{ends.0}", "{ends.1}"]
prompt = "plain"
[[test]]
path = "assignments.jsonl"
[prompts.plain]
about = "the line"
context = "{line}"
target = "{choice}"
"#;

fn trained(folder: &Path) {
    road::tokens(folder);
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();
    succeed(folder, &["train", "run.toml"]);
}

fn results(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap()
}

fn evaluation<'a>(tasks: &'a str, out: &'a str) -> Vec<&'a str> {
    vec!["eval", "--model", "runs/run", "--tasks", tasks, "--data", DATA, "--out", out]
}

#[test]
fn a_trained_network_is_judged_by_tasks_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder);
    let tasks = "lambada,boolq,race-h,winogrande,tnews,chid,perplexity";
    let shown = lines(&succeed(folder, &[&evaluation(tasks, "out")[..], &["--json"]].concat()));
    assert_eq!(shown.len(), 7);
    let all = results(&folder.join("out"));
    assert_eq!(all["schema"], "triax-eval/1");
    for (name, key) in
        [("lambada", "acc,none"), ("race-h", "acc_norm,none"), ("perplexity", "bits_per_byte,none")]
    {
        assert!(all["results"][name][key].is_number(), "{name}: {all}");
    }
    assert!(all["results"]["perplexity"]["bits_per_byte_stderr,none"].as_f64() > Some(0.0), "{all}");
    let tnews = fs::read_to_string(folder.join("out/items-tnews.jsonl")).unwrap();
    let item: Value = serde_json::from_str(tnews.lines().next().unwrap()).unwrap();
    assert_eq!((item["choices"].as_array().unwrap().len(), &item["gold"]), (15, &Value::from(3)));
    assert!(
        item["choices"][0]["log_probs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|log_prob| log_prob.as_f64() < Some(0.0))
    );

    // From the cache, and anew: the same bytes.
    let files =
        || ["results.json", "items-boolq.jsonl"].map(|name| fs::read(folder.join("out").join(name)).unwrap());
    let before = files();
    succeed(folder, &evaluation(tasks, "out"));
    assert!(files() == before);
    fs::remove_file(folder.join("out/scores.bin")).unwrap();
    succeed(folder, &evaluation(tasks, "out"));
    assert!(files() == before);
    // Two ranks that share each layer, and one: the same bytes.
    let shared = ["--layout", "tp=2", "--peer-timeout", "60"];
    succeed(folder, &[&evaluation(tasks, "shared")[..], &shared].concat());
    for name in ["results.json", "items-boolq.jsonl", "items-perplexity.jsonl"] {
        let bytes = |out: &str| fs::read(folder.join(out).join(name)).unwrap();
        assert!(bytes("out") == bytes("shared"), "{name}");
    }
}

#[test]
fn a_run_is_judged_while_it_trains_and_its_end_as_a_finished_network_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    road::tokens(folder);
    let run_file = format!("{RUN_FILE}[checkpoint]\nevery = \"5 steps\"\nkeep = 9\n");
    fs::write(folder.join("run.toml"), run_file).unwrap();
    let mut training = triax(folder).args(["train", "run.toml"]).spawn().unwrap();
    while !folder.join("runs/run/run.toml").exists() && training.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let follow = ["--during", "--every", "10"];
    succeed(folder, &[&evaluation("boolq,tnews", "out")[..], &follow].concat());
    assert!(training.wait().unwrap().success());
    let notes = fs::read_to_string(folder.join("out/during.jsonl")).unwrap();
    let notes: Vec<Value> = notes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<(u64, &str)> =
        notes.iter().map(|note| (note["step"].as_u64().unwrap(), note["task"].as_str().unwrap())).collect();
    assert_eq!(told, [(10, "boolq"), (10, "tnews"), (20, "boolq"), (20, "tnews")]);
    succeed(folder, &evaluation("boolq,tnews", "end"));
    for name in ["items-boolq.jsonl", "items-tnews.jsonl"] {
        assert!(
            fs::read(folder.join("out/step-00000020").join(name)).unwrap()
                == fs::read(folder.join("end").join(name)).unwrap()
        );
    }
    // Nothing is judged twice.
    succeed(folder, &[&evaluation("boolq,tnews", "out")[..], &follow].concat());
    assert_eq!(fs::read_to_string(folder.join("out/during.jsonl")).unwrap().lines().count(), 4);
    // A run that was asked to stop has ended too, at a step that is no multiple of anything.
    let endless = ["--set", "train.stop=\"1000000 steps\"", "--out", "stopped", "--json"];
    let mut training =
        triax(folder).args(["train", "run.toml"]).args(endless).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(training.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"step\":7,") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "the run ended by itself");
    }
    let asked = std::process::Command::new("kill").arg(training.id().to_string()).status().unwrap();
    told.read_to_end(&mut Vec::new()).unwrap();
    assert!(asked.success() && training.wait().unwrap().success());
    let stopped: Vec<String> =
        evaluation("boolq", "after").iter().map(|word| word.replace("runs/run", "stopped")).collect();
    let stopped: Vec<&str> = stopped.iter().map(String::as_str).collect();
    succeed(folder, &[&stopped[..], &["--during", "--every", "1000000"]].concat());
    let notes = fs::read_to_string(folder.join("after/during.jsonl")).unwrap();
    let end = fs::read_to_string(folder.join("stopped/ended.json")).unwrap();
    let (note, end): (Value, Value) =
        (serde_json::from_str(&notes).unwrap(), serde_json::from_str(&end).unwrap());
    assert_eq!(note["step"], end["step"]);
    let refused = run(folder, &["eval", "--model", "tokens", "--during", "--tasks", "boolq"]);
    assert!(errors(&refused).contains("no run.toml"), "{}", errors(&refused));
}

#[test]
fn a_killed_evaluation_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder);
    fs::write(folder.join("task.toml"), TASK).unwrap();
    let line = |n: usize| {
        let line = format!("{}let value_{} = compute({}, ", "# a comment\\n".repeat(8), n % 17, n * 7 % 101);
        let right = n % 2;
        let (a, b) = (format!("{});", n * n % 89), format!("{}.", n + 1));
        let ends = if right == 0 { [a, b] } else { [b, a] };
        format!(
            "{{\"line\": \"{line}\", \"ends\": [\"{}\", \"{}\"], \"right\": {right}}}\n",
            ends[0], ends[1]
        )
    };
    fs::write(folder.join("assignments.jsonl"), (0..600).map(line).collect::<String>()).unwrap();
    let arguments =
        |out| ["eval", "--model", "runs/run", "--task-file", "task.toml", "--data", ".", "--out", out];
    succeed(folder, &arguments("whole"));
    // Killed as soon as some scores are in the file.
    let mut child = triax(folder).args(arguments("killed")).spawn().unwrap();
    let scores = folder.join("killed/scores.bin");
    while fs::metadata(&scores).map_or(0, |file| file.len()) < 100 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.join("killed/results.json").exists(), "it ended before it could be killed");
    let output = succeed(folder, &arguments("killed"));
    assert!(errors(&output).contains("scores are known from before"), "{}", errors(&output));
    for name in ["results.json", "items-assignments.jsonl"] {
        let bytes = |out: &str| fs::read(folder.join(out).join(name)).unwrap();
        assert!(bytes("whole") == bytes("killed"), "{name}");
    }
    // The lines end with `);` in the training text, never with a dot.
    let all = results(&folder.join("whole"));
    let score = &all["tasks"][0]["measures"]["sum"];
    let least = 0.5 + 4.0 * score["standard_error"].as_f64().unwrap();
    assert!(score["value"].as_f64().unwrap() > least, "{score}");
}

#[test]
fn tasks_are_listed_and_an_item_is_shown_as_the_network_would_see_it() {
    let folder = tempfile::tempdir().unwrap();
    let listed = String::from_utf8(succeed(folder.path(), &["eval", "list"]).stdout).unwrap();
    assert_eq!(listed.lines().count(), 22);
    assert!(listed.contains("tnews") && listed.contains("clue-gpt,ppl,yuan"), "{listed}");
    let arguments = ["eval", "show", "boolq", "--data", DATA, "--shots", "1", "--item", "1"];
    let shown = String::from_utf8(succeed(folder.path(), &arguments).stdout).unwrap();
    assert!(shown.contains("Question: is water wet?\nAnswer: yes\n\nIce -- Ice is frozen water."), "{shown}");
    assert!(shown.contains("▸ target 0\n no\n") && shown.contains("  target 1\n yes\n"), "{shown}");
    let set = folder.path().join("hans/heuristics_evaluation_set.txt");
    fs::create_dir(folder.path().join("hans")).unwrap();
    succeed(folder.path(), &["eval", "hans-like", &set.to_string_lossy(), "--rows", "2"]);
    let arguments = ["eval", "show", "hans", "--data", ".", "--item", "59"];
    let shown = String::from_utf8(succeed(folder.path(), &arguments).stdout).unwrap();
    assert!(shown.contains("item 59 of 60") && shown.contains("True or False?"), "{shown}");
}

#[test]
fn what_is_not_there_is_named_with_what_would_work() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = |arguments: &[&str], code: i32| {
        let output = run(folder, arguments);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        errors(&output)
    };
    assert!(refused(&["eval", "--model", "m", "--tasks", "lambda"], 2).contains("did you mean `lambada`?"));
    assert!(refused(&["eval", "--model", "m"], 2).contains("--tasks lambada,boolq"));
    assert!(refused(&["eval", "--tasks", "boolq"], 2).contains("--model"));
    assert!(refused(&["eval", "show", "boolq"], 2).contains("boolq/val.jsonl"));
    assert!(
        refused(&["eval", "show", "boolq", "--data", DATA, "--item", "9"], 1).contains("the last of 2 is 1")
    );
    fs::write(folder.join("task.toml"), TASK.replace("gold", "glod")).unwrap();
    let message = refused(&["eval", "--model", "m", "--task-file", "task.toml"], 2);
    assert!(message.contains("task.toml:5: unknown key `glod`; did you mean `gold`?"), "{message}");
    assert!(!folder.join("eval-out").exists());
}
