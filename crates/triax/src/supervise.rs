//! `triax train --max-restarts`: this process trains nothing itself. It starts the run, and when that crashes starts it
//! again from the last good checkpoint; on fewer ranks when as many cannot even begin any more.
//!
//! ```text
//! supervisor ── holds standard input open ──▶ triax train RUN --until-stdin-ends                  ranks are threads
//!            or ────────────────────────────▶ mpirun -n 8 triax train RUN --until-stdin-ends      with --launch
//! ```
//! When the supervisor is asked to stop, or is killed, standard input ends, and the run saves and stops. Fewer ranks
//! take fewer replicas of the same groups of samples: each step has the same samples, and where layouts share their
//! bits the same bits.

use crate::arguments::{self, Train};
use crate::commands::train::{folder, load};
use crate::console::json_line;
use crate::failure::{Context, Failure};
use crate::interrupt;
use serde_json::json;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use triax_plan::Layout;
use triax_spec::Run;
use triax_train::checkpoint::{self, CheckpointError};

/// Between two looks at the run's process.
const LOOK: Duration = Duration::from_millis(20);
/// The pause before a restart, twice as long after each start without a step, and its longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Stands for the number of ranks in `--launch`.
const RANKS: &str = "{ranks}";

pub(crate) fn run(arguments: &Train) -> Result<(), Failure> {
    let run = load(arguments)?;
    let folder = folder(arguments);
    let mut layout = super::commands::plan::layout_of(&run, arguments.ranks)?;
    if let Some(launch) = &arguments.launch
        && !launch.contains(RANKS)
    {
        return Err(Failure::usage(format!("--launch \"{launch}\" does not say how many ranks to start"))
            .help("write {ranks} where their number belongs: --launch \"mpirun -n {ranks}\""));
    }
    let bell = interrupt::bell()?;
    let (mut restarts, mut without_a_step) = (0, 0);
    loop {
        let before = Trace::of(&folder);
        let command = command(arguments, &layout, restarts > 0)?;
        let ended = attempt(command, arguments.json, &layout, restarts, &bell)?;
        let how = match ended {
            Ended::Stopped(status) | Ended::ByItself(status) if status.success() => return Ok(()),
            Ended::Stopped(status) => return Err(Failure::told(code(status).unwrap_or(1))),
            Ended::AtOnce => return Err(Failure::told(interrupt::AT_ONCE)),
            // Wrong use stays wrong.
            Ended::ByItself(status) if status.code() == Some(2) => return Err(Failure::told(2)),
            Ended::ByItself(status) => describe(status),
        };
        if restarts == arguments.max_restarts {
            return Err(match restarts {
                0 => Failure::run(format!("the run {how}")),
                _ => Failure::run(format!(
                    "the run {how}, after {restarts} restarts; --max-restarts allows no more"
                )),
            });
        }
        let after = Trace::of(&folder);
        let went_on = after != before && after.last_step > before.checkpoint;
        without_a_step = if went_on { 0 } else { without_a_step + 1 };
        // A first failure may be anybody's; ranks that fail to come twice are gone.
        let smaller = if without_a_step > 1 || (without_a_step == 1 && restarts > 0) {
            fewer(&run, &layout)
        } else {
            None
        };
        layout = smaller.unwrap_or(layout);
        restarts += 1;
        let from = match last_good(&folder)? {
            Some(step) => format!("from step {step}"),
            None => "from the beginning".to_owned(),
        };
        let (max, world) = (arguments.max_restarts, layout.world());
        eprintln!("the run {how}; restart {restarts} of {max} {from}, on {world} ranks");
        if pause(LONGEST_PAUSE.min(PAUSE * (1 << without_a_step.min(8))), &bell) {
            return Err(Failure::told(interrupt::AT_ONCE));
        }
    }
}

/// How an attempt ended.
enum Ended {
    /// After it was asked to.
    Stopped(ExitStatus),
    /// The second time somebody asked.
    AtOnce,
    ByItself(ExitStatus),
}

fn attempt(
    mut command: Command,
    json: bool,
    layout: &Layout,
    restarts: u32,
    bell: &AtomicBool,
) -> Result<Ended, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    // In a group of its own: a terminal's Ctrl-C reaches the supervisor alone.
    let child = command.stdin(Stdio::piped()).process_group(0).spawn();
    let mut child = child.context(|| format!("cannot start {program}"))?;
    let told = match json {
        true => json_line(&json!({
            "event": "process", "id": child.id(), "ranks": layout.world(), "restarts": restarts,
        })),
        false => Ok(()),
    };
    let ended = told.and_then(|()| watch(&mut child, bell).context(|| format!("cannot wait for {program}")));
    if ended.is_err() {
        // Nobody watches it any more.
        let _ = child.kill().and_then(|()| child.wait());
    }
    ended
}

