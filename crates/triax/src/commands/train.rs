//! `triax train`: executes a run file, shows how it goes, stops cleanly when asked.

use crate::arguments::{self, DeviceArguments, Train};
use crate::console::{Progress, bytes, count, duration, json_line};
use crate::failure::{Failure, with_causes};
use crate::{files, interrupt, machine, processes, supervise};
use serde_json::json;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use triax_comm::Mesh;
use triax_comm::launch::Launch;
use triax_plan::Layout;
use triax_spec::Run;
use triax_train::checkpoint::Saved;
use triax_train::watch::{Alarm, Response};
use triax_train::{
    Evaluation, Observer, Outcome, Plan, Resume, Start, Started, StepReport, TrainError, available_memory,
    options_of, train_as_process, train_in_threads,
};

pub(crate) fn run(arguments: &Train) -> Result<(), Failure> {
    if let Some(launch) = processes::launched()? {
        return as_process(arguments, &launch);
    }
    if arguments.max_restarts > 0 || arguments.launch.is_some() {
        return supervise::run(arguments);
    }
    let run = load(arguments)?;
    let folder = folder(arguments);
    let layout = super::plan::layout_of(&run, arguments.ranks)?;
    let world = layout.world();
    let threads = machine::threads_of_a_rank(run.device.threads, world);
    let selected = DeviceArguments { threads, ..machine::selected(&run) };
    let whole = DeviceArguments { threads: threads * world, ..selected };
    let peak = machine::peak_of(whole, run.train.precision)?;
    let device = machine::device(selected)?;
    let plans = (0..world)
        .map(|rank| Plan::of_rank(&run, &layout, rank, &*device))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::usage(with_causes(&error)))?;
    eprintln!(
        "{} parameters on {}, run folder {}",
        count(triax_spec::parameters(&run.model) as f64),
        device.describe(),
        folder.display()
    );
    let needed = plans.iter().map(Plan::total_bytes).sum();
    if world > 1 {
        eprintln!("{layout}, as threads; {} together, of which rank 0 takes", bytes(needed));
    }
    eprint!("{}", plans[0]);
    if let Some(available) = available_memory()
        && needed > available
    {
        let micro_batch = run.layout.micro_batch;
        return Err(failure(TrainError::Memory { needed, available, micro_batch }));
    }
    drop((plans, device));

    let mut start = start_of(arguments, 0)?;
    start.peak_flops = peak.map(|gflops| gflops * 1e9);
    let device = || machine::device(selected).expect("this device was made before");
    let mut shown = Shown::new(arguments.json);
    let options = options_of(&run);
    let outcome = train_in_threads(&run, &layout, options, &device, &folder, &start, &mut shown);
    // Not before: a run that is refused leaves its folder as it was.
    if folder.is_dir() && outcome.is_ok() {
        keep_tokenizer(&run, &folder)?;
    }
    shown.finish(&outcome.map_err(failure)?, &folder)
}

