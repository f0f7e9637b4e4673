//! Carries out a workload: builds our binary, lets the sides take turns, takes medians.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::table::{Corpus, Figure, PYTORCH, Sides, Workload};
use super::{Found, Measured, Options, evaluate, prepare, save};
use crate::command::{self, cargo, output, program, show, target};
use crate::python;

const REQUIREMENTS: &str = "bench/peers/requirements.txt";
const TORCH: &str = "bench/peers/torch_gpt.py";
const TORCH_PARALLEL: &str = "bench/peers/torch_parallel.py";
const TOKENIZE: &str = "bench/peers/tokenize_hf.py";
const CORPUS_REQUIREMENTS: &str = "bench/peers/corpus-requirements.txt";
const DEDUP: &str = "bench/peers/dedup_datatrove.py";
const MEGATRON: &str = "bench/peers/tokenize_megatron.py";
const CURATE_REQUIREMENTS: &str = "bench/peers/curate-requirements.txt";
const CURATE: &str = "bench/peers/curate.py";
const LLAMA_REQUIREMENTS: &str = "bench/peers/llama-requirements.txt";
const LLAMA: &str = "bench/peers/decode_llama_cpp.py";
const SERVE_REQUIREMENTS: &str = "bench/peers/serve-requirements.txt";
const SERVE: &str = "bench/peers/serve_load.py";
const LLAMA_SERVER: &str = "bench/peers/llama_server.py";
/// Has the sources of llama.cpp's server.
const LLAMA_PACKAGE: &str = "llama-cpp-python==0.3.36";
const VERDICTS_REQUIREMENTS: &str = "golden/curation/requirements.txt";
const VERDICTS: &str = "golden/curation/verdicts.py";

/// A variant slower than this share of the fastest in the first round takes no further turns: three medians
/// cannot turn that around, and compiled PyTorch needs a minute before its first step.
const OUT_OF_THE_RACE: f64 = 0.75;

const SMOKE_TRAIN: [&[&str]; 2] = [
    &["--model", "tiny-gpt", "--batch", "2", "--seq", "32", "--dtype", "bf16", "--steps", "2"],
    &[
        "--layers", "2", "--hidden", "64", "--heads", "4", "--vocab", "512", "--batch", "2", "--seq", "32",
        "--steps", "2",
    ],
];

pub(super) fn run(workload: &Workload, options: &Options) -> Result<Measured> {
    match workload.sides {
        Sides::Train { ours, peer } => train(workload, ours, peer, options),
        Sides::Gemm => gemm(workload, options),
        Sides::Tokenize => tokenize(workload, options),
        Sides::Curate(step) => {
            let python = python::interpreter(&options.python, "curate-venv", CURATE_REQUIREMENTS)?;
            let input = prepare::crawl(step, options)?;
            let mut peer = program(&python, &[CURATE, "--step", step, "--input"]);
            peer.arg(&input);
            curate(workload, &["--step", step], &input, peer, options)
        }
        Sides::Filters(chain) => {
            let python = python::interpreter(&options.python, "golden-curation-venv", VERDICTS_REQUIREMENTS)?;
            let input = prepare::documents(chain, &python, options)?;
            let mut peer = program(&python, &[VERDICTS, "bench", chain]);
            peer.arg(&input);
            curate(workload, &["--step", "filters", "--chain", chain], &input, peer, options)
        }
        Sides::Build => build(workload),
        Sides::Decode { batch } => decode(workload, batch, options),
        Sides::Serve => serve(workload, options),
        Sides::Echo => echo(workload, options),
        Sides::Evaluate => evaluate::run(workload, options),
        Sides::Demo => demo(workload, options),
        Sides::Layout { ours, other, peer } => layout(workload, [ours, other], peer, options),
        Sides::Corpus(step) => corpus(workload, step, options),
        Sides::Save => save::run(workload, options),
    }
}

fn train(workload: &Workload, ours: &[&str], peer: &[&str], options: &Options) -> Result<Measured> {
    let [ours, peer] = if options.smoke { SMOKE_TRAIN } else { [ours, peer] };
    let mut command = triax()?;
    command.args(["bench", "train"]).args(ours).arg("--json");
    let mut race = Race::new(peer.iter().map(|&word| word.to_owned()).collect(), options)?;
    let mut turns = Vec::new();
    for _ in 0..options.rounds {
        turns.push(one(&mut command)?);
        race.round()?;
    }
    let best = race.best()?;
    let figures = workload
        .figures
        .iter()
        .map(|figure| {
            Ok(Found {
                name: figure.name.clone(),
                value: median(&turns, figure.field)?,
                opponent: best.name(),
                opponent_value: Some(median(&best.turns, figure.field)?),
            })
        })
        .collect::<Result<_>>()?;
    let versions = race.versions();
    Ok(Measured {
        figures,
        command: typed(&command),
        versions,
        raw: json!({ "triax": turns, "pytorch": race.raw() }),
    })
}

