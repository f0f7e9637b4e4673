//! The training loop.
//!
//! ```text
//!   ┌─▶ batch at (step, samples) ─▶ forward, backward ─▶ loss, norm ─▶ verdict ─▶ update | skip | rollback | stop
//!   └── metrics ◀── evaluation, checkpoint when due ◀──────────────────────────────────────────────────────┘
//! ```
//! Where a run stands is (step, samples): which samples come, the rate, the batch and dropout follow from it, so a
//! resumed run has the bits of one that was never stopped. A rollback takes weights, moments and statistics back
//! to the last checkpoint; step and samples go on, so no step number and no sample comes twice.
//!
//! Every rank of a run goes through the same loop and comes to the same decisions from the same sums; the first rank
//! alone holds the run directory and tells what happens.

use crate::checkpoint::{
    Checkpoint, CheckpointError, Disk, LocalDisk, Resume, Saved, Saver, Skipped, State, Writer,
};
use crate::checkpoint::{choose, clean, list};
use crate::directory::RunDirectory;
use crate::feed::{Feed, HeldOut, StepFeed};
use crate::loss_scale::LossScaler;
use crate::metrics::Metrics;
use crate::watch::{Alarm, Cause, Response, Verdict, Watch};
use crate::{Engine, Observer, Outcome, Plan, Started, StepReport, TrainError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use triax_comm::{Axis, Collective};
use triax_model::TensorSource;
use triax_spec::run::Precision;
use triax_spec::{Progress, Run, flops_per_token, parameters};
use triax_tensor::{Device, View};

/// How a run begins and what it is told from outside; the same for all its ranks.
#[derive(Clone)]
pub struct Start {
    pub resume: Resume,
    /// When set, the step is finished, saved, and the run returns [`Outcome::Stopped`].
    pub stop: Arc<AtomicBool>,
    /// The machine's peak in FLOP/s, to report the share of it.
    pub peak_flops: Option<f64>,
    /// First weights instead of random ones, for runs that do not resume.
    pub initial: Option<Arc<dyn TensorSource + Send + Sync>>,
    /// What checkpoints are written through.
    pub disk: Arc<dyn Disk>,
}

impl Start {
    pub fn new(resume: Resume) -> Self {
        Self { resume, stop: Arc::default(), peak_flops: None, initial: None, disk: Arc::new(LocalDisk) }
    }
}

/// Between two looks whether all ranks have written their parts of a checkpoint.
const LOOK: Duration = Duration::from_millis(1);

/// What a step has found, before it is decided what becomes of it.
struct Found {
    before: Progress,
    /// Mean over the tokens that count.
    loss: f64,
    /// Gradient norm, without the loss scale.
    norm: f64,
    /// The loss scale that is in the gradients.
    scale: f32,
    learning_rate: f32,
}

/// A run that is ready to go.
pub struct Trainer {
    run: Run,
    engine: Engine,
    feed: Feed,
    held_out: HeldOut,
    saver: Saver,
    /// Where the values are that this rank saves, in the order of the saver's pieces.
    saved_views: Vec<View>,
    watch: Watch,
    scaler: Option<LossScaler>,
    progress: Progress,
    updates: u64,
    skipped: Vec<Skipped>,
    /// Step of the newest checkpoint, also while it is being written.
    saved: Option<u64>,
    /// On the first rank.
    metrics: Option<Metrics>,
    stop: Arc<AtomicBool>,
    /// Some rank was asked to stop, as all know.
    stopping: bool,
    peak_flops: Option<f64>,
    initial: Option<Arc<dyn TensorSource + Send + Sync>>,
    started: Started,
    path: PathBuf,
    // Last: the lock outlives the save that is finished when the run is dropped.
    directory: Option<RunDirectory>,
}

impl Trainer {
    /// Locks the run directory, finds and checks what to go on from, allocates, and writes `run.toml` and
    /// `plan.json`. Nothing of an existing run is changed before all checks have passed. `collective`: this rank's end
    /// of the plan's world.
    pub fn open(
        plan: Plan,
        device: Box<dyn Device>,
        mut collective: Box<dyn Collective>,
        path: &Path,
        start: Start,
    ) -> Result<Self, TrainError> {
        let first = collective.rank() == 0;
        let (directory, checkpoint) = find(&mut *collective, path, start.resume)?;
        let run = plan.run.clone();
        let state = checkpoint.as_ref().map(|checkpoint| &checkpoint.manifest().state);
        let feed = Feed::open(&run, state.map(|state| (&state.data, state.progress.samples)))?;
        if let Some(checkpoint) = &checkpoint {
            check_data(checkpoint, &run, &feed)?;
        }
        let held_out = HeldOut::open(&run)?;
        let plan_json = plan.to_json();
        let mut engine = Engine::allocate(plan, device, collective)?;
        match (&checkpoint, &start.initial) {
            (Some(checkpoint), _) => engine.restore(checkpoint)?,
            (None, Some(source)) => engine.load_weights(&**source)?,
            (None, None) => engine.initialise(run.train.seed),
        }
        let progress = state.map_or_else(Progress::default, |state| state.progress);
        let mut metrics = None;
        if let Some(directory) = &directory {
            directory.begin()?;
            clean(directory.path())?;
            directory.write("run.toml", run.to_toml().as_bytes())?;
            directory.write("plan.json", &plan_json)?;
            metrics = Some(Metrics::open(directory, progress.step)?);
        }
        let mut watch = Watch::new(run.train.on_spike, run.train.on_nonfinite);
        if let Some(state) = state {
            watch.restore(&state.watch);
        }
        let f16 = run.train.precision == Precision::F16;
        let started = Started {
            resumed: checkpoint.as_ref().map(|checkpoint| checkpoint.folder().to_owned()),
            progress,
            end: run.train.when(run.train.stop),
            parameters: parameters(&run.model),
            device: engine.device().describe(),
            blend_changed: state.is_some_and(|state| state.data != *feed.order()),
        };
        let owned = engine.owned();
        let writer = Writer { rank: engine.mesh().rank(), ranks: engine.mesh().world() };
        debug_assert_eq!(first, writer.rank == 0);
        Ok(Self {
            saver: Saver::of_rank(
                path.to_owned(),
                run.checkpoint.keep,
                run.model.clone(),
                (
                    engine.tensors(),
                    owned.iter().map(|(tensor, elements, _)| (*tensor, elements.clone())).collect(),
                ),
                start.disk,
                writer,
            ),
            saved_views: owned.into_iter().map(|(_, _, view)| view).collect(),
            metrics,
            watch,
            scaler: f16.then(|| {
                let saved = state.and_then(|state| state.loss_scale);
                saved.unwrap_or_else(|| LossScaler::new(&run.train.loss_scale))
            }),
            progress,
            updates: state.map_or(0, |state| state.updates),
            skipped: state.map_or_else(Vec::new, |state| state.skipped.clone()),
            saved: state.map(|state| state.progress.step),
            stop: start.stop,
            stopping: false,
            peak_flops: start.peak_flops,
            initial: start.initial,
            started,
            engine,
            feed,
            held_out,
            run,
            path: path.to_owned(),
            directory,
        })
    }

    pub const fn progress(&self) -> Progress {
        self.progress
    }

    /// Notes from now on when each action of a step runs, in seconds since `clock`; [`Engine::timeline`] has them.
    pub fn record_timeline(&mut self, clock: Instant) {
        self.engine.record_timeline(clock);
    }

    /// The network with its device and weights.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Samples that took no part in training so far.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Runs until `train.stop` is reached or the stop flag is set; the state is on disk when this returns well.
    pub fn train(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let outcome = self.run(observer).inspect_err(|error| {
            // The others end too, with this rank's reason.
            self.engine.collective.abort(&error.to_string());
        })?;
        self.engine.collective.leave()?;
        Ok(outcome)
    }

    fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        observer.started(&self.started);
        let asked = self.stop.load(Ordering::Relaxed);
        self.stopping = self.engine.gather(&[u8::from(asked)], "start")?.iter().any(|asked| asked[0] != 0);
        let outcome = loop {
            if self.run.train.stop.reached(&self.progress) {
                break Outcome::Finished(self.progress);
            }
            if self.stopping || (self.engine.mesh().world() == 1 && self.stop.load(Ordering::Relaxed)) {
                break Outcome::Stopped(self.progress);
            }
            let before = self.progress;
            self.step(observer)?;
            let every = self.run.train.evaluate_every;
            if every > 0 && self.progress.step.is_multiple_of(every) {
                self.evaluate(observer)?;
            }
            if self.run.checkpoint.every.due(&before, &self.progress) {
                self.save(observer)?;
            }
            if let Some(saved) = self.saver.poll()? {
                observer.checkpoint(&saved);
            }
        };
        if self.progress.step > 0 && self.saved != Some(self.progress.step) {
            self.save(observer)?;
        }
        if let Some(saved) = self.settle()? {
            observer.checkpoint(&saved);
        }
        if let Some(directory) = &self.directory {
            directory.end(self.progress.step)?;
        }
        observer.stopped(&outcome);
        Ok(outcome)
    }

    fn step(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let begin = Instant::now();
        let before = self.progress;
        let batch = self.run.train.batch_at(before.samples);
        let after = before.advanced(batch, self.run.train.sequence);
        let scale = self.scaler.map_or(1.0, |scaler| scaler.scale());
        let counted = self.feed.counted(before.samples, batch);
        let grad_scale = (f64::from(scale) / counted as f64) as f32;

        let layout = self.engine.layout().clone();
        let data = self.engine.mesh().coordinate(Axis::Data);
        let mut samples =
            StepFeed { feed: &mut self.feed, layout: &layout, data, first: before.samples, batch };
        let sums = self.engine.step(&mut samples, layout.micro_batches(batch), grad_scale, &self.stop)?;
        self.stopping = sums.stop;
        let loss = sums.loss / counted as f64;
        let norm = sums.gradient_squares.sqrt() / f64::from(scale);

        self.progress = after;
        let learning_rate = self.run.train.learning_rate.at(&after);
        let found = Found { before, loss, norm, scale, learning_rate };
        let skipped = self.decide(&found, observer)?;
        let seconds = begin.elapsed().as_secs_f64();
        let tokens = (batch * self.run.train.sequence as u64) as f64;
        let flops_per_s = tokens * flops_per_token(&self.run.model, self.run.train.sequence) / seconds;
        let report = StepReport {
            step: after.step,
            samples: after.samples,
            tokens: after.tokens,
            batch,
            loss,
            grad_norm: norm,
            learning_rate,
            loss_scale: self.scaler.map(|_| scale),
            skipped,
            step_s: seconds,
            tokens_per_s: tokens / seconds,
            flops_per_s,
            flops_share: self.peak_flops.map(|peak| flops_per_s / peak),
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.step(&report)?;
        }
        observer.step(&report);
        Ok(())
    }

    /// Does with the gradients what the rules say; the reason, if the weights do not change by them.
    fn decide(
        &mut self,
        found: &Found,
        observer: &mut dyn Observer,
    ) -> Result<Option<&'static str>, TrainError> {
        let rule = &self.run.train.loss_scale;
        if let Some(scaler) = &mut self.scaler {
            if found.norm.is_finite() {
                scaler.clean_step(rule);
            } else if found.loss.is_finite() && scaler.can_fall(rule) {
                scaler.overflow(rule);
                self.skip(found.before.samples, "overflow", "gradients overflowed f16")?;
                return Ok(Some("overflow"));
            }
        }
        match self.watch.judge(found.loss, found.norm) {
            Verdict::Apply => {
                self.apply(found)?;
                Ok(None)
            }
            Verdict::Alarm(alarm, response) => {
                observer.alarm(self.progress.step, &alarm, response);
                self.respond(found, &alarm, response)
            }
        }
    }

    fn respond(
        &mut self,
        found: &Found,
        alarm: &Alarm,
        response: Response,
    ) -> Result<Option<&'static str>, TrainError> {
        let start = found.before.samples;
        let reason = if alarm.cause == Cause::Nonfinite { "nonfinite" } else { "spike" };
        let culprits = if alarm.cause == Cause::Nonfinite { self.culprits(found)? } else { String::new() };
        match response {
            Response::Log => {
                self.apply(found)?;
                Ok(None)
            }
            Response::Skip => {
                self.skip(start, reason, &format!("{alarm}{culprits}"))?;
                Ok(Some(reason))
            }
            Response::Rollback => {
                let from = self.roll_back()?;
                self.skip(from, reason, &format!("rolled back: {alarm}{culprits}"))?;
                Ok(Some("rollback"))
            }
            Response::Stop | Response::Limit(_) => {
                // A save that is under way is finished; the gradients are thrown away.
                self.settle()?;
                let key = if reason == "spike" { "train.on_spike" } else { "train.on_nonfinite" };
                Err(TrainError::Alarm {
                    step: self.progress.step,
                    start,
                    end: self.progress.samples,
                    alarm: *alarm,
                    places: culprits,
                    rule: match response {
                        Response::Limit(limit) => format!("more than {key}.limit = {limit} in a row"),
                        _ => format!("{key}.action = \"stop\""),
                    },
                })
            }
        }
    }

    /// Where values were not finite first.
    fn culprits(&mut self, found: &Found) -> Result<String, TrainError> {
        let first = found.before.samples;
        let places = self.engine.culprits(first, self.progress.samples - first)?;
        Ok(if places.is_empty() { places } else { format!("; not finite are {}", &places[2..]) })
    }

    fn apply(&mut self, found: &Found) -> Result<(), TrainError> {
        let optimizer = &self.run.train.optimizer;
        let clip = f64::from(optimizer.clip);
        let clipped = if clip > 0.0 { (clip / (found.norm + 1e-6)).min(1.0) } else { 1.0 };
        self.updates += 1;
        let grad_scale = (clipped / f64::from(found.scale)) as f32;
        self.engine.update(optimizer, found.learning_rate, grad_scale, self.updates)
    }

    /// Notes that the samples `start..` up to the present position changed nothing.
    fn skip(&mut self, start: u64, kind: &str, reason: &str) -> Result<(), TrainError> {
        let skipped = Skipped {
            step: self.progress.step,
            start,
            end: self.progress.samples,
            reason: format!("{kind}: {reason}"),
        };
        if let Some(metrics) = &mut self.metrics {
            metrics.skipped(&skipped)?;
        }
        self.skipped.push(skipped);
        Ok(())
    }

    /// Takes weights, moments and statistics from the newest checkpoint, or the first ones when there is none.
    /// Returns the position of that state.
    fn roll_back(&mut self) -> Result<u64, TrainError> {
        self.settle()?;
        let Some((_, newest)) = list(&self.path)?.pop() else {
            match &self.initial {
                Some(source) => self.engine.load_weights(&**source)?,
                None => self.engine.initialise(self.run.train.seed),
            }
            self.updates = 0;
            self.skipped.clear();
            self.watch.restore(&Default::default());
            return Ok(0);
        };
        let checkpoint = Checkpoint::open(&newest)?;
        if self.engine.mesh().rank() == 0 {
            checkpoint.verify()?;
        }
        self.engine.gather(&[], "rollback")?;
        self.engine.restore(&checkpoint)?;
        let state = &checkpoint.manifest().state;
        self.updates = state.updates;
        self.watch.restore(&state.watch);
        if let (Some(scaler), Some(saved)) = (&mut self.scaler, state.loss_scale) {
            *scaler = saved;
        }
        // The range that is noted next covers everything after the checkpoint.
        self.skipped.clone_from(&state.skipped);
        Ok(state.progress.samples)
    }

    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        for evaluation in self.held_out.evaluate(&mut self.engine, self.progress.step)? {
            if let Some(metrics) = &mut self.metrics {
                metrics.evaluation(&evaluation)?;
            }
            observer.evaluation(&evaluation);
        }
        Ok(())
    }

    /// Waits until every rank has written its part of the save that is under way, or one could not.
    fn settle(&mut self) -> Result<Option<Saved>, TrainError> {
        const WRITING: u8 = 0;
        const WRITTEN: u8 = 1;
        const FAILED: u8 = 2;
        if self.engine.mesh().world() == 1 {
            return Ok(self.saver.wait()?);
        }
        let mut outcome = None;
        loop {
            if outcome.is_none() && !self.saver.is_writing() {
                outcome = Some(self.saver.wait());
            }
            let mine = match &outcome {
                None => WRITING,
                Some(Ok(_)) => WRITTEN,
                Some(Err(_)) => FAILED,
            };
            let all = self.engine.gather(&[mine], "checkpoint")?;
            if let Some(rank) = all.iter().position(|word| word[0] == FAILED) {
                // The first rank waits for parts that may never come.
                self.saver.abandon();
                if let Some(outcome) = outcome {
                    outcome?;
                }
                let message = "its part of the checkpoint could not be written".to_owned();
                return Err(TrainError::Elsewhere { rank, message });
            }
            match outcome {
                Some(Ok(saved)) if all.iter().all(|word| word[0] == WRITTEN) => return Ok(saved),
                unfinished => outcome = unfinished,
            }
            std::thread::sleep(LOOK);
        }
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.watch.checkpointed();
        let state = State {
            progress: self.progress,
            updates: self.updates,
            data: self.feed.order().clone(),
            loss_scale: self.scaler,
            watch: self.watch.state(),
            skipped: self.skipped.clone(),
            tokenizer: self.feed.tokenizer().cloned(),
        };
        self.saved = Some(self.progress.step);
        if self.engine.mesh().world() > 1 {
            if let Some(earlier) = self.settle()? {
                observer.checkpoint(&earlier);
            }
            if self.engine.mesh().rank() == 0 {
                self.saver.prepare(self.progress.step)?;
            }
            self.engine.gather(&[], "checkpoint")?;
        }
        // What the logs say up to here is to be as durable as the checkpoint that goes on from here.
        if let Some(metrics) = &mut self.metrics {
            metrics.sync()?;
        }
        let (engine, views) = (&self.engine, &self.saved_views);
        let copy = |index: usize, first: usize, values: &mut [f32]| {
            engine.read(views[index].flat_range(first, values.len()), values);
        };
        if let Some(earlier) = self.saver.save(state, copy)? {
            observer.checkpoint(&earlier);
        }
        Ok(())
    }
}