/// This process is one rank of a launch. The first rank shows the run; each shows what it alone has found.
fn as_process(arguments: &Train, launch: &Launch) -> Result<(), Failure> {
    let rank = launch.rank;
    let alone = || {
        if arguments.max_restarts > 0 || arguments.launch.is_some() || arguments.ranks > 0 {
            let problem =
                "--max-restarts, --launch and --ranks are for whoever starts the ranks, and this is one";
            return Err(Failure::usage(format!("{problem}: {launch}"))
                .help("triax train RUN --max-restarts 3 --launch \"mpirun -n {ranks}\" starts all of them"));
        }
        // Signals are listened to before MPI starts: a launcher that ends everything is polite first.
        Ok((load(arguments)?, start_of(arguments, rank)?))
    };
    let (run, start) = processes::before_meeting(launch, alone())?;
    let folder = folder(arguments);
    if rank == 0 {
        eprintln!("{launch}");
    }
    let text = run.to_toml();
    let place = folder.to_string_lossy();
    let selected = machine::selected(&run);
    let facts = [("run file", text.as_str()), ("run folder", &*place)];
    let collective = processes::meet(launch, options_of(&run), selected, &facts)?;
    let layout = Layout::new(&run, launch.world).map_err(|error| processes::usage(rank, &error.into()))?;
    let ranks_here = launch.local_world.unwrap_or(launch.world);
    let threads = machine::threads_of_a_rank(run.device.threads, ranks_here);
    let device =
        machine::device(DeviceArguments { threads, ..selected }).map_err(|failure| failure.of_rank(rank))?;
    let plan =
        Plan::of_rank(&run, &layout, rank, &*device).map_err(|error| processes::usage(rank, &error))?;
    if rank == 0 {
        let parameters = count(triax_spec::parameters(&run.model) as f64);
        eprintln!("{parameters} parameters on {}, run folder {}", device.describe(), folder.display());
        eprintln!("{layout}; {}", collective.describe());
        if layout.world() <= SHOWN_RANKS {
            eprint!("{}", mesh(&layout));
        }
        eprint!("{plan}");
    }
    let needed = plan.total_bytes();
    if let Some(available) = available_memory()
        && needed > available
    {
        let micro_batch = run.layout.micro_batch;
        return Err(failure(TrainError::Memory { needed, available, micro_batch }).of_rank(rank));
    }
    drop(plan);
    let mut shown = Shown::new(arguments.json && rank == 0);
    let outcome = train_as_process(&run, &layout, collective, device, &folder, &start, &mut shown)
        .map_err(|error| processes::failure(rank, error))?;
    if rank > 0 {
        return Ok(());
    }
    keep_tokenizer(&run, &folder)?;
    shown.finish(&outcome, &folder)
}

/// Worlds up to this size are shown rank by rank.
const SHOWN_RANKS: usize = 64;

fn mesh(layout: &Layout) -> Mesh {
    let Layout { tensor, data, pipeline, .. } = *layout;
    Mesh::new(triax_comm::Layout { tensor, data, pipeline }, 0)
}

fn start_of(arguments: &Train, rank: usize) -> Result<Start, Failure> {
    let mut start = Start::new(match arguments.resume {
        arguments::Resume::Must => Resume::Must,
        arguments::Resume::IfPresent => Resume::IfPresent,
        arguments::Resume::Never => Resume::Never,
    });
    start.stop = interrupt::flag()?;
    // Launchers give the first rank their own standard input, and the others none.
    if arguments.until_stdin_ends && rank == 0 {
        interrupt::when_stdin_ends(std::sync::Arc::clone(&start.stop));
    }
    Ok(start)
}

pub(crate) fn load(arguments: &Train) -> Result<Run, Failure> {
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.device.map(|kind| format!("device.kind={kind}")));
    Run::load(&arguments.run, &overrides).map_err(|errors| Failure::usage(errors.to_string()))
}

/// `--out`, or `runs/` and the run file's name.
pub(crate) fn folder(arguments: &Train) -> PathBuf {
    arguments.out.clone().unwrap_or_else(|| {
        let stem = arguments.run.file_stem().unwrap_or(arguments.run.as_os_str());
        Path::new("runs").join(stem)
    })
}

/// What a run may not go on from, or not begin with, is wrong use; the rest failed while running.
pub(crate) fn failure(error: TrainError) -> Failure {
    use triax_train::checkpoint::CheckpointError;
    let message = with_causes(&error);
    match error {
        TrainError::Checkpoint(CheckpointError::NoneFound { .. }) => {
            Failure::usage(message).help("--resume if-present starts anew where there is no checkpoint")
        }
        TrainError::Checkpoint(CheckpointError::AlreadyThere { .. }) => {
            Failure::usage(message).help("--resume must goes on from it; --out FOLDER starts another run")
        }
        TrainError::Model(_) | TrainError::Locked { .. } | TrainError::Memory { .. } => {
            Failure::usage(message)
        }
        _ => Failure::run(message),
    }
}

/// The tokenizer goes with the run, so that its checkpoints can be used without the token files.
fn keep_tokenizer(run: &Run, folder: &Path) -> Result<(), Failure> {
    let to = folder.join(files::TOKENIZER);
    let from = run.data.blend.iter().find_map(|source| files::tokenizer_beside(&source.path));
    match from {
        Some(from) if !to.exists() => files::copy(&from, &to),
        _ => Ok(()),
    }
}

