//! What a rank asked for, as the others compare it and as messages print it.

use std::fmt;
use std::ops::Range;
use triax_tensor::DType;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    AllReduce,
    ReduceScatter,
    AllGather,
    /// From the member of this index.
    Broadcast {
        root: usize,
    },
    Barrier,
    GatherHost,
    /// Message of one rank to another; the `sequence` of its [`Call`] is its tag.
    Message {
        from: usize,
        to: usize,
    },
}

/// One operation as one rank called it. Members of a group must make equal calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub operation: Operation,
    /// The caller's name for it.
    pub what: String,
    /// The group's name.
    pub group: String,
    /// How many operations the group began before this one.
    pub sequence: u64,
    /// Elements of the whole (of all parts, and gaps), and their type; none where lengths are free.
    pub elements: Option<(usize, DType)>,
    /// Who gets which elements.
    pub parts: Vec<Range<usize>>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match self.operation {
            Operation::AllReduce => write!(f, "all-reduce of {what}")?,
            Operation::ReduceScatter => write!(f, "reduce-scatter of {what}")?,
            Operation::AllGather => write!(f, "all-gather of {what}")?,
            Operation::Broadcast { root } => write!(f, "broadcast from index {root} of {what}")?,
            Operation::Barrier => write!(f, "barrier {what}")?,
            Operation::GatherHost => write!(f, "gathering of {what}")?,
            Operation::Message { from, to } => write!(f, "message of {what} from rank {from} to {to}")?,
        }
        f.write_str(" (")?;
        if let Some((elements, dtype)) = self.elements {
            write!(f, "{elements} {dtype}, ")?;
        }
        if let Some(first) = self.parts.first() {
            write!(f, "first part {first:?}, ")?;
        }
        match self.operation {
            Operation::Message { .. } => write!(f, "tag {})", self.sequence),
            _ => write!(f, "{} #{})", self.group, self.sequence),
        }
    }
}
