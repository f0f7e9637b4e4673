//! `triax bench train`: training steps of a preset on random tokens, by the trainer's own engine; without
//! data files, logs and checkpoints.

use crate::arguments::{BenchTrain, DeviceArguments};
use crate::console::{bytes, count, json_line};
use crate::failure::{Failure, with_causes};
use crate::random_steps::{RandomSteps, Step, median};
use crate::{layout, machine, processes};
use serde::Serialize;
use std::collections::BTreeMap;
use triax_comm::Collective;
use triax_spec::model::Model;
use triax_spec::run::{Amount, Checkpoint, Data, Device, GlobalBatch, Numerics};
use triax_spec::{Preset, Run, presets};
use triax_tensor::Class;
use triax_train::{Plan, TrainError, in_threads, options_of};

/// GPT-2's 50257 ids, padded as its trainers do.
const PADDED_GPT2_VOCABULARY: usize = 50304;

#[derive(Serialize)]
struct Outcome {
    model: String,
    parameters: u64,
    batch: usize,
    sequence: usize,
    dtype: &'static str,
    device: String,
    layout: String,
    /// Of the median step.
    tokens_per_s: f64,
    peak_rss_mb: Option<f64>,
    loss_first: f64,
    loss_last: f64,
    /// Model arithmetic over the device's register-resident peak.
    flops_share: Option<f64>,
    peak_gflops: Option<f64>,
    /// Seconds of each measured step.
    step_s: Vec<f64>,
    /// Bytes by class, of rank 0.
    memory: BTreeMap<&'static str, usize>,
    scratch_bytes: usize,
    /// Each rank's arena and scratch memory, to the byte what is allocated; to be held against `peak_rss_mb`, which has
    /// the program and its threads in it too.
    forecast_bytes: Vec<usize>,
}

pub(crate) fn run(arguments: &BenchTrain) -> Result<(), Failure> {
    let launch = processes::launched()?;
    // Under a launcher the ranks fail alike, and the first one says why.
    let alike = |failure| match &launch {
        Some(launch) => {
            processes::before_meeting(launch, Err::<(), _>(failure)).expect_err("it is a failure")
        }
        None => failure,
    };
    let prepare = || {
        let preset = preset(&arguments.model)?;
        let run = run_of(preset, model(preset, arguments)?, arguments)?;
        let planned = super::plan::layout_of(&run, launch.as_ref().map_or(0, |launch| launch.world))?;
        Ok::<_, Failure>((preset, run, planned))
    };
    let (preset, run, planned) = prepare().map_err(alike)?;
    let first = launch.as_ref().is_none_or(|launch| launch.rank == 0);
    let peak = if first {
        machine::peak_of(machine::for_training(arguments.device), arguments.dtype)?
    } else {
        None
    };
    let ranks_here = launch.as_ref().and_then(|launch| launch.local_world).unwrap_or(planned.world());
    let threads = machine::threads_of_a_rank(arguments.device.threads, ranks_here);
    let arguments_of_a_rank = machine::for_training(DeviceArguments { threads, ..arguments.device });
    let device = machine::device(arguments_of_a_rank)?;
    let description = device.describe();
    let plan =
        Plan::of_rank(&run, &planned, 0, &*device).map_err(|error| Failure::usage(with_causes(&error)))?;
    let parameters = triax_spec::parameters(&run.model);
    if first {
        eprintln!("{}: {} parameters, {description}, {planned}", preset.name, count(parameters as f64));
        eprint!("{}", machine::memory_table(plan.table(), plan.scratch_bytes()));
    }
    let memory = Class::ALL.iter().map(|&class| (class.name(), plan.table().class_bytes(class))).collect();
    let scratch_bytes = plan.scratch_bytes();
    let forecast_bytes = (0..planned.world())
        .map(|rank| {
            let plan = Plan::of_rank(&run, &planned, rank, &*device);
            plan.map(|plan| plan.table().bytes() + plan.scratch_bytes())
        })
        .collect::<Result<Vec<usize>, TrainError>>()
        .map_err(|error| Failure::usage(with_causes(&error)))?;
    drop((plan, device));
    let (mut losses, mut step_s) = (Vec::new(), Vec::new());
    let steps_of = |rank: Box<dyn Collective>, tell: &mut dyn FnMut(usize, Step)| -> Result<(), TrainError> {
        let device = machine::device(arguments_of_a_rank).expect("this device was made before");
        let plan = Plan::of_rank(&run, &planned, rank.rank(), &*device)?;
        let mut steps = RandomSteps::new(&run, plan, device, rank)?;
        for step in 0..=arguments.steps {
            tell(step, steps.step()?);
        }
        steps.leave()
    };
    let tell = &mut |step: usize, Step { loss, seconds }: Step| {
        losses.push(loss);
        // The first step touches every page for the first time.
        if step > 0 {
            step_s.push(seconds);
        }
        eprintln!("step {step}: loss {loss:.4}, {seconds:.3} s");
    };
    if let Some(launch) = &launch {
        let asked = format!("{arguments:?}");
        let collective =
            processes::meet(launch, options_of(&run), arguments_of_a_rank, &[("arguments", &asked)])?;
        if first {
            eprintln!("{launch}; {}", collective.describe());
        }
        let done = if first { steps_of(collective, tell) } else { steps_of(collective, &mut |_, _| ()) };
        done.map_err(|error| processes::failure(launch.rank, error))?;
        if !first {
            return Ok(());
        }
    } else {
        in_threads(
            planned.world(),
            options_of(&run),
            |rank| steps_of(Box::new(rank), tell),
            |rank| steps_of(Box::new(rank), &mut |_, _| ()),
        )
        .map_err(|error| Failure::run(with_causes(&error)))?;
    }
    let tokens = (arguments.batch * arguments.seq) as f64;
    let tokens_per_s = tokens / median(&step_s);
    let outcome = Outcome {
        model: preset.name.to_owned(),
        parameters,
        batch: arguments.batch,
        sequence: arguments.seq,
        dtype: arguments.dtype.name(),
        device: description,
        layout: layout::show(&run.layout),
        tokens_per_s,
        peak_rss_mb: machine::peak_rss_mb(),
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
        flops_share: peak
            .map(|peak| tokens_per_s * triax_spec::flops_per_token(&run.model, arguments.seq) / (peak * 1e9)),
        peak_gflops: peak,
        step_s,
        memory,
        scratch_bytes,
        forecast_bytes,
    };
    let share =
        outcome.flops_share.map_or(String::new(), |share| format!(", {:.1} % of peak", 100.0 * share));
    let memory =
        outcome.peak_rss_mb.map_or(String::new(), |mb| format!(", at most {}", bytes((mb * 1e6) as usize)));
    eprintln!("{tokens_per_s:.0} tokens/s{share}{memory}");
    if arguments.json { json_line(&outcome) } else { Ok(()) }
}

