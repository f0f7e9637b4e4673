//! Who started this process, and as which rank of how many: a pure function of the environment.
//!
//! | launcher | rank | world | rank on this node |
//! |---|---|---|---|
//! | Open MPI's mpirun | `OMPI_COMM_WORLD_RANK` | `…_SIZE` | `…_LOCAL_RANK` of `…_LOCAL_SIZE` |
//! | MPICH's and Intel's mpiexec (PMI) | `PMI_RANK` | `PMI_SIZE` | `MPI_LOCALRANKID` of `MPI_LOCALNRANKS` |
//! | torchrun and those who set the same | `RANK` | `WORLD_SIZE` | `LOCAL_RANK` of `LOCAL_WORLD_SIZE` |
//! | srun | `SLURM_PROCID` | `SLURM_STEP_NUM_TASKS` | `SLURM_LOCALID` |
//! | Kubernetes indexed job | `JOB_COMPLETION_INDEX` | `WORLD_SIZE` | – |

use std::fmt;

/// What started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    OpenMpi,
    Pmi,
    Torchrun,
    Srun,
    Kubernetes,
}

impl Launcher {
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "mpirun (Open MPI)",
            Self::Pmi => "mpiexec (PMI)",
            Self::Torchrun => "torchrun-style variables",
            Self::Srun => "srun",
            Self::Kubernetes => "a Kubernetes indexed job",
        }
    }
}

/// One process of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub launcher: Launcher,
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
    /// Number among the processes of this node, where the launcher says it.
    pub local_rank: Option<usize>,
    /// How many processes of the launch are on this node, where the launcher says it.
    pub local_world: Option<usize>,
    /// The variables that were read, `NAME=value`.
    pub found: Vec<String>,
}

/// For the log: `rank 3 of 8, local rank 1, from srun (SLURM_PROCID=3, …)`.
impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world)?;
        if let Some(local) = self.local_rank {
            write!(f, ", local rank {local}")?;
        }
        if let Some(local) = self.local_world {
            write!(f, " of {local}")?;
        }
        write!(f, ", from {} ({})", self.launcher.name(), self.found.join(", "))
    }
}

/// The environment contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error("{name}={value:?} is not a number")]
    NotANumber { name: &'static str, value: String },

    #[error("{}={rank} is not below {}={world}", names.0, names.1)]
    Outside { names: (&'static str, &'static str), rank: usize, world: usize },

    #[error("{} is set by {}, but not {missing}{hint}", has, launcher.name())]
    Half { launcher: Launcher, has: &'static str, missing: &'static str, hint: &'static str },

    #[error("two launchers disagree: {first}; {second}; unset the variables of one")]
    Disagree { first: Box<Launch>, second: Box<Launch> },
}

/// The launch that the variables tell of; `None` when the process was started by hand. `variable` looks up
/// an environment variable. mpirun and mpiexec come first, since they run inside the allocations of others;
/// torchrun is started by srun once a node, so its word counts more.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, LaunchError> {
    let read = |source: &Source| source.read(&variable);
    let mpi = match read(&OPEN_MPI)? {
        Some(launch) => Some(launch),
        None => read(&PMI)?,
    };
    // A stray WORLD_SIZE or RANK alone means nothing.
    let pair = variable("RANK").is_some() && variable("WORLD_SIZE").is_some();
    let torchrun = if pair { read(&TORCHRUN)? } else { None };
    match (mpi, torchrun) {
        (Some(first), Some(second)) if (first.rank, first.world) != (second.rank, second.world) => {
            Err(LaunchError::Disagree { first: Box::new(first), second: Box::new(second) })
        }
        (Some(launch), _) | (None, Some(launch)) => Ok(Some(launch)),
        (None, None) if in_step(&variable) => {
            let sized = |name| variable(name).is_some();
            read(if sized("SLURM_STEP_NUM_TASKS") { &SRUN } else { &SRUN_BEFORE })
        }
        (None, None) => read(&KUBERNETES),
    }
}

/// [`detect`] on this process's environment.
pub fn from_environment() -> Result<Option<Launch>, LaunchError> {
    detect(|name| std::env::var(name).ok())
}

/// Whether srun started this process. A batch script has most of srun's variables too, as rank 0 of a world
/// whose other ranks were never started; only in a step there is a step's number.
fn in_step(variable: impl Fn(&str) -> Option<String>) -> bool {
    // Slurm's own number for "the batch script is the step".
    const BATCH: &str = "4294967291";
    variable("SLURM_STEP_ID").is_some_and(|step| step != BATCH)
}

/// A launcher's variables.
struct Source {
    launcher: Launcher,
    rank: &'static str,
    world: &'static str,
    local: Option<&'static str>,
    local_world: Option<&'static str>,
    /// What to do when `world` is missing.
    hint: &'static str,
}

const OPEN_MPI: Source = Source {
    launcher: Launcher::OpenMpi,
    rank: "OMPI_COMM_WORLD_RANK",
    world: "OMPI_COMM_WORLD_SIZE",
    local: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
    local_world: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
    hint: "",
};

const PMI: Source = Source {
    launcher: Launcher::Pmi,
    rank: "PMI_RANK",
    world: "PMI_SIZE",
    local: Some("MPI_LOCALRANKID"),
    local_world: Some("MPI_LOCALNRANKS"),
    hint: "",
};

const TORCHRUN: Source = Source {
    launcher: Launcher::Torchrun,
    rank: "RANK",
    world: "WORLD_SIZE",
    local: Some("LOCAL_RANK"),
    local_world: Some("LOCAL_WORLD_SIZE"),
    hint: "",
};

