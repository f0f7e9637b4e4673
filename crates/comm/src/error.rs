//! Why a world ended: one line that names ranks, group and operation.

use crate::Call;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The first cause of a world's end; every rank gets the same one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct CommError(Arc<Cause>);

impl CommError {
    pub fn cause(&self) -> &Cause {
        &self.0
    }
}

impl From<Cause> for CommError {
    fn from(cause: Cause) -> Self {
        Self(Arc::new(cause))
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Cause {
    #[error(
        "rank {rank} waited {:.1} s in vain in the {call}: {}",
        waited.as_secs_f64(),
        Missing(missing)
    )]
    Silent { rank: usize, call: Call, waited: Duration, missing: Vec<Last> },

    #[error("ranks disagree: rank {rank} began the {call}, but rank {other_rank} the {other}")]
    Mismatch { rank: usize, call: Call, other_rank: usize, other: Call },

    #[error("a rank ended early: {last}{}", if *.panicked { " (it panicked)" } else { "" })]
    Gone { last: Last, panicked: bool },

    #[error("rank {by} found dead: {}", Missing(missing))]
    Dead { by: usize, missing: Vec<Last> },

    /// What another process found.
    #[error("{line}")]
    Told { by: usize, line: String },

    #[error("rank {rank} can never finish the {call}: {}", Missing(missing))]
    Left { rank: usize, call: Call, missing: Vec<Last> },

    #[error("rank {rank} gave up: {reason}")]
    Aborted { rank: usize, reason: String },

    #[error("rank {rank}, {call}: {problem}")]
    Invalid { rank: usize, call: Call, problem: String },

    #[error("ranks were started differently: {}", differences.join("; "))]
    Different { differences: Vec<String> },

    #[error("rank {rank}, {what}: {problem}")]
    Misuse { rank: usize, what: String, problem: String },
}

/// What a rank did last, as far as the others know.
#[derive(Clone, Debug, PartialEq)]
pub struct Last {
    pub rank: usize,
    pub state: State,
    /// How long it has been in that state.
    pub since: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// No operation so far.
    Nothing,
    Began(Arc<Call>),
    WaitsIn(Arc<Call>),
    Finished(Arc<Call>),
    Left,
    /// A process about which nothing is known here.
    Unknown,
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, state, since } = self;
        let seconds = since.as_secs_f64();
        match state {
            State::Nothing => write!(f, "rank {rank} has begun nothing"),
            State::Began(call) => write!(f, "rank {rank} last began the {call} {seconds:.1} s ago"),
            State::WaitsIn(call) => write!(f, "rank {rank} has been waiting {seconds:.1} s in the {call}"),
            State::Finished(call) => write!(f, "rank {rank} last finished the {call} {seconds:.1} s ago"),
            State::Left => write!(f, "rank {rank} left {seconds:.1} s ago"),
            State::Unknown => write!(f, "rank {rank} did not come"),
        }
    }
}

/// Lists ranks, a few of them in full.
struct Missing<'a>(&'a [Last]);

impl fmt::Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (index, last) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{last}", if index > 0 { "; " } else { "" })?;
        }
        if self.0.len() > SHOWN {
            let rest: Vec<String> = self.0[SHOWN..].iter().map(|last| last.rank.to_string()).collect();
            write!(f, "; and ranks {}", rest.join(", "))?;
        }
        Ok(())
    }
}