fn watch(child: &mut Child, bell: &AtomicBool) -> std::io::Result<Ended> {
    let mut input = child.stdin.take();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if input.is_none() { Ended::Stopped(status) } else { Ended::ByItself(status) });
        }
        if bell.swap(false, Ordering::Relaxed) && input.take().is_none() {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::AtOnce);
        }
        std::thread::sleep(LOOK);
    }
}

/// The run on this layout, as one types it.
fn command(arguments: &Train, layout: &Layout, again: bool) -> Result<Command, Failure> {
    // Every flag is named, so that a new one is not forgotten here.
    let Train { run, overrides, resume, out, device, launch, json, ranks, max_restarts, until_stdin_ends } =
        arguments;
    let _ = (ranks, max_restarts, until_stdin_ends);
    let program = std::env::current_exe().context(|| "this program's own file".to_owned())?;
    let mut command = match launch {
        None => Command::new(program),
        Some(launch) => {
            let ranks = layout.world().to_string();
            let words = shlex::split(launch).ok_or_else(|| {
                Failure::usage(format!("--launch {launch}: a quote is opened there and never closed"))
                    .help("words are split as a shell does: a path with blanks stands in quotes")
            })?;
            let mut words = words.into_iter().map(|word| word.replace(RANKS, &ranks));
            let mut command = Command::new(words.next().unwrap_or_default());
            command.args(words).arg(program);
            command
        }
    };
    command.arg("train").arg(run).arg("--until-stdin-ends");
    for set in overrides {
        command.args(["--set", set]);
    }
    // Of the world that is left, with the groups of the one the run began with.
    let Layout { data, data_groups, .. } = layout;
    command.args([
        "--set",
        &format!("layout.data={data}"),
        "--set",
        &format!("numerics.data_groups={data_groups}"),
    ]);
    if launch.is_none() {
        command.args(["--ranks", &layout.world().to_string()]);
    }
    let resume = match resume {
        _ if again => "if-present",
        arguments::Resume::Must => "must",
        arguments::Resume::IfPresent => "if-present",
        arguments::Resume::Never => "never",
    };
    command.args(["--resume", resume]);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    if let Some(device) = device {
        command.args(["--device", &device.to_string()]);
    }
    if *json {
        command.arg("--json");
    }
    Ok(command)
}

/// The largest layout of fewer replicas that shares the same groups.
fn fewer(run: &Run, layout: &Layout) -> Option<Layout> {
    let mut run = run.clone();
    run.layout.data = 0;
    run.numerics.data_groups = layout.data_groups;
    let one = layout.tensor * layout.pipeline;
    (1..layout.data).rev().find_map(|data| Layout::new(&run, data * one).ok())
}

/// The step of the newest intact checkpoint. Damaged ones that are newer are set aside under another name, so that the
/// run goes on from there and saves those steps anew.
fn last_good(run_directory: &Path) -> Result<Option<u64>, Failure> {
    loop {
        match checkpoint::choose(run_directory, checkpoint::Resume::IfPresent) {
            Ok(found) => return Ok(found.map(|found| found.manifest().state.progress.step)),
            Err(CheckpointError::NewestDamaged { folder, fault, intact: Some(intact) }) => {
                let aside = free_name(&folder);
                fs::rename(&folder, &aside).context(|| format!("cannot set {} aside", folder.display()))?;
                eprintln!(
                    "{} is damaged ({fault}) and is now {}; {} is intact",
                    folder.display(),
                    aside.display(),
                    intact.display()
                );
            }
            Err(error) => return Err(Failure::run(format!("no restart: {error}"))),
        }
    }
}

fn free_name(folder: &Path) -> PathBuf {
    let mut number = 0;
    loop {
        let mut name = folder.as_os_str().to_owned();
        name.push(if number == 0 { ".damaged".to_owned() } else { format!(".damaged-{number}") });
        let path = PathBuf::from(name);
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

/// What a run has left behind so far, to see whether an attempt came to a step.
#[derive(PartialEq)]
struct Trace {
    /// Length and time of the log of steps.
    log: Option<(u64, SystemTime)>,
    last_step: u64,
    checkpoint: u64,
}

impl Trace {
    fn of(run_directory: &Path) -> Self {
        let path = run_directory.join("metrics.jsonl");
        let log = fs::metadata(&path).ok().and_then(|data| Some((data.len(), data.modified().ok()?)));
        let checkpoint =
            checkpoint::list(run_directory).ok().and_then(|all| Some(all.last()?.0)).unwrap_or(0);
        Self { log, last_step: last_step(&path).unwrap_or(0), checkpoint }
    }
}

/// The step that the last whole line of a log tells of.
fn last_step(path: &Path) -> Option<u64> {
    const END: u64 = 64 << 10;
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64())
}

fn code(status: ExitStatus) -> Option<u8> {
    u8::try_from(status.code()?).ok()
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("failed with exit code {code}"),
        (None, None) => "failed".to_owned(),
    }
}