/// Of each figure the opponent is the other layout first, then PyTorch.
fn layout(
    workload: &Workload,
    [ours, other]: [&[&str]; 2],
    peer: &'static [&'static str],
    options: &Options,
) -> Result<Measured> {
    let model: &[&str] = if options.smoke {
        &["--model", "tiny-gpt", "--seq", "32", "--dtype", "bf16", "--steps", "2"]
    } else {
        &["--model", "gpt2-124m", "--seq", "256", "--dtype", "bf16", "--steps", "5"]
    };
    let command = |words: &[&str]| -> Result<Command> {
        let mut command = triax()?;
        command.args(["bench", "train"]).args(model).args(words).arg("--json");
        Ok(command)
    };
    let (mut ours, mut other) = (command(ours)?, command(other)?);
    let mut race = if peer.is_empty() {
        None
    } else {
        let mut words: Vec<String> = peer.iter().map(|&word| word.to_owned()).collect();
        let shape: &[&str] = if options.smoke { SMOKE_TRAIN[1] } else { &["--seq", "256", "--steps", "5"] };
        // The batch of the workload comes last and counts.
        words.splice(0..0, shape.iter().map(|&word| word.to_owned()));
        Some(Race::of(TORCH_PARALLEL, words, options)?)
    };
    let (mut our_turns, mut other_turns) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        our_turns.push(one(&mut ours)?);
        other_turns.push(one(&mut other)?);
        if let Some(race) = &mut race {
            race.round()?;
        }
    }
    let mut figures = Vec::new();
    for (index, figure) in workload.figures.iter().enumerate() {
        let value = median(&our_turns, figure.field)?;
        let (opponent, opponent_value) = match (&race, index) {
            (Some(race), 1) => (race.best()?.name(), median(&race.best()?.turns, figure.field)?),
            _ => (typed(&other), median(&other_turns, figure.field)?),
        };
        figures.push(Found {
            name: figure.name.clone(),
            value,
            opponent,
            opponent_value: Some(opponent_value),
        });
    }
    let versions = race.as_ref().map_or(Value::Null, Race::versions);
    let peers = race.as_ref().map_or(Value::Null, Race::raw);
    let raw = json!({ "triax": our_turns, "other": other_turns, "pytorch": peers });
    Ok(Measured { figures, command: typed(&ours), versions, raw })
}

