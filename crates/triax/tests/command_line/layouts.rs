//! Layouts from the command line: plans of giant runs, equal bits, a run on several ranks.

use super::{errors, lines, run, succeed};
use std::fs;
use std::path::PathBuf;

fn recipe(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name);
    path.to_string_lossy().into_owned()
}

#[test]
fn the_plan_of_mt_nlg_is_its_paper_s_layout() {
    let folder = std::env::temp_dir();
    let plan = succeed(&folder, &["plan", &recipe("mt-nlg-530b.toml"), "--world", "2240", "--json"]);
    let plan = lines(&plan).remove(0);
    assert_eq!([&plan["tensor"], &plan["pipeline"], &plan["data"]], [8, 35, 8]);
    let stages = plan["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 35);
    let held: u64 = stages
        .iter()
        .flat_map(|stage| stage["layers"].as_array().unwrap())
        .map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap())
        .sum();
    assert_eq!(held, 105);
    // (p - 1) / m of 1F1B with 240 micro-batches.
    assert!((plan["bubble"].as_f64().unwrap() - 34.0 / 240.0).abs() < 1e-9, "{}", plan["bubble"]);
    let too_small = run(&folder, &["plan", &recipe("mt-nlg-530b.toml"), "--world", "2240", "--memory", "1"]);
    assert_eq!(too_small.status.code(), Some(2));
    assert!(errors(&too_small).contains("more than the"), "{}", errors(&too_small));
}

#[test]
fn a_draw_of_layouts_has_the_bits_of_one_rank() {
    let folder = tempfile::tempdir().unwrap();
    for style in ["--json", "--llama"] {
        let arguments =
            ["verify", "layouts", "--world", "8", "--sample", "5", "--seed", "11", "--json", style];
        let arguments = if style == "--json" { &arguments[..9] } else { &arguments[..] };
        let all = lines(&succeed(folder.path(), arguments));
        assert_eq!(all.len(), 5);
        assert!(all.iter().all(|layout| layout["equal"] == true), "{all:?}");
    }
}

#[test]
fn a_run_on_four_ranks_is_resumed_on_one_and_its_checkpoint_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    super::road::tokens(folder);
    fs::write(
        folder.join("run.toml"),
        "[model]\nlayers = 2\nhidden = 32\nheads = 2\nvocab = 300\nsequence = 32\n\
         [data]\nblend = [{ path = \"tokens/text\" }]\n\
         [train]\nglobal_batch = 4\nstop = \"6 steps\"\n\
         learning_rate = { peak = 3e-3, warmup = \"1 steps\", decay = \"constant\" }\n\
         [layout]\ntensor = 2\npipeline = 2\n[checkpoint]\nevery = \"2 steps\"\n",
    )
    .unwrap();
    let parts = ["train", "run.toml", "--json", "--set", "train.stop=\"4 steps\""];
    let first = lines(&succeed(folder, &parts));
    let one = ["--set", "layout.tensor=1", "--set", "layout.pipeline=1"];
    let mut resumed = vec!["train", "run.toml", "--json", "--resume", "must"];
    resumed.extend(one);
    let second = lines(&succeed(folder, &resumed));
    let mut whole = vec!["train", "run.toml", "--json", "--out", "runs/whole"];
    whole.extend(one);
    let whole = lines(&succeed(folder, &whole));
    let losses = |lines: &[serde_json::Value]| -> Vec<String> {
        lines.iter().filter(|line| line.get("grad_norm").is_some()).map(|l| l["loss"].to_string()).collect()
    };
    assert_eq!([losses(&first), losses(&second)].concat(), losses(&whole));
    let verified = lines(&succeed(folder, &["verify", "checkpoint", "runs/run", "--json"])).remove(0);
    assert_eq!((verified["step"].as_u64(), verified["whole"].as_bool()), (Some(6), Some(true)));
}
