//! The same network on the same text for a few steps in several layouts, every bit compared with one rank's, and
//! the schedules of a pipeline as they ran.
//!
//! Ranks are threads. Layouts that the network is too small for, or that the time does not hold, are left out.

use crate::arguments::DeviceArguments;
use crate::failure::{Context, Failure, with_causes};
use crate::layout::{parse, show};
use crate::machine;
use serde::Serialize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use triax_comm::local::LocalRank;
use triax_comm::{Axis, Collective as _};
use triax_plan::{Action, Costs, Layout, Schedule, Span, simulate};
use triax_spec::Run;
use triax_spec::run::{Amount, Checkpoint, GlobalBatch, NumericsMode};
use triax_train::verify::{Evidence, Witness, difference};
use triax_train::{Evaluation, Observer, Plan, Resume, Start, StepReport, TrainError, Trainer, in_threads};

/// The most telling first.
const LAYOUTS: [&str; 9] = [
    "tp=2,pp=2,dp=2,sp=1,zero=1",
    "tp=2",
    "pp=2",
    "dp=2,zero=1",
    "tp=2,sp=1,recompute=full",
    "tp=2,pp=2,schedule=zb-h1",
    "pp=2,dp=2,schedule=interleaved,chunks=2",
    "tp=2,dp=2,recompute=selective",
    "dp=2",
];

/// On two stages, so that a machine of two cores shows them as they are.
const SCHEDULES: [&str; 4] = [
    "pp=2,schedule=gpipe",
    "pp=2,schedule=1f1b",
    "pp=2,schedule=interleaved,chunks=2",
    "pp=2,schedule=zb-h1",
];

const STEPS: u64 = 2;

/// Sequences of a step, each a micro-batch of its own.
const BATCH: u64 = 8;

/// What came of it all.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Comparison {
    pub(crate) rows: Vec<Row>,
    /// Layouts there was no time for.
    pub(crate) left_out: usize,
    #[serde(skip)]
    pub(crate) schedules: Vec<Ran>,
}

/// One layout against one rank.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) layout: String,
    pub(crate) ranks: usize,
    /// Of the last step, in nats per token.
    pub(crate) loss: f64,
    /// Where the first bit differs, if one does.
    pub(crate) difference: Option<String>,
    pub(crate) tokens_per_s: f64,
    /// Arenas and scratch memory of all ranks, as planned.
    pub(crate) forecast_bytes: usize,
    /// What the process grew by until the last step; none where the system does not tell.
    pub(crate) measured_bytes: Option<usize>,
}

/// A step of a schedule, in seconds from its first action.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) name: String,
    /// Computing, by stage.
    pub(crate) stages: Vec<Vec<Span>>,
    pub(crate) end: f64,
    /// Share of the stages' time in which they compute nothing.
    pub(crate) idle: f64,
    /// The same by the schedule alone: this run's mean times, nothing lost in between.
    pub(crate) ideal: f64,
}

/// Runs the layouts, then the schedules, for about `time`. `folder` holds their run folders meanwhile.
pub(crate) fn compare(
    run: &Run,
    device: DeviceArguments,
    folder: &Path,
    time: Duration,
) -> Result<Comparison, Failure> {
    let begin = Instant::now();
    let run = shortened(run);
    // Evidence reads its run folder, so this one stays until all is compared.
    let one = trial(&run, "", device, &folder.join("one"))?.expect("one rank is a layout of every network");
    let mut comparison = Comparison::default();
    let evidence = one.evidence;
    let other = folder.join("other");
    let clear = || std::fs::remove_dir_all(&other).context(|| format!("cannot remove {}", other.display()));
    comparison.rows.push(Row { layout: "one rank".to_owned(), ..one.row });
    for (index, text) in LAYOUTS.iter().enumerate() {
        if index > 0 && begin.elapsed() > time.mul_f64(0.7) {
            comparison.left_out += 1;
            continue;
        }
        let Some(trial) = trial(&run, text, device, &other)? else { continue };
        let difference = difference(&trial.evidence, &evidence).context(|| (*text).to_owned())?;
        clear()?;
        comparison.rows.push(Row { difference: difference.map(|d| d.to_string()), ..trial.row });
    }
    let mut pipeline = run;
    pipeline.numerics.data_groups = 1;
    for (index, text) in SCHEDULES.iter().enumerate() {
        if index > 0 && begin.elapsed() > time {
            break;
        }
        if let Some(trial) = trial(&pipeline, text, device, &other)? {
            clear()?;
            comparison.schedules.extend(trial.ran);
        }
    }
    Ok(comparison)
}

/// A few steps of the demo's run in two groups, which one or two replicas can share.
fn shortened(run: &Run) -> Run {
    let mut run = run.clone();
    run.train.global_batch = GlobalBatch::constant(BATCH);
    run.train.stop = Amount::Steps(STEPS);
    run.train.evaluate_every = 0;
    run.data.validation.clear();
    run.layout.micro_batch = 1;
    run.checkpoint = Checkpoint { every: Amount::Steps(0), keep: 0 };
    run.numerics.mode = NumericsMode::Exact;
    run.numerics.data_groups = 2;
    run
}

struct Trial {
    row: Row,
    evidence: Evidence,
    ran: Option<Ran>,
}

/// Watches the first rank.
#[derive(Default)]
struct Watcher {
    witness: Witness,
    last: Option<StepReport>,
    resident: Option<usize>,
}