fn gemm(workload: &Workload, options: &Options) -> Result<Measured> {
    let mut command = triax()?;
    command.args(["bench", "gemm", "--json"]);
    let mut lines = Vec::new();
    for _ in 0..options.rounds {
        lines.extend(objects(&mut command)?);
    }
    let figures = workload
        .figures
        .iter()
        .map(|figure| {
            let named = |line: &&Value| gemm_name(line) == figure.name;
            let turns: Vec<Value> = lines.iter().filter(named).cloned().collect();
            // Both numbers of the turn with the median share, so that their ratio is one that was measured.
            let share = median(&turns, "share")?;
            let turn = turns.iter().find(|turn| turn["share"] == json!(share)).unwrap_or(&turns[0]);
            Ok(Found {
                name: figure.name.clone(),
                value: number(turn, figure.field)?,
                opponent: "register-resident peak".to_owned(),
                opponent_value: Some(number(turn, "peak_gflops")?),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Measured { figures, command: typed(&command), versions: json!({}), raw: json!({ "triax": lines }) })
}

fn gemm_name(line: &Value) -> String {
    let word = |field: &str| line[field].as_str().unwrap_or("?").to_owned();
    format!("gemm.{}.{}", word("shape"), word("product"))
}

fn tokenize(workload: &Workload, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "bench-venv", REQUIREMENTS)?;
    let text = prepare::text(options)?;
    let tokenizer = prepare::folder()?.join("tokenizer.json");
    let files = |command: &mut Command| {
        command.arg("--input").arg(&text).arg("--tokenizer").arg(&tokenizer);
    };
    let vocabulary = if options.smoke { "500" } else { "16384" };
    let mut training = program(&python, &[TOKENIZE, "--train", vocabulary]);
    files(&mut training);
    command::run(&mut training)?;
    let mut ours = triax()?;
    ours.args(["bench", "tokenize"]);
    files(&mut ours);
    ours.arg("--json");
    let mut peer = program(&python, &[TOKENIZE]);
    files(&mut peer);
    against(workload, ours, peer, options)
}

fn decode(workload: &Workload, batch: &str, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "llama-venv", LLAMA_REQUIREMENTS)?;
    let model = python::smollm2(&python)?;
    let (prompt, generate) = if options.smoke { ("32", "4") } else { ("512", "64") };
    let sizes = ["--batch", batch, "--prompt", prompt, "--generate", generate, "--threads", "2"];
    let mut ours = triax()?;
    ours.args(["bench", "decode", "--model", &model]).args(sizes).arg("--json");
    let mut peer = program(&python, &[LLAMA, "--model", &model]);
    peer.args(sizes);
    against(workload, ours, peer, options)
}

/// Both servers under the same clients, each alone on the machine in its turn.
fn serve(workload: &Workload, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "serve-venv", SERVE_REQUIREMENTS)?;
    let folder = prepare::folder()?.join("llama-server");
    let mut build = program(&python, &[LLAMA_SERVER, "--package", LLAMA_PACKAGE, "--out"]);
    let llama = output(build.arg(&folder))?;
    let tokens = if options.smoke { "4" } else { "64" };
    let side = |name: &str, server: &str| {
        let mut command = program(&python, &[SERVE, "--side", name, "--server", server]);
        command.args(["--model", "smollm2", "--tokens", tokens, "--threads", "2"]);
        command
    };
    let ours = side("triax", &triax()?.get_program().to_string_lossy());
    let mut peer = side("llama", llama.trim());
    peer.args(["--sources", LLAMA_PACKAGE]);
    against(workload, ours, peer, options)
}

/// Once: the peak of a process is not a matter of luck.
fn echo(workload: &Workload, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "serve-venv", SERVE_REQUIREMENTS)?;
    let binary = triax()?.get_program().to_string_lossy().into_owned();
    let mut command = program(&python, &[SERVE, "--echo", "--side", "triax", "--server", &binary]);
    command.args(["--model", "smollm2", "--threads", "2"]);
    let found = one(&mut command)?;
    let figures = workload
        .figures
        .iter()
        .map(|figure| Ok(alone(figure, number(&found, figure.field)?)))
        .collect::<Result<_>>()?;
    Ok(Measured { figures, command: typed(&command), versions: json!({}), raw: found })
}

/// One command of each side, in turn.
fn against(workload: &Workload, mut ours: Command, mut peer: Command, options: &Options) -> Result<Measured> {
    let (mut our_turns, mut peer_turns) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        our_turns.push(one(&mut ours)?);
        peer_turns.push(one(&mut peer)?);
    }
    let figures = workload
        .figures
        .iter()
        .map(|figure| {
            Ok(Found {
                name: figure.name.clone(),
                value: median(&our_turns, figure.field)?,
                opponent: name(&peer_turns[0]),
                opponent_value: Some(median(&peer_turns, figure.field)?),
            })
        })
        .collect::<Result<_>>()?;
    let versions = peer_turns[0]["versions"].clone();
    let raw = json!({ "triax": our_turns, "peer": peer_turns });
    Ok(Measured { figures, command: typed(&ours), versions, raw })
}

/// Alternately on the same files, which are real ones: `TRIAX_TEST_DATA` names their folder, or `--input` others.
fn curate(
    workload: &Workload,
    step: &[&str],
    input: &Path,
    peer: Command,
    options: &Options,
) -> Result<Measured> {
    let mut ours = triax()?;
    ours.args(["bench", "curate"]).args(step).arg("--input").arg(input).args(["--threads", "1", "--json"]);
    against(workload, ours, peer, options)
}

