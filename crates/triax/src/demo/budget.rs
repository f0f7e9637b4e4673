//! How large a network, and how many steps: what fits into the time.
//!
//! A few steps are timed with the real network; the steps of the run are what the rest of the time holds.
//! When a smaller network would learn more in so few, that one is tried.

use crate::arguments::DeviceArguments;
use crate::failure::{Context, Failure};
use crate::machine;
use crate::random_steps::{RandomSteps, median};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use triax_spec::Run;

/// A network of the demo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) sequence: usize,
    /// Sequences in a step.
    pub(crate) batch: usize,
    pub(crate) learning_rate: f64,
    /// Where the time holds fewer steps, the next smaller network learns more in it.
    pub(crate) enough_steps: u64,
}

/// Largest first. What a short run can spend goes into steps before it goes into parameters. On two Zen 4 cores (2026-12-01, `triax train`
/// with steps of 1024 tokens) the held-out loss of the default text, 12 samples of each source, was 3.87 with 6 layers of 192 (1746 steps,
/// 190 s on both cores), 3.64 with 4 of 192, 3.54 with 6 of 128, 3.43 with 4 of 128, 3.36 with 3 of 128, 3.35 with 3 of 96, 3.37 with 2 of
/// 128 and 3.44 with 3 of 160 (2440 to 6000 steps, 324 to 368 s on one core, two runs side by side). With twice the batch and 1.75 times the
/// learning rate 3 of 128 came to 3.34 in 366 s, before in 340. In whole demos 4 of 96 came to 1.92 bits per byte, 4 of 128 to 1.86, 1.88 and
/// 1.95; four layers are what an interleaved pipeline needs. The two largest are for longer runs than these: their rates and numbers of
/// steps follow from the others' and have not been tried.
pub(crate) const SHAPES: [Shape; 5] = [
    Shape {
        layers: 4,
        hidden: 256,
        heads: 8,
        sequence: 256,
        batch: 8,
        learning_rate: 2e-3,
        enough_steps: 8000,
    },
    Shape {
        layers: 4,
        hidden: 192,
        heads: 6,
        sequence: 256,
        batch: 8,
        learning_rate: 2.5e-3,
        enough_steps: 5000,
    },
    Shape {
        layers: 4,
        hidden: 128,
        heads: 4,
        sequence: 256,
        batch: 8,
        learning_rate: 3.5e-3,
        enough_steps: 500,
    },
    Shape {
        layers: 3,
        hidden: 128,
        heads: 2,
        sequence: 128,
        batch: 4,
        learning_rate: 4e-3,
        enough_steps: 400,
    },
    Shape { layers: 2, hidden: 64, heads: 2, sequence: 64, batch: 4, learning_rate: 6e-3, enough_steps: 400 },
];

/// Standard deviation of the first weights: 0.8 / √256, where GPT-2's 0.02 suits its width of 768. After 800 steps of the largest
/// shape 0.02, 0.05 and 0.1 gave 2.69, 2.51 and 2.86 bits per byte of the default text (2026-12-01, `triax train` with
/// `model.init.std`).
const INITIAL_STD: f64 = 0.05;

/// However short the time, the demo makes this many.
const LEAST_STEPS: u64 = 20;

/// Held-out evaluations during training.
const EVALUATIONS: u64 = 10;

/// Sequences of each source in such an evaluation.
const EVALUATION_SAMPLES: u64 = 12;

/// The token files of one source.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) training: PathBuf,
    pub(crate) held_out: PathBuf,
    pub(crate) weight: f64,
    pub(crate) training_tokens: u64,
    pub(crate) held_out_tokens: u64,
}

/// What was decided.
pub(crate) struct Budget {
    pub(crate) run: Run,
    /// As written to `run.toml`.
    pub(crate) text: String,
    pub(crate) steps: u64,
    pub(crate) step_seconds: f64,
}

/// Times the shapes and takes the largest that learns enough in `seconds`, which also hold the evaluation at
/// the end.
pub(crate) fn decide(
    sources: &[Tokens],
    vocabulary: usize,
    device: DeviceArguments,
    seconds: f64,
    file: &Path,
) -> Result<Budget, Failure> {
    let mut last = None;
    for shape in SHAPES {
        let trial = parse(file, &run_file(shape, sources, vocabulary, device, LEAST_STEPS))?;
        let step_seconds = time_step(&trial, device)?;
        let steps = steps(shape, sources, step_seconds, seconds);
        last = Some((shape, steps, step_seconds));
        if steps >= shape.enough_steps {
            break;
        }
    }
    let (shape, steps, step_seconds) = last.expect("there is at least one shape");
    let steps = steps.max(LEAST_STEPS);
    let text = run_file(shape, sources, vocabulary, device, steps);
    Ok(Budget { run: parse(file, &text)?, text, steps, step_seconds })
}