impl Observer for Watcher {
    fn step(&mut self, step: &StepReport) {
        self.witness.step(step);
        self.last = Some(*step);
        self.resident = machine::resident_bytes();
    }

    fn evaluation(&mut self, evaluation: &Evaluation) {
        self.witness.evaluation(evaluation);
    }
}

/// Trains in one layout, with `folder` as the run folder; none if the network cannot be cut so, or its bits would not be one rank's.
fn trial(run: &Run, text: &str, device: DeviceArguments, folder: &Path) -> Result<Option<Trial>, Failure> {
    let mut run = run.clone();
    run.layout = parse(text, run.layout.micro_batch)?;
    let Ok(layout) = Layout::new(&run, 0) else { return Ok(None) };
    if layout.own_bits.is_some() || (run.layout.chunks * run.layout.pipeline > run.model.layers) {
        return Ok(None);
    }
    let name = if text.is_empty() { "one rank".to_owned() } else { show(&run.layout) };
    let threads = machine::threads_of_a_rank(device.threads, layout.world());
    let device = machine::for_training(DeviceArguments { threads, ..device });
    drop(machine::device(device)?);

    let (clock, before) = (Instant::now(), machine::resident_bytes());
    let forecast = AtomicUsize::new(0);
    let spans = Mutex::new(vec![Vec::new(); layout.pipeline]);
    let open = |rank: LocalRank| -> Result<Trainer, TrainError> {
        let device = machine::device(device).expect("this device was made before");
        let plan = Plan::of_rank(&run, &layout, rank.rank(), &*device)?;
        forecast.fetch_add(plan.table().bytes() + plan.scratch_bytes(), Ordering::Relaxed);
        let mut trainer = Trainer::open(plan, device, Box::new(rank), folder, Start::new(Resume::Never))?;
        trainer.record_timeline(clock);
        Ok(trainer)
    };
    let keep = |trainer: &Trainer| {
        let (engine, mesh) = (trainer.engine(), trainer.engine().mesh());
        if mesh.coordinate(Axis::Tensor) == 0 && mesh.coordinate(Axis::Data) == 0 {
            let mut spans = spans.lock().expect("no rank panics while it holds the spans");
            spans[mesh.coordinate(Axis::Pipeline)] = engine.timeline().to_vec();
        }
    };
    let mut watcher = Watcher::default();
    let failed = || name.clone();
    in_threads(
        layout.world(),
        Default::default(),
        |rank| {
            let mut trainer = open(rank)?;
            trainer.train(&mut watcher)?;
            keep(&trainer);
            Ok(())
        },
        |rank| {
            let mut trainer = open(rank)?;
            trainer.train(&mut ())?;
            keep(&trainer);
            Ok(())
        },
    )
    .map_err(|error| Failure::run(format!("{name}: {}", with_causes(&error))))?;
    let last = watcher.last.ok_or_else(|| Failure::run(format!("{name} made no step")))?;
    let row = Row {
        layout: name.clone(),
        ranks: layout.world(),
        loss: last.loss,
        difference: None,
        tokens_per_s: last.tokens_per_s,
        forecast_bytes: forecast.into_inner(),
        measured_bytes: watcher.resident.zip(before).map(|(after, before)| after.saturating_sub(before)),
    };
    let evidence = watcher.witness.evidence(folder).context(failed)?;
    let spans = spans.into_inner().expect("no rank panics while it holds the spans");
    let ran = (layout.pipeline > 1).then(|| ran(name, &layout, spans)).flatten();
    Ok(Some(Trial { row, evidence, ran }))
}

const fn computes(action: Action) -> bool {
    matches!(
        action,
        Action::Forward(_) | Action::Backward(_) | Action::BackwardInput(_) | Action::BackwardWeight(_)
    )
}

/// What the stages computed, and how much of their time it took.
fn ran(name: String, layout: &Layout, mut stages: Vec<Vec<Span>>) -> Option<Ran> {
    for spans in &mut stages {
        spans.retain(|span| computes(span.action));
    }
    let all = || stages.iter().flatten();
    let start = all().map(|span| span.start).fold(f64::INFINITY, f64::min);
    for span in stages.iter_mut().flatten() {
        span.start -= start;
        span.end -= start;
    }
    let all = || stages.iter().flatten();
    let end = all().map(|span| span.end).fold(0.0, f64::max);
    let busy: f64 = all().map(|span| span.end - span.start).sum();
    let mean = |wanted: fn(Action) -> bool| {
        let times: Vec<f64> = all().filter(|s| wanted(s.action)).map(|s| s.end - s.start).collect();
        times.iter().sum::<f64>() / times.len().max(1) as f64
    };
    let costs = Costs {
        forward: mean(|action| matches!(action, Action::Forward(_))),
        backward_input: mean(|action| matches!(action, Action::BackwardInput(_) | Action::Backward(_))),
        backward_weight: mean(|action| matches!(action, Action::BackwardWeight(_))),
        transfer: 0.0,
    };
    let schedule =
        Schedule::new(layout.schedule, layout.pipeline, layout.chunks, BATCH as usize / layout.groups());
    let ideal = simulate(&schedule.ok()?, costs).ok()?;
    let share = |busy: f64, end: f64| 1.0 - busy / (stages.len() as f64 * end);
    let ideal_busy: f64 = ideal.spans.iter().flatten().map(|span| span.end - span.start).sum();
    Some(Ran { name, end, idle: share(busy, end), ideal: share(ideal_busy, ideal.end), stages })
}
