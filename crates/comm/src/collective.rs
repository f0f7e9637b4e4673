//! [`Collective`]: one rank's end of the world.

use crate::{CommError, Group, Request};
use std::ops::Range;
use std::time::Duration;
use triax_tensor::{Device, View, shard_range};

/// An operation under way; give it to [`Collective::wait`] of the rank that began it.
#[derive(Debug)]
#[must_use = "an operation is finished by `wait`; until then its views may not be touched"]
pub struct Handle {
    pub(crate) rank: usize,
    pub(crate) id: u64,
}

/// How a world behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a rank waits for its peers before it ends the run.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(300) }
    }
}

/// `len` elements cut into `members` consecutive parts of nearly equal size: the usual `parts` of
/// [`Collective::reduce_scatter`] and [`Collective::all_gather`].
pub fn parts(len: usize, members: usize) -> Vec<Range<usize>> {
    (0..members).map(|index| shard_range(len, members, index)).collect()
}

/// One rank's end of the world.
///
/// Operations are *enqueued* and finished by [`wait`](Self::wait); between the two the rank goes on
/// computing, and must not touch the views. Members of a group begin the group's operations in the same
/// order, each with the same `what` (a short name for messages); handles may be waited for in any order.
/// An operation is finished by those who wait for it once every member has begun it: nobody needs to wait
/// for a peer that computes after beginning its part.
///
/// Sums are f32, joined over the group's order by the fixed tree of [`triax_tensor::join_order`]:
/// `((0 + 1) + (2 + 3)) + …`, so results have the same bits on every engine.
///
/// After any error the world is broken: every operation of every rank ends at once with the first cause.
/// A rank that is dropped without [`leave`](Self::leave) (a panic, an early return) breaks it too.
pub trait Collective: Send {
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// For people: what carries the data, e.g. `local (4 threads)`.
    fn describe(&self) -> String;

    /// Begins what [`Request`]'s makers describe; the operations below are this and a name. Requests without
    /// views need no device.
    fn begin(&mut self, device: Option<&mut dyn Device>, request: Request) -> Result<Handle, CommError>;

    /// Returns when the operation is finished: what the members of a [`gather_host`](Self::gather_host)
    /// gave, nothing for others.
    fn finish(&mut self, device: Option<&mut dyn Device>, handle: Handle) -> Result<Vec<Vec<u8>>, CommError>;

    /// Breaks the world on purpose: every rank ends with this rank's reason (one line). Returns the first
    /// cause, which is another when the world was broken before.
    fn abort(&mut self, reason: &str) -> CommError;

    /// The orderly end, when nothing is under way. Later operations that need this rank fail at once.
    fn leave(&mut self) -> Result<(), CommError>;

    /// `view` (f32) becomes the sum over the group, in place.
    fn all_reduce(
        &mut self,
        device: &mut dyn Device,
        group: &Group,
        view: View,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::all_reduce(self.rank(), group, view, what)?;
        self.begin(Some(device), request)
    }

    /// `to` (f32, `parts[my index].len()` elements) becomes the sum over the group of the elements
    /// `parts[my index]` of `from` (f32). `parts` has a range of `from`'s elements for each member, the same
    /// on all members and without overlaps; empty parts and gaps are allowed. `to` may be this rank's own
    /// part of `from`, and must otherwise lie outside it.
    fn reduce_scatter(
        &mut self,
        device: &mut dyn Device,
        group: &Group,
        parts: &[Range<usize>],
        from: View,
        to: View,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::reduce_scatter(self.rank(), group, parts, from, to, what)?;
        self.begin(Some(device), request)
    }

    /// The elements `parts[i]` of every member's `to` become member i's `from` (any dtype, the same for all);
    /// `parts` as in [`reduce_scatter`](Self::reduce_scatter), of `to`. `from` may be this rank's own part of
    /// `to`, and must otherwise lie outside it.
    fn all_gather(
        &mut self,
        device: &mut dyn Device,
        group: &Group,
        parts: &[Range<usize>],
        from: View,
        to: View,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::all_gather(self.rank(), group, parts, from, to, what)?;
        self.begin(Some(device), request)
    }

    /// `view` of every member becomes that of the member whose index in the group is `root`.
    fn broadcast(
        &mut self,
        device: &mut dyn Device,
        group: &Group,
        root: usize,
        view: View,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::broadcast(self.rank(), group, root, view, what)?;
        self.begin(Some(device), request)
    }

    /// Sends a view to rank `to`, which receives the same number of elements of the same dtype under the same
    /// `what`. Messages of one tag arrive in the order they were sent; tags are independent of each other.
    fn send(
        &mut self,
        device: &mut dyn Device,
        to: usize,
        view: View,
        tag: u64,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::send(self.rank(), self.world(), to, view, tag, what)?;
        self.begin(Some(device), request)
    }

    /// Receives a view from rank `from`.
    fn receive(
        &mut self,
        device: &mut dyn Device,
        from: usize,
        view: View,
        tag: u64,
        what: &'static str,
    ) -> Result<Handle, CommError> {
        let request = Request::receive(self.rank(), self.world(), from, view, tag, what)?;
        self.begin(Some(device), request)
    }

    /// Returns when the operation is finished and its views may be used again.
    fn wait(&mut self, device: &mut dyn Device, handle: Handle) -> Result<(), CommError> {
        self.finish(Some(device), handle).map(drop)
    }

    /// Returns when every member has called it.
    fn barrier(&mut self, group: &Group, what: &'static str) -> Result<(), CommError> {
        let request = Request::barrier(self.rank(), group, what)?;
        let handle = self.begin(None, request)?;
        self.finish(None, handle).map(drop)
    }

    /// Every member's bytes in the group's order: losses, norms, decisions. Lengths may differ.
    fn gather_host(
        &mut self,
        group: &Group,
        mine: &[u8],
        what: &'static str,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        let request = Request::gather_host(self.rank(), group, mine, what)?;
        let handle = self.begin(None, request)?;
        self.finish(None, handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_in_order_and_differ_by_one_at_most() {
        for members in 1..9 {
            for len in 0..40 {
                let parts = parts(len, members);
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
                assert!(parts.iter().all(|p| p.len() == len / members || p.len() == len.div_ceil(members)));
            }
        }
    }
}
