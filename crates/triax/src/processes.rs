//! This process as one rank of a launch: who started it, its end of the world of processes, and which rank says what
//! when something fails: what all ranks know is told by the first, what one has found by that one.

use crate::arguments::DeviceArguments;
use crate::failure::{Failure, with_causes};
use crate::machine;
use std::time::Duration;
use triax_comm::launch::{self, Launch};
use triax_comm::{Cause, Collective, CommError, Options, verify_same};
use triax_spec::run::Kernel;
use triax_train::TrainError;

/// How long other ranks hold back what the first may be saying too; launchers end them meanwhile.
const COURTESY: Duration = Duration::from_secs(3);
/// What ranks compare their arithmetic by.
const KERNEL: &str = "kernel";

/// The launch of more than one process that this one belongs to.
pub(crate) fn launched() -> Result<Option<Launch>, Failure> {
    let launch = launch::from_environment().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(launch.filter(|launch| launch.world > 1))
}

/// Before the ranks have met: most likely all of them fail alike.
pub(crate) fn before_meeting<T>(launch: &Launch, outcome: Result<T, Failure>) -> Result<T, Failure> {
    outcome.map_err(|failure| match launch.rank {
        0 => failure,
        rank => {
            std::thread::sleep(COURTESY);
            failure.of_rank(rank)
        }
    })
}

/// This process's end of its world, after all ranks have found that they were started alike: with the same program
/// and the same `facts`, on machines that compute what `device` asks for by the same kernel.
pub(crate) fn meet(
    launch: &Launch,
    options: Options,
    device: DeviceArguments,
    facts: &[(&str, &str)],
) -> Result<Box<dyn Collective>, Failure> {
    let program = before_meeting(launch, program())?;
    let mut collective = before_meeting(launch, end_of_world(launch, options))?;
    let hashes: Vec<(&str, String)> = [("program", program), (KERNEL, machine::arithmetic(device))]
        .into_iter()
        .chain(
            facts.iter().map(|(name, text)| (*name, blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())),
        )
        .collect();
    let hashes: Vec<(&str, &str)> = hashes.iter().map(|(name, hash)| (*name, hash.as_str())).collect();
    match verify_same(&mut *collective, &hashes) {
        Ok(()) => Ok(collective),
        Err(error) => {
            let failure = broken(launch.rank, &error);
            if launch.rank > 0 {
                // The first rank is reading the same answer, and this one's end must not be its news.
                std::thread::sleep(COURTESY);
            }
            Err(failure)
        }
    }
}

/// Version and hash of the program, as the others compare it.
fn program() -> Result<String, Failure> {
    let hash = std::env::current_exe().and_then(|path| {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    });
    match hash {
        Ok(hash) => Ok(format!("triax {} ({hash})", env!("CARGO_PKG_VERSION"))),
        Err(error) => Err(Failure::run(format!("cannot read this program's own file: {error}"))),
    }
}

#[cfg(feature = "mpi")]
fn end_of_world(launch: &Launch, options: Options) -> Result<Box<dyn Collective>, Failure> {
    let announce = |error: &CommError| eprintln!("triax: the run ends: {error}");
    let rank = triax_comm::mpi::MpiRank::start(options, announce);
    let rank = rank.map_err(|error| Failure::run(error.to_string()))?;
    let (number, world) = (rank.rank(), rank.world());
    if (number, world) == (launch.rank, launch.world) {
        return Ok(Box::new(rank));
    }
    let found = rank.describe();
    // Whoever is alone in its world keeps nobody waiting.
    drop(rank);
    Err(Failure::usage(format!("this is {launch}, but MPI says rank {number} of {world}: {found}")).help(
        "start it by the mpirun of the MPI library it was built with, or by srun with a plugin that this library \
         knows (srun --mpi=list); torchrun and plain Kubernetes jobs start no MPI: see docs/launching.md",
    ))
}

#[cfg(not(feature = "mpi"))]
fn end_of_world(launch: &Launch, _: Options) -> Result<Box<dyn Collective>, Failure> {
    Err(Failure::usage(format!("this is {launch}, and this build has no MPI, which carries data between processes"))
        .help("build with `--features mpi` (Debian: libopenmpi-dev, libclang-dev), or start it by hand: ranks are threads then"))
}

/// What rank `rank` has to say about the world's end: nothing, where another rank or the announcement said it.
fn broken(rank: usize, error: &CommError) -> Failure {
    match error.cause() {
        Cause::Different { differences } if rank == 0 => {
            let failure = Failure::usage(error.to_string());
            if differences.iter().any(|difference| difference.starts_with(KERNEL)) {
                return failure.help(format!(
                    "with \"auto\" each machine takes the best kernel it has, and kernels round differently; name one \
                     that all of them have: --set device.kernel={} (bench train: --kernel)",
                    Kernel::NAMES.iter().filter(|name| **name != "auto").copied().collect::<Vec<_>>().join("|")
                ));
            }
            failure
        }
        Cause::Different { .. } => Failure::told(2),
        _ => Failure::told(1),
    }
}

/// What rank `rank` has to say about its own end.
pub(crate) fn failure(rank: usize, error: TrainError) -> Failure {
    match &error {
        TrainError::Comm(error) => broken(rank, error),
        TrainError::Elsewhere { .. } => Failure::told(1),
        // The same on every rank, from the same numbers.
        TrainError::Alarm { .. } | TrainError::Layout(_) | TrainError::Schedule(_) | TrainError::Model(_)
            if rank > 0 =>
        {
            std::thread::sleep(COURTESY);
            Failure::told(1)
        }
        _ => {
            let failure = super::commands::train::failure(error);
            if rank == 0 { failure } else { failure.of_rank(rank) }
        }
    }
}

/// What every rank finds alike, from the run file alone.
pub(crate) fn usage(rank: usize, error: &TrainError) -> Failure {
    if rank == 0 {
        return Failure::usage(with_causes(error));
    }
    std::thread::sleep(COURTESY);
    Failure::told(2)
}