const SRUN: Source = Source {
    launcher: Launcher::Srun,
    rank: "SLURM_PROCID",
    world: "SLURM_STEP_NUM_TASKS",
    local: Some("SLURM_LOCALID"),
    // It lists the tasks of all nodes in one word, "4(x2),3".
    local_world: None,
    hint: "",
};

/// Slurm before it told a step its size.
const SRUN_BEFORE: Source = Source { world: "SLURM_NTASKS", ..SRUN };

const KUBERNETES: Source = Source {
    launcher: Launcher::Kubernetes,
    rank: "JOB_COMPLETION_INDEX",
    world: "WORLD_SIZE",
    local: None,
    local_world: None,
    hint: "; set it in the job's manifest to the number of completions",
};

impl Source {
    fn read(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, LaunchError> {
        let mut found = Vec::new();
        let mut number = |name: &'static str| {
            let Some(value) = variable(name) else { return Ok(None) };
            found.push(format!("{name}={value}"));
            value.trim().parse().map(Some).map_err(|_| LaunchError::NotANumber { name, value })
        };
        let Some(rank) = number(self.rank)? else { return Ok(None) };
        let Some(world) = number(self.world)? else {
            let (launcher, has, missing, hint) = (self.launcher, self.rank, self.world, self.hint);
            return Err(LaunchError::Half { launcher, has, missing, hint });
        };
        if rank >= world {
            return Err(LaunchError::Outside { names: (self.rank, self.world), rank, world });
        }
        let local_rank = self.local.map_or(Ok(None), &mut number)?;
        let local_world = self.local_world.map_or(Ok(None), &mut number)?;
        let local_world = local_world.filter(|local| *local > 0);
        Ok(Some(Launch { launcher: self.launcher, rank, world, local_rank, local_world, found }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Option<(Launcher, usize, usize, Option<usize>)>;

    fn detected(variables: &[(&str, &str)]) -> Result<Found, String> {
        let lookup = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        let found = detect(lookup).map_err(|error| error.to_string())?;
        Ok(found.map(|launch| (launch.launcher, launch.rank, launch.world, launch.local_rank)))
    }

    #[test]
    fn every_launcher_is_known() {
        type Variables<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(Variables<'_>, Launcher, Option<usize>)] = &[
            (
                &[
                    ("OMPI_COMM_WORLD_RANK", "3"),
                    ("OMPI_COMM_WORLD_SIZE", "8"),
                    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                    ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
                ],
                Launcher::OpenMpi,
                Some(1),
            ),
            (&[("PMI_RANK", "3"), ("PMI_SIZE", "8")], Launcher::Pmi, None),
            (
                &[
                    ("SLURM_STEP_ID", "0"),
                    ("SLURM_PROCID", "3"),
                    ("SLURM_STEP_NUM_TASKS", "8"),
                    ("SLURM_NTASKS", "16"),
                    ("SLURM_LOCALID", "3"),
                ],
                Launcher::Srun,
                Some(3),
            ),
            (&[("SLURM_STEP_ID", "1"), ("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8")], Launcher::Srun, None),
            (&[("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "0")], Launcher::Torchrun, Some(0)),
            (&[("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "8")], Launcher::Kubernetes, None),
        ];
        for (variables, launcher, local) in cases {
            assert_eq!(detected(variables), Ok(Some((*launcher, 3, 8, *local))), "{variables:?}");
        }
    }

    #[test]
    fn a_process_started_by_hand_has_no_launcher() {
        assert_eq!(detected(&[]), Ok(None));
        assert_eq!(detected(&[("RANK", "7")]), Ok(None));
        assert_eq!(detected(&[("WORLD_SIZE", "7")]), Ok(None));
    }

    #[test]
    fn a_batch_script_is_not_a_rank() {
        let script = [("SLURM_JOB_ID", "9"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(detected(&script), Ok(None));
    }

    #[test]
    fn mpirun_inside_an_allocation_and_torchrun_under_srun_know_better() {
        let slurm = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        let mpi = [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8")];
        assert_eq!(detected(&[slurm.as_slice(), &mpi].concat()), Ok(Some((Launcher::OpenMpi, 5, 8, None))));
        let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8")];
        let found = detected(&[slurm.as_slice(), &torchrun].concat());
        assert_eq!(found, Ok(Some((Launcher::Torchrun, 5, 8, None))));
    }

    #[test]
    fn contradictions_are_errors_with_the_names() {
        let stale = [
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("RANK", "0"),
            ("WORLD_SIZE", "8"),
        ];
        assert_eq!(
            detected(&stale).unwrap_err(),
            "two launchers disagree: rank 5 of 8, from mpirun (Open MPI) (OMPI_COMM_WORLD_RANK=5, \
             OMPI_COMM_WORLD_SIZE=8); rank 0 of 8, from torchrun-style variables (RANK=0, WORLD_SIZE=8); \
             unset the variables of one"
        );
        assert_eq!(
            detected(&[("PMI_RANK", "x"), ("PMI_SIZE", "8")]).unwrap_err(),
            "PMI_RANK=\"x\" is not a number"
        );
        assert_eq!(
            detected(&[("RANK", "8"), ("WORLD_SIZE", "8")]).unwrap_err(),
            "RANK=8 is not below WORLD_SIZE=8"
        );
        assert_eq!(
            detected(&[("JOB_COMPLETION_INDEX", "1")]).unwrap_err(),
            "JOB_COMPLETION_INDEX is set by a Kubernetes indexed job, but not WORLD_SIZE; set it in the job's \
             manifest to the number of completions"
        );
    }
}