fn preset(name: &str) -> Result<&'static Preset, Failure> {
    presets::find(name).ok_or_else(|| {
        let names: Vec<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
        Failure::usage(format!("there is no preset `{name}`")).help(format!("presets: {}", names.join(", ")))
    })
}

/// The preset's model as the bench runs it: without dropout, GPT-2's vocabulary padded.
fn model(preset: &Preset, arguments: &BenchTrain) -> Result<Model, Failure> {
    if arguments.steps == 0 || arguments.batch == 0 || arguments.seq == 0 {
        return Err(Failure::usage("--steps, --batch and --seq must be at least 1"));
    }
    let mut model = preset.model.clone();
    model.dropout = triax_spec::model::Dropout::default();
    model.vocab = match arguments.vocab {
        Some(vocab) => vocab,
        None if preset.name.starts_with("gpt2") => PADDED_GPT2_VOCABULARY,
        None => model.vocab,
    };
    if arguments.seq > model.sequence {
        return Err(Failure::usage(format!(
            "--seq {} is longer than the {} positions of {}",
            arguments.seq, model.sequence, preset.name
        ))
        .help(format!("use --seq {} or less", model.sequence)));
    }
    Ok(model)
}

/// The preset's recipe on the asked-for layout, nothing saved.
fn run_of(preset: &Preset, model: Model, arguments: &BenchTrain) -> Result<Run, Failure> {
    let mut layout = layout::parse(arguments.layout.as_deref().unwrap_or(""), 1)?;
    let pieces = layout.data * arguments.micro_batches;
    if pieces == 0 || !arguments.batch.is_multiple_of(pieces) {
        return Err(Failure::usage(format!(
            "--batch {} cannot be cut into {} micro-batches on {} replicas",
            arguments.batch, arguments.micro_batches, layout.data
        ))
        .help(format!("use --batch {}", arguments.batch.next_multiple_of(pieces.max(1)))));
    }
    layout.micro_batch = arguments.batch / pieces;
    let mut train = preset.recipe.train(&model);
    train.precision = arguments.dtype;
    train.sequence = arguments.seq;
    train.global_batch = GlobalBatch::constant(arguments.batch as u64);
    Ok(Run {
        model,
        data: Data { blend: Vec::new(), validation: Vec::new(), seed: 1 },
        train,
        layout,
        checkpoint: Checkpoint { every: Amount::Steps(0), keep: 0 },
        numerics: Numerics { mode: arguments.numerics, ..Numerics::default() },
        device: Device {
            kind: arguments.device.device,
            threads: arguments.device.threads,
            kernel: arguments.device.kernel,
        },
    })
}
