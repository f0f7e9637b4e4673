//! What one rank asks for, checked against itself before anybody else hears of it.

use crate::{Call, Cause, CommError, Group, Operation};
use std::ops::Range;
use triax_tensor::{DType, Device, HostMemory, View};

/// An operation with its group and operands, for [`crate::Collective::begin`].
#[derive(Debug)]
pub struct Request {
    /// Its `sequence` is given by the engine, except a message's.
    pub(crate) call: Call,
    /// Members; sender and receiver of a message.
    pub(crate) ranks: Vec<usize>,
    /// Which of them is this rank.
    pub(crate) index: usize,
    /// What this rank gives.
    pub(crate) from: Option<View>,
    /// What this rank gets.
    pub(crate) to: Option<View>,
    /// What this rank gives to a gathering on the host.
    pub(crate) bytes: Vec<u8>,
}

/// The operands in this process's memory.
#[derive(Debug, Default)]
pub(crate) struct Operands {
    pub(crate) from: Option<HostMemory>,
    pub(crate) to: Option<HostMemory>,
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    pub fn all_reduce(rank: usize, group: &Group, view: View, what: &str) -> Result<Self, CommError> {
        let request = Self {
            from: Some(view),
            to: Some(view),
            ..Self::whole(Operation::AllReduce, group, Some(view), what)
        };
        request.check(rank, || check_dtype(view, DType::F32))
    }

    pub fn reduce_scatter(
        rank: usize,
        group: &Group,
        parts: &[Range<usize>],
        from: View,
        to: View,
        what: &str,
    ) -> Result<Self, CommError> {
        let mut request = Self::whole(Operation::ReduceScatter, group, Some(from), what);
        request.call.parts = parts.to_vec();
        (request.from, request.to) = (Some(from), Some(to));
        request.check(rank, || {
            check_dtype(from, DType::F32)?;
            check_parts(group, parts, from, to)
        })
    }

    pub fn all_gather(
        rank: usize,
        group: &Group,
        parts: &[Range<usize>],
        from: View,
        to: View,
        what: &str,
    ) -> Result<Self, CommError> {
        let mut request = Self::whole(Operation::AllGather, group, Some(to), what);
        request.call.parts = parts.to_vec();
        (request.from, request.to) = (Some(from), Some(to));
        request.check(rank, || check_parts(group, parts, to, from))
    }

    pub fn broadcast(
        rank: usize,
        group: &Group,
        root: usize,
        view: View,
        what: &str,
    ) -> Result<Self, CommError> {
        let mut request = Self::whole(Operation::Broadcast { root }, group, Some(view), what);
        (request.from, request.to) = (Some(view), Some(view));
        request.check(rank, || {
            let size = group.size();
            if root < size { Ok(()) } else { Err(format!("index {root} in a group of {size}")) }
        })
    }

    pub fn send(
        rank: usize,
        world: usize,
        to: usize,
        view: View,
        tag: u64,
        what: &str,
    ) -> Result<Self, CommError> {
        let request = Self { from: Some(view), ..Self::message(rank, to, view, tag, what) };
        Self { index: 0, ..request }.check(rank, || check_peer(world, to))
    }

    pub fn receive(
        rank: usize,
        world: usize,
        from: usize,
        view: View,
        tag: u64,
        what: &str,
    ) -> Result<Self, CommError> {
        let request = Self { to: Some(view), ..Self::message(from, rank, view, tag, what) };
        Self { index: 1, ..request }.check(rank, || check_peer(world, from))
    }

    pub fn barrier(rank: usize, group: &Group, what: &str) -> Result<Self, CommError> {
        Self::whole(Operation::Barrier, group, None, what).check(rank, || Ok(()))
    }

    pub fn gather_host(rank: usize, group: &Group, mine: &[u8], what: &str) -> Result<Self, CommError> {
        let request = Self { bytes: mine.to_vec(), ..Self::whole(Operation::GatherHost, group, None, what) };
        request.check(rank, || Ok(()))
    }

