//! Ranks as threads of this process, one for each place in the layout, the first on the caller's own thread; or this
//! process as one rank of a world of processes.

use crate::{Observer, Outcome, Plan, Start, TrainError, Trainer};
use std::path::Path;
use std::time::Duration;
use triax_comm::local::{LocalRank, World};
use triax_comm::{Collective, Options};
use triax_plan::Layout;
use triax_spec::Run;
use triax_tensor::Device;

/// Makes a rank's device; called on the rank's thread.
pub type MakeDevice<'a> = &'a (dyn Fn() -> Box<dyn Device> + Sync);

/// How the world of a run behaves.
pub const fn options_of(run: &Run) -> Options {
    Options { timeout: Duration::from_secs(run.layout.peer_timeout) }
}

/// Calls `rank` once for each rank of a world of threads and returns what the first one's call gives. When a rank
/// fails, all end, with the error of the one that failed first.
pub fn in_threads<T>(
    world: usize,
    options: Options,
    first: impl FnOnce(LocalRank) -> Result<T, TrainError>,
    others: impl Fn(LocalRank) -> Result<(), TrainError> + Sync,
) -> Result<T, TrainError> {
    let mut ranks = World::new(world, options).into_iter();
    let own = ranks.next().expect("a world has a first rank");
    std::thread::scope(|scope| {
        let others = &others;
        let mut running = Vec::new();
        for rank in ranks {
            let name = format!("rank {}", rank.rank());
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, move || others(rank));
            running.push(thread.map_err(|source| TrainError::io("start a thread of", "the world", source))?);
        }
        let outcome = first(own);
        let mut causes: Vec<TrainError> = Vec::new();
        for thread in running {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => causes.push(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let is_cause =
            |error: &TrainError| !matches!(error, TrainError::Comm(_) | TrainError::Elsewhere { .. });
        match outcome {
            Err(error) if is_cause(&error) => Err(error),
            Err(error) => Err(causes.into_iter().find(is_cause).unwrap_or(error)),
            Ok(value) => causes.pop().map_or(Ok(value), Err),
        }
    })
}

/// Runs a run file to its end, or until it is stopped, on threads.
pub fn train_in_threads(
    run: &Run,
    layout: &Layout,
    options: Options,
    device: MakeDevice<'_>,
    path: &Path,
    start: &Start,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let open = |rank: LocalRank| {
        let device = device();
        let plan = Plan::of_rank(run, layout, rank.rank(), &*device)?;
        Trainer::open(plan, device, Box::new(rank), path, start.clone())
    };
    in_threads(
        layout.world(),
        options,
        |rank| open(rank)?.train(observer),
        |rank| open(rank)?.train(&mut ()).map(drop),
    )
}

/// Runs a run file as one rank of a world whose other ranks are other processes, which were started alike
/// ([`triax_comm::verify_same`]). `observer` is told on the first rank.
pub fn train_as_process(
    run: &Run,
    layout: &Layout,
    collective: Box<dyn Collective>,
    device: Box<dyn Device>,
    path: &Path,
    start: &Start,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let rank = collective.rank();
    let plan = Plan::of_rank(run, layout, rank, &*device)?;
    let mut trainer = Trainer::open(plan, device, collective, path, start.clone())?;
    if rank == 0 { trainer.train(observer) } else { trainer.train(&mut ()) }
}

/// The only rank of a world of one.
pub fn alone() -> Box<LocalRank> {
    let mut world = World::new(1, Options::default());
    Box::new(world.pop().expect("a world of one has one rank"))
}
