//! The training loop.
//!
//! ```text
//!   ┌─▶ batch at (step, samples) ─▶ forward, backward ─▶ loss, norm ─▶ verdict ─▶ update | skip | rollback | stop
//!   └── metrics ◀── evaluation, checkpoint when due ◀──────────────────────────────────────────────────────┘
//! ```
//! Where a run stands is (step, samples): which samples come, the rate, the batch and dropout follow from it, so a
//! resumed run has the bits of one that was never stopped. A rollback takes weights, moments and statistics back
//! to the last checkpoint; step and samples go on, so no step number and no sample comes twice.

use crate::checkpoint::{Checkpoint, CheckpointError, Disk, LocalDisk, Resume, Saver, Skipped, State};
use crate::checkpoint::{choose, clean, list};
use crate::directory::RunDirectory;
use crate::feed::{Feed, HeldOut};
use crate::loss_scale::LossScaler;
use crate::metrics::Metrics;
use crate::watch::{Alarm, Cause, Response, Verdict, Watch};
use crate::{Engine, Observer, Outcome, Plan, Started, StepReport, TrainError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use triax_model::TensorSource;
use triax_spec::run::Precision;
use triax_spec::{Progress, Run, flops_per_token, parameters};
use triax_tensor::Device;

/// How a run begins and what it is told from outside.
pub struct Start {
    pub resume: Resume,
    /// When set, the step is finished, saved, and the run returns [`Outcome::Stopped`].
    pub stop: Arc<AtomicBool>,
    /// The machine's peak in FLOP/s, to report the share of it.
    pub peak_flops: Option<f64>,
    /// First weights instead of random ones, for runs that do not resume.
    pub initial: Option<Box<dyn TensorSource>>,
    /// What checkpoints are written through.
    pub disk: Box<dyn Disk>,
}

impl Start {
    pub fn new(resume: Resume) -> Self {
        Self { resume, stop: Arc::default(), peak_flops: None, initial: None, disk: Box::new(LocalDisk) }
    }
}

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
    watch: Watch,
    scaler: Option<LossScaler>,
    progress: Progress,
    updates: u64,
    skipped: Vec<Skipped>,
    /// Step of the newest checkpoint, also while it is being written.
    saved: Option<u64>,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
    peak_flops: Option<f64>,
    initial: Option<Box<dyn TensorSource>>,
    started: Started,
    // Last: the lock outlives the save that is finished when the run is dropped.
    directory: RunDirectory,
}

impl Trainer {
    /// Locks the run directory, finds and checks what to go on from, allocates, and writes `run.toml` and
    /// `plan.json`. Nothing of an existing run is changed before all checks have passed.
    pub fn open(
        plan: Plan,
        device: Box<dyn Device>,
        directory: &Path,
        start: Start,
    ) -> Result<Self, TrainError> {
        let directory = RunDirectory::open(directory)?;
        clean(directory.path())?;
        let run = plan.run.clone();
        let checkpoint = choose(directory.path(), start.resume)?;
        let state = checkpoint.as_ref().map(|checkpoint| &checkpoint.manifest().state);
        let feed = Feed::open(&run, state.map(|state| (&state.data, state.progress.samples)))?;
        if let Some(checkpoint) = &checkpoint {
            check_data(checkpoint, &run, &feed)?;
        }
        let held_out = HeldOut::open(&run)?;
        let plan_json = plan.to_json();
        let mut engine = Engine::allocate(plan, device)?;
        match (&checkpoint, &start.initial) {
            (Some(checkpoint), _) => engine.restore(checkpoint)?,
            (None, Some(source)) => engine.load_weights(&**source)?,
            (None, None) => engine.initialise(run.train.seed),
        }
        let progress = state.map_or_else(Progress::default, |state| state.progress);
        directory.write("run.toml", run.to_toml().as_bytes())?;
        directory.write("plan.json", &plan_json)?;
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
        Ok(Self {
            saver: Saver::new(
                directory.path().to_owned(),
                run.checkpoint.keep,
                run.model.clone(),
                engine.tensors(),
                start.disk,
            ),
            metrics: Metrics::open(&directory, progress.step)?,
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
            peak_flops: start.peak_flops,
            initial: start.initial,
            started,
            engine,
            feed,
            held_out,
            run,
            directory,
        })
    }

    pub const fn progress(&self) -> Progress {
        self.progress
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
        observer.started(&self.started);
        let outcome = loop {
            if self.run.train.stop.reached(&self.progress) {
                break Outcome::Finished(self.progress);
            }
            if self.stop.load(Ordering::Relaxed) {
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
        if let Some(saved) = self.saver.wait()? {
            observer.checkpoint(&saved);
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

        self.engine.begin();
        let mut first = before.samples;
        while first < after.samples {
            let count = (after.samples - first).min(self.run.layout.micro_batch as u64);
            let micro_batch = self.feed.micro_batch(first, count as usize)?;
            self.engine.micro_batch(&micro_batch, grad_scale);
            first += count;
        }
        let sums = self.engine.end();
        debug_assert_eq!(sums.counted, counted);
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
        self.metrics.step(&report)?;
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
                self.apply(found);
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
        match response {
            Response::Log => {
                self.apply(found);
                Ok(None)
            }
            Response::Skip => {
                self.skip(start, reason, &alarm.to_string())?;
                Ok(Some(reason))
            }
            Response::Rollback => {
                let from = self.roll_back()?;
                self.skip(from, reason, &format!("rolled back: {alarm}"))?;
                Ok(Some("rollback"))
            }
            Response::Stop | Response::Limit(_) => {
                // A save that is under way is finished; the gradients are thrown away.
                self.saver.wait()?;
                let key = if reason == "spike" { "train.on_spike" } else { "train.on_nonfinite" };
                Err(TrainError::Alarm {
                    step: self.progress.step,
                    start,
                    end: self.progress.samples,
                    alarm: *alarm,
                    rule: match response {
                        Response::Limit(limit) => format!("more than {key}.limit = {limit} in a row"),
                        _ => format!("{key}.action = \"stop\""),
                    },
                })
            }
        }
    }

    fn apply(&mut self, found: &Found) {
        let optimizer = &self.run.train.optimizer;
        let clip = f64::from(optimizer.clip);
        let clipped = if clip > 0.0 { (clip / (found.norm + 1e-6)).min(1.0) } else { 1.0 };
        self.updates += 1;
        let grad_scale = (clipped / f64::from(found.scale)) as f32;
        self.engine.update(optimizer, found.learning_rate, grad_scale, self.updates);
    }

    /// Notes that the samples `start..` up to the present position changed nothing.
    fn skip(&mut self, start: u64, kind: &str, reason: &str) -> Result<(), TrainError> {
        let skipped = Skipped {
            step: self.progress.step,
            start,
            end: self.progress.samples,
            reason: format!("{kind}: {reason}"),
        };
        self.metrics.skipped(&skipped)?;
        self.skipped.push(skipped);
        Ok(())
    }

    /// Takes weights, moments and statistics from the newest checkpoint, or the first ones when there is none.
    /// Returns the position of that state.
    fn roll_back(&mut self) -> Result<u64, TrainError> {
        self.saver.wait()?;
        let Some((_, newest)) = list(self.directory.path())?.pop() else {
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
        checkpoint.verify()?;
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
            self.metrics.evaluation(&evaluation)?;
            observer.evaluation(&evaluation);
        }
        Ok(())
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
        let engine = &self.engine;
        if let Some(earlier) = self.saver.save(state, |index, values| engine.read_tensor(index, values))? {
            observer.checkpoint(&earlier);
        }
        Ok(())
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