    /// Where the operands are.
    pub(crate) fn operands(
        &mut self,
        rank: usize,
        device: Option<&mut dyn Device>,
    ) -> Result<Operands, CommError> {
        let mut operands = Operands { bytes: std::mem::take(&mut self.bytes), ..Operands::default() };
        if self.from.is_none() && self.to.is_none() {
            return Ok(operands);
        }
        let Some(device) = device else {
            return Err(self.invalid(rank, "views without a device".to_owned()));
        };
        let mut host = |view: Option<View>| -> Result<Option<HostMemory>, String> {
            let Some(view) = view else { return Ok(None) };
            let memory = device.host(view);
            let memory = memory.ok_or_else(|| format!("{} has no host memory", device.describe()))?;
            if memory.pointer().addr() % view.dtype.bytes() != 0 {
                return Err(format!("{view:?} is not aligned to its elements"));
            }
            Ok(Some(memory))
        };
        let located = host(self.from).and_then(|from| Ok((from, host(self.to)?)));
        (operands.from, operands.to) = located.map_err(|problem| self.invalid(rank, problem))?;
        Ok(operands)
    }

    /// An operation of a group on views of the same size on all members.
    fn whole(operation: Operation, group: &Group, view: Option<View>, what: &str) -> Self {
        Self {
            call: Call {
                operation,
                what: what.to_owned(),
                group: group.name.to_owned(),
                sequence: 0,
                elements: view.map(|view| (view.len(), view.dtype)),
                parts: Vec::new(),
            },
            ranks: group.ranks.clone(),
            index: group.index,
            from: None,
            to: None,
            bytes: Vec::new(),
        }
    }

    fn message(from: usize, to: usize, view: View, tag: u64, what: &str) -> Self {
        Self {
            call: Call {
                operation: Operation::Message { from, to },
                what: what.to_owned(),
                group: String::new(),
                sequence: tag,
                elements: Some((view.len(), view.dtype)),
                parts: Vec::new(),
            },
            ranks: vec![from, to],
            index: 0,
            from: None,
            to: None,
            bytes: Vec::new(),
        }
    }

    fn check(self, rank: usize, operands: impl FnOnce() -> Result<(), String>) -> Result<Self, CommError> {
        let ranks = &self.ranks;
        let distinct = ranks.is_sorted_by(|a, b| a < b)
            || ranks.iter().enumerate().all(|(index, rank)| !ranks[..index].contains(rank));
        let checked = if !distinct {
            Err(format!("ranks {ranks:?} are not distinct"))
        } else if ranks.get(self.index) != Some(&rank) {
            Err(format!("this rank is not at index {} of ranks {ranks:?}", self.index))
        } else {
            operands()
        };
        match checked {
            Ok(()) => Ok(self),
            Err(problem) => Err(self.invalid(rank, problem)),
        }
    }

    fn invalid(&self, rank: usize, problem: String) -> CommError {
        Cause::Invalid { rank, call: self.call.clone(), problem }.into()
    }
}

fn check_dtype(view: View, dtype: DType) -> Result<(), String> {
    if view.dtype == dtype { Ok(()) } else { Err(format!("sums are made in {dtype}, not {}", view.dtype)) }
}

fn check_peer(world: usize, peer: usize) -> Result<(), String> {
    if peer < world { Ok(()) } else { Err(format!("rank {peer} of a world of {world}")) }
}

/// `part` is a member's own part of `whole`, in place or outside it.
fn check_parts(group: &Group, parts: &[Range<usize>], whole: View, part: View) -> Result<(), String> {
    if parts.len() != group.size() {
        return Err(format!("{} parts for {} members", parts.len(), group.size()));
    }
    let mut by_start: Vec<&Range<usize>> = parts.iter().filter(|part| !part.is_empty()).collect();
    by_start.sort_by_key(|part| part.start);
    if let Some(pair) = by_start.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(format!("parts {:?} and {:?} overlap", pair[0], pair[1]));
    }
    if let Some(part) = parts.iter().find(|part| part.start > part.end || part.end > whole.len()) {
        return Err(format!("part {part:?} of {} elements", whole.len()));
    }
    let own = &parts[group.index];
    if part.len() != own.len() || part.dtype != whole.dtype {
        return Err(format!(
            "own part of {} {} for the {} {} {own:?}",
            part.len(),
            part.dtype,
            own.len(),
            whole.dtype
        ));
    }
    let in_place = part.offset == whole.offset + own.start * whole.dtype.bytes();
    let apart = part.offset >= whole.offset + whole.bytes() || whole.offset >= part.offset + part.bytes();
    if in_place || apart {
        Ok(())
    } else {
        Err(format!("{part:?} lies in {whole:?}, but not where the part {own:?} is"))
    }
}