/// The run directory (on the first rank, which locks it) and the checkpoint to go on from.
fn find(
    collective: &mut dyn Collective,
    path: &Path,
    resume: Resume,
) -> Result<(Option<RunDirectory>, Option<Checkpoint>), TrainError> {
    let look = || -> Result<_, TrainError> {
        let directory = RunDirectory::open(path)?;
        Ok((directory, choose(path, resume)?))
    };
    let world = triax_comm::Group::world(collective.world(), collective.rank());
    if collective.rank() == 0 {
        let found = look();
        if world.size() > 1 {
            let told = match &found {
                Ok((_, None)) => "new".to_owned(),
                Ok((_, Some(checkpoint))) => format!("on{}", checkpoint.folder().display()),
                Err(error) => format!("no{error}"),
            };
            collective.gather_host(&world, told.as_bytes(), "run directory")?;
        }
        return found.map(|(directory, checkpoint)| (Some(directory), checkpoint));
    }
    let told = collective.gather_host(&world, &[], "run directory")?;
    let told = String::from_utf8_lossy(&told[0]);
    match told.split_at(2) {
        ("on", folder) => Ok((None, Some(Checkpoint::open(Path::new(folder))?))),
        ("no", message) => Err(TrainError::Elsewhere { rank: 0, message: message.to_owned() }),
        _ => Ok((None, None)),
    }
}

/// Refuses a run file that would count samples otherwise than the checkpoint does.
fn check_data(checkpoint: &Checkpoint, run: &Run, feed: &Feed) -> Result<(), TrainError> {
    let state = &checkpoint.manifest().state;
    let mismatch =
        |what: String| Err(CheckpointError::Mismatch { folder: checkpoint.folder().to_owned(), what }.into());
    if state.data.seed != run.data.seed {
        return mismatch(format!(
            "data.seed is {} there and {} in the run file",
            state.data.seed, run.data.seed
        ));
    }
    if state.data.sequence != run.train.sequence {
        return mismatch(format!(
            "train.sequence is {} there and {} in the run file",
            state.data.sequence, run.train.sequence
        ));
    }
    if let (Some(there), Some(here)) = (&state.tokenizer, feed.tokenizer())
        && there.hash != here.hash
    {
        return mismatch(format!(
            "it was trained on tokens of {}, the data is of {}",
            there.short(),
            here.short()
        ));
    }
    Ok(())
}