/// Whether the pause was cut short by a signal.
fn pause(time: Duration, bell: &AtomicBool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if bell.swap(false, Ordering::Relaxed) {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn run(layout: &str) -> Run {
        let text = format!(
            "[model]\nlayers = 2\nhidden = 32\nheads = 2\nvocab = 300\nsequence = 16\n\
             [data]\nblend = [{{ path = \"t\" }}]\n[train]\nstop = \"3 steps\"\nglobal_batch = 8\n[layout]\n{layout}"
        );
        Run::parse("run.toml", &text, &[]).unwrap()
    }

    #[test]
    fn fewer_ranks_are_fewer_replicas_of_the_same_groups() {
        let run = run("tensor = 2\ndata = 4\n");
        let mut layout = Layout::new(&run, 0).unwrap();
        let mut worlds = vec![(layout.world(), layout.data_groups)];
        while let Some(smaller) = fewer(&run, &layout) {
            worlds.push((smaller.world(), smaller.data_groups));
            layout = smaller;
        }
        assert_eq!(worlds, [(8, 4), (4, 4), (2, 4)]);
    }

    #[test]
    fn what_is_started_is_a_command_that_this_program_reads() {
        let words = [
            "triax",
            "train",
            "run.toml",
            "--set",
            "train.seed=3",
            "--resume",
            "never",
            "--out",
            "there",
            "--device",
            "reference",
            "--max-restarts",
            "2",
            "--launch",
            "'/opt/my mpi/mpirun' -n {ranks} --hostfile \"my hosts\"",
            "--json",
        ];
        let crate::arguments::Command::Train(given) = crate::arguments::Arguments::parse_from(words).command
        else {
            panic!("it is the command train")
        };
        let layout = Layout::new(&run("data = 2\n"), 0).unwrap();
        let words = |again| {
            let command = command(&given, &layout, again).unwrap();
            let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
            (command.get_program().to_string_lossy().into_owned(), words.collect::<Vec<_>>())
        };
        let (program, first) = words(false);
        assert_eq!(
            (program.as_str(), &first[..4]),
            ("/opt/my mpi/mpirun", &["-n", "2", "--hostfile", "my hosts"].map(String::from)[..])
        );
        let child = first[4..].iter().map(String::as_str);
        let crate::arguments::Command::Train(child) = crate::arguments::Arguments::parse_from(child).command
        else {
            panic!("it is the command train")
        };
        assert!(child.until_stdin_ends && child.json && child.max_restarts == 0 && child.launch.is_none());
        assert_eq!(
            (child.run, child.out, child.device),
            (given.run.clone(), given.out.clone(), given.device)
        );
        assert_eq!(child.overrides, ["train.seed=3", "layout.data=2", "numerics.data_groups=2"]);
        assert_eq!(child.resume, arguments::Resume::Never);
        let (_, again) = words(true);
        assert!(again.windows(2).any(|pair| pair == ["--resume", "if-present"]), "{again:?}");
    }

    #[test]
    fn a_launcher_with_an_open_quote_is_refused() {
        let words = ["triax", "train", "run.toml", "--launch", "'mpirun -n {ranks}"];
        let crate::arguments::Command::Train(given) = crate::arguments::Arguments::parse_from(words).command
        else {
            panic!("it is the command train")
        };
        let layout = Layout::new(&run("data = 2\n"), 0).unwrap();
        let failure = command(&given, &layout, false).unwrap_err();
        assert!(failure.to_string().contains("never closed"), "{failure}");
    }

    #[test]
    fn damaged_checkpoints_are_set_aside_under_a_free_name() {
        let folder = tempfile::tempdir().unwrap();
        let step = folder.path().join("step-00000003");
        assert_eq!(free_name(&step), folder.path().join("step-00000003.damaged"));
        fs::create_dir(folder.path().join("step-00000003.damaged")).unwrap();
        assert_eq!(free_name(&step), folder.path().join("step-00000003.damaged-1"));
    }
}