/// One core each, in turn, on the same corpus.
fn corpus(workload: &Workload, step: Corpus, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "corpus-venv", CORPUS_REQUIREMENTS)?;
    let megabytes = |full: u32| if options.smoke { 1 } else { full };
    let corpus = prepare::corpus(&python, step.language, megabytes(step.megabytes), options)?;
    let mut ours = triax()?;
    ours.args(["bench", "curate", "--step", step.step, "--input"]).arg(&corpus).args([
        "--threads",
        "1",
        "--json",
    ]);
    let peer = if step.step == "tokenize" {
        let (text, tokenizer) = (prepare::text(options)?, prepare::folder()?.join("curate-tokenizer.json"));
        let vocabulary = if options.smoke { "500" } else { "32768" };
        let mut training = program(&python, &[TOKENIZE, "--train", vocabulary, "--input"]);
        command::run(training.arg(text).arg("--tokenizer").arg(&tokenizer))?;
        ours.arg("--tokenizer").arg(&tokenizer);
        let mut peer = program(&python, &[MEGATRON, "--tokenizer"]);
        peer.arg(&tokenizer).arg("--input").arg(&corpus);
        peer
    } else {
        ours.args(["--language", step.language]);
        let mut peer = program(&python, &[DEDUP, "--step", step.step, "--language", step.language]);
        peer.args(["--megabytes", &megabytes(step.peer_megabytes).to_string()]).arg("--input").arg(&corpus);
        peer
    };
    against(workload, ours, peer, options)
}

/// Once: the crates are fetched before the clock starts, and nothing is built before.
fn build(workload: &Workload) -> Result<Measured> {
    command::run(&mut cargo(&["fetch", "--locked"]))?;
    let folder = prepare::folder()?.join("cold-build");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let mut command = cargo(&["build", "--release", "--locked", "--offline", "--quiet"]);
    command.env("CARGO_TARGET_DIR", &folder);
    let begin = Instant::now();
    command::run(&mut command)?;
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let figures = workload.figures.iter().map(|figure| alone(figure, seconds)).collect();
    let command = "cargo build --release --locked --offline".to_owned();
    Ok(Measured { figures, command, versions: json!({}), raw: json!({ "seconds": seconds }) })
}

/// The demo once, then PyTorch on a model of the same shape with the same tokens in a step.
fn demo(workload: &Workload, options: &Options) -> Result<Measured> {
    let out = prepare::folder()?.join("demo");
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
    }
    let mut command = triax()?;
    command.arg("demo").arg("--out").arg(&out);
    if let Some(input) = &options.input {
        command.arg("--input").arg(std::path::absolute(input)?);
    }
    command::run(&mut command)?;
    let summary = std::fs::read_to_string(out.join("summary.json")).context("the demo's summary.json")?;
    let summary: Value = serde_json::from_str(&summary).context("the demo's summary.json")?;
    let mut race = Race::new(prepare::peer_of_run(&out, options.smoke)?, options)?;
    for _ in 0..options.rounds {
        race.round()?;
    }
    let best = race.best()?;
    let figures = workload
        .figures
        .iter()
        .map(|figure| {
            let value = number(&summary, figure.field)?;
            let (opponent, opponent_value) = match figure.field {
                "bits_per_byte" | "bits_per_byte_with_memory" => {
                    ("xz -9".to_owned(), Some(number(&summary, "xz_bits_per_byte")?))
                }
                "tokens_per_s" => (best.name(), Some(median(&best.turns, figure.field)?)),
                _ => return Ok(alone(figure, value)),
            };
            Ok(Found { name: figure.name.clone(), value, opponent, opponent_value })
        })
        .collect::<Result<_>>()?;
    let versions = race.versions();
    Ok(Measured {
        figures,
        command: typed(&command),
        versions,
        raw: json!({ "triax": summary, "pytorch": race.raw() }),
    })
}

/// All variants of PyTorch on one workload.
struct Race {
    script: &'static str,
    python: String,
    arguments: Vec<String>,
    runners: Vec<Runner>,
}

struct Runner {
    flags: &'static [&'static str],
    turns: Vec<Value>,
}

impl Race {
    fn new(arguments: Vec<String>, options: &Options) -> Result<Self> {
        Self::of(TORCH, arguments, options)
    }

    fn of(script: &'static str, arguments: Vec<String>, options: &Options) -> Result<Self> {
        let python = python::interpreter(&options.python, "bench-venv", REQUIREMENTS)?;
        if !command::installed("g++") {
            bail!("torch.compile needs a C++ compiler; on Debian: apt-get install g++");
        }
        let runners = PYTORCH.map(|flags| Runner { flags, turns: Vec::new() }).into();
        Ok(Self { script, python, arguments, runners })
    }

    /// One turn of every variant that can still win.
    fn round(&mut self) -> Result<()> {
        let fastest = self.runners.iter().filter_map(Runner::speed).fold(0.0, f64::max);
        for runner in &mut self.runners {
            if runner.speed().is_some_and(|speed| speed < OUT_OF_THE_RACE * fastest) {
                continue;
            }
            let mut command = program(&self.python, &[self.script]);
            command.args(&self.arguments).args(runner.flags);
            runner.turns.push(one(&mut command)?);
        }
        Ok(())
    }

