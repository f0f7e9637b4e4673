//! Ranks and what they say to each other: the [`Mesh`] that gives a rank its groups and neighbours, and
//! [`Collective`], one rank's end of the world. Two engines carry it: [`local`] (ranks are threads of one
//! process) and `mpi` (ranks are processes, behind the feature of that name), with equal bits; [`launch`]
//! says which process this is.
//!
//! Nothing here knows models or training. A missing, dead or disagreeing peer ends the run of every rank
//! with one line that says who and where; nothing waits for ever.

mod call;
mod collective;
mod error;
pub mod launch;
pub mod local;
mod mesh;
#[cfg(feature = "mpi")]
pub mod mpi;
mod rendezvous;
mod request;
mod sums;
mod sync;
mod verify;

pub use call::{Call, Operation};
pub use collective::{Collective, Handle, Options, parts};
pub use error::{Cause, CommError, Last, State};
pub use mesh::{Axis, Group, Layout, Mesh};
pub use request::Request;
pub use verify::verify_same;