/// Training costs three times what a forward pass costs.
fn steps(shape: Shape, sources: &[Tokens], step_seconds: f64, seconds: f64) -> u64 {
    let forward = step_seconds / 3.0 / shape.batch as f64;
    let judged: u64 = sources.iter().map(|source| source.held_out_tokens).sum();
    let windows = judged as f64 / (0.5 * shape.sequence as f64);
    let evaluated = (EVALUATIONS * EVALUATION_SAMPLES) as f64 * sources.len() as f64;
    let left = seconds - forward * (windows + evaluated);
    (left / step_seconds).max(0.0) as u64
}

fn parse(file: &Path, text: &str) -> Result<Run, Failure> {
    // The text is ours: a fault in it is one of this program.
    Run::parse(&file.display().to_string(), text, &[]).map_err(|errors| Failure::run(errors.to_string()))
}

/// The run file of the demo; Llama style, which learns fastest in short runs.
fn run_file(
    shape: Shape,
    sources: &[Tokens],
    vocabulary: usize,
    device: DeviceArguments,
    steps: u64,
) -> String {
    let Shape { layers, hidden, heads, sequence, batch, learning_rate, .. } = shape;
    let list = |path: fn(&Tokens) -> (&PathBuf, f64)| {
        sources.iter().fold(String::new(), |mut list, source| {
            let (path, weight) = path(source);
            let _ = writeln!(list, "    {{ path = {}, weight = {weight:?} }},", quoted(path));
            list
        })
    };
    let blend = list(|source| (&source.training, source.weight));
    let validation = list(|source| (&source.held_out, source.weight));
    let warmup = (steps / 20).clamp(5, 100);
    let evaluate_every = (steps / EVALUATIONS).max(1);
    format!(
        "# Written by `triax demo`: `triax train` with this file repeats its training.\n\n\
         [model]\nlayers = {layers}\nhidden = {hidden}\nheads = {heads}\nffn = {}\nvocab = {vocabulary}\nsequence = {sequence}\n\
         norm = \"rms\"\nactivation = \"swiglu\"\ninit.std = {INITIAL_STD:?}\npositions = \"rotary\"\nbias = false\ntied = true\n\n\
         [data]\nblend = [\n{blend}]\nvalidation = [\n{validation}]\n\n\
         [train]\nglobal_batch = {batch}\nstop = \"{steps} steps\"\n\
         learning_rate = {{ peak = {learning_rate:?}, warmup = \"{warmup} steps\", decay = \"linear\", floor = {:?} }}\n\
         optimizer = {{ betas = [0.9, 0.99], weight_decay = 0.1, clip = 1.0 }}\n\
         evaluate_every = {evaluate_every}\nevaluate_samples = {EVALUATION_SAMPLES}\n\n\
         [layout]\nmicro_batch = {batch}\n\n\
         [checkpoint]\nevery = \"{steps} steps\"\nkeep = 1\n\n\
         [device]\nkind = \"{}\"\nthreads = {}\n{}",
        // Each of the eight shards of its sums is whole steps of the products.
        3 * hidden,
        learning_rate / 50.0,
        device.device,
        device.threads,
        match device.device {
            triax_spec::run::DeviceKind::Cpu => format!("kernel = \"{}\"\n", device.kernel),
            triax_spec::run::DeviceKind::Reference => String::new(),
        },
    )
}

/// JSON's strings are TOML's basic strings.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// Seconds of a training step of this run: the median of a few.
fn time_step(run: &Run, device: DeviceArguments) -> Result<f64, Failure> {
    const WARM_UP: usize = 2;
    const TIMED: usize = 7;
    let device = machine::device(machine::for_training(device))?;
    let plan = RandomSteps::plan(run, &*device)?;
    let failed = || "cannot time a training step".to_owned();
    let mut steps = RandomSteps::new(run, plan, device, triax_train::alone()).context(failed)?;
    let seconds = (0..WARM_UP + TIMED)
        .map(|_| Ok(steps.step().context(failed)?.seconds))
        .collect::<Result<Vec<f64>, Failure>>()?;
    Ok(median(&seconds[WARM_UP..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use triax_spec::run::{DeviceKind, Kernel};

    #[test]
    fn every_shape_gives_a_valid_run_file() {
        let device = DeviceArguments { device: DeviceKind::Cpu, threads: 0, kernel: Kernel::Auto };
        let path = |name: &str| PathBuf::from("a \"quoted\" folder").join(name);
        let sources = [Tokens {
            training: path("rust"),
            held_out: path("rust-held-out"),
            weight: 0.5,
            training_tokens: 9000,
            held_out_tokens: 1000,
        }];
        for shape in SHAPES {
            let run = parse(Path::new("run.toml"), &run_file(shape, &sources, 4096, device, 500)).unwrap();
            assert_eq!(run.model.hidden, shape.hidden);
            assert!(shape.heads.is_multiple_of(2), "the demo's layouts cut {} heads in two", shape.heads);
            assert_eq!(run.data.blend[0].path, path("rust"));
            assert_eq!(run.train.stop, triax_spec::run::Amount::Steps(500));
        }
    }

    #[test]
    fn more_time_gives_more_steps_and_none_gives_none() {
        let sources = [];
        let shape = SHAPES[0];
        assert_eq!(steps(shape, &sources, 0.1, 10.0), 100);
        assert_eq!(steps(shape, &sources, 0.1, -3.0), 0);
    }
}