    fn best(&self) -> Result<&Runner> {
        let speed = |runner: &&Runner| runner.speed().unwrap_or(0.0);
        self.runners.iter().max_by(|a, b| speed(a).total_cmp(&speed(b))).context("no variant of PyTorch ran")
    }

    fn versions(&self) -> Value {
        self.runners[0].turns.first().map_or(Value::Null, |turn| turn["versions"].clone())
    }

    fn raw(&self) -> Value {
        self.runners.iter().flat_map(|runner| runner.turns.clone()).collect()
    }
}

impl Runner {
    fn speed(&self) -> Option<f64> {
        median(&self.turns, "tokens_per_s").ok()
    }

    fn name(&self) -> String {
        self.turns.first().map_or(String::new(), name)
    }
}

/// Builds our binary as users do and returns a command for it.
pub(super) fn triax() -> Result<Command> {
    command::run(&mut cargo(&["build", "--release", "--locked", "--quiet"]))?;
    let binary: PathBuf = target().join("release/triax");
    Ok(program(&binary.to_string_lossy(), &[]))
}

/// Runs a command that prints one JSON object.
fn one(command: &mut Command) -> Result<Value> {
    let mut objects = objects(command)?;
    match objects.len() {
        1 => Ok(objects.remove(0)),
        count => bail!("`{}` printed {count} lines instead of one JSON object", show(command)),
    }
}

/// Runs a command that prints one JSON object a line.
pub(super) fn objects(command: &mut Command) -> Result<Vec<Value>> {
    println!("+ {}", show(command));
    let printed = output(command)?;
    printed
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("`{}` printed `{line}`", show(command)))
        })
        .collect()
}

pub(super) fn alone(figure: &Figure, value: f64) -> Found {
    Found { name: figure.name.clone(), value, opponent: String::new(), opponent_value: None }
}

/// Who a turn of an opponent was, with its version.
fn name(turn: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version =
        ["torch", "tokenizers", "fastwarc", "trafilatura", "llama-cpp-python", "llama-server", "datatrove"]
            .map(|name| word(&turn["versions"][name]))
            .concat();
    format!("{} {version} {}", word(&turn["peer"]), word(&turn["variant"]))
}

pub(super) fn number(turn: &Value, field: &str) -> Result<f64> {
    turn[field].as_f64().with_context(|| format!("no number `{field}` in {turn}"))
}

/// The lower of the middle two when their count is even.
pub(super) fn median(turns: &[Value], field: &str) -> Result<f64> {
    let mut values = turns.iter().map(|turn| number(turn, field)).collect::<Result<Vec<_>>>()?;
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1).with_context(|| format!("nothing measured `{field}`"))? / 2;
    Ok(values[middle])
}

/// The command as a reader would repeat it: of paths outside the workspace and the target folder only the last
/// part, since what comes before belongs to one machine.
pub(super) fn typed(command: &Command) -> String {
    let inside = [(target(), "target"), (command::root().to_owned(), "")];
    let word = |word: &OsStr| {
        let path = Path::new(word);
        if !path.is_absolute() {
            return word.to_string_lossy().into_owned();
        }
        let shortened = inside
            .iter()
            .find_map(|(folder, name)| Some(Path::new(name).join(path.strip_prefix(folder).ok()?)));
        shortened
            .unwrap_or_else(|| path.file_name().map(PathBuf::from).unwrap_or_default())
            .to_string_lossy()
            .into_owned()
    };
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program.to_string_lossy().into_owned()).chain(command.get_args().map(word));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_command_holds_no_folder_of_this_machine() {
        let mut command = Command::new(target().join("release/triax"));
        command.args(["bench", "--input", "/elsewhere/on/disk/text.txt", "--tokenizer"]);
        command.arg(target().join("bench/tokenizer.json"));
        assert_eq!(typed(&command), "triax bench --input text.txt --tokenizer target/bench/tokenizer.json");
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        let turns = [3.0, 1.0, 2.0, 9.0].map(|value| json!({ "x": value }));
        assert_eq!(median(&turns[..3], "x").unwrap(), 2.0);
        assert_eq!(median(&turns, "x").unwrap(), 2.0);
        assert!(median(&turns, "y").unwrap_err().to_string().contains("`y`"));
        assert!(median(&[], "x").is_err());
    }
}