/// Shows a run on standard error, and each step as JSON where asked.
struct Shown {
    json: bool,
    bar: Option<Progress>,
    end: u64,
    /// Seconds of the newest steps, for the time left.
    recent: VecDeque<f64>,
    /// Standard output went away.
    broken: Option<Failure>,
}

/// Steps whose mean time tells the time left.
const RECENT: usize = 20;

impl Shown {
    fn new(json: bool) -> Self {
        Self { json, bar: None, end: 0, recent: VecDeque::new(), broken: None }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.line(line),
            None => eprintln!("{line}"),
        }
    }

    fn emit(&mut self, value: &serde_json::Value) {
        if self.json
            && self.broken.is_none()
            && let Err(failure) = json_line(value)
        {
            self.broken = Some(failure);
        }
    }

    fn finish(mut self, outcome: &Outcome, folder: &Path) -> Result<(), Failure> {
        let at = outcome.progress();
        let (word, hint) = match outcome {
            Outcome::Finished(_) => ("finished", ""),
            Outcome::Stopped(_) => ("stopped", "; the same command goes on from here"),
        };
        let line = format!(
            "{word} at step {} of {}, {} tokens, saved in {}{hint}",
            at.step,
            self.end,
            count(at.tokens as f64),
            folder.display()
        );
        self.emit(&json!({"event": word, "step": at.step, "samples": at.samples, "tokens": at.tokens}));
        match self.bar.take() {
            Some(bar) => bar.finish(&line),
            None => eprintln!("{line}"),
        }
        self.broken.map_or(Ok(()), Err)
    }
}

impl Observer for Shown {
    fn started(&mut self, started: &Started) {
        if let Some(folder) = &started.resumed {
            self.say(&format!("going on from {} (step {})", folder.display(), started.progress.step));
        }
        if started.blend_changed {
            self.say(&format!("another blend begins at sample {}", started.progress.samples));
        }
        self.end = started.end.step;
        self.bar = Some(Progress::new("training", self.end));
        self.emit(&json!({
            "event": "started",
            "step": started.progress.step,
            "end": started.end.step,
            "parameters": started.parameters,
            "device": started.device,
            "resumed": started.resumed,
        }));
    }

    fn step(&mut self, step: &StepReport) {
        self.recent.push_back(step.step_s);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        let left = self.end.saturating_sub(step.step) as f64 * mean;
        let end = self.end;
        if let Some(bar) = &mut self.bar {
            bar.set(step.step, || {
                let share = step
                    .flops_share
                    .map_or(String::new(), |share| format!(", {:.0} % of peak", 100.0 * share));
                let speed = count(step.tokens_per_s);
                let left = duration(left);
                format!(
                    "step {} of {end}, loss {:.4}, {speed} tokens/s{share}, {left} left",
                    step.step, step.loss
                )
            });
        }
        if self.json
            && let Ok(value) = serde_json::to_value(step)
        {
            self.emit(&value);
        }
    }

    fn alarm(&mut self, step: u64, alarm: &Alarm, response: Response) {
        self.say(&format!("step {step}: {alarm}; {response:?}"));
        self.emit(&json!({"event": "alarm", "step": step, "what": alarm.to_string()}));
    }

    fn checkpoint(&mut self, saved: &Saved) {
        self.emit(&json!({
            "event": "checkpoint",
            "step": saved.step,
            "folder": saved.folder,
            "bytes": saved.bytes,
            "stopped_s": saved.stopped.as_secs_f64(),
            "written_s": saved.written.as_secs_f64(),
        }));
    }

    fn evaluation(&mut self, evaluation: &Evaluation) {
        let source = evaluation.source.display();
        self.say(&format!("step {}: held-out loss {:.4} on {source}", evaluation.step, evaluation.loss));
        if let Ok(value) = serde_json::to_value(evaluation) {
            self.emit(&value);
        }
    }
}
