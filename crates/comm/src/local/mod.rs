//! Ranks as threads of one process. Nothing is copied that need not be: a rank publishes where its views
//! are, and whoever waits for an operation reads all members' memory and writes the results straight into
//! it. With as many ranks as cores waits spin a little; beyond, and after that, they sleep.

mod transfer;

pub use crate::Options;
use crate::error::State;
use crate::rendezvous::{Meeting, Outcome};
use crate::request::Operands;
use crate::{Call, Cause, Collective, CommError, Handle, Last, Operation, Request};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;
use transfer::Transfer;
use triax_tensor::Device;

/// Rounds of polling before a wait sleeps, when there are cores enough: about 50 µs.
const SPINS: u32 = 1000;

/// Makes the ranks of a world; each is given to its own thread.
pub struct World;

impl World {
    #[expect(clippy::new_ret_no_self, reason = "a world is its ranks")]
    pub fn new(ranks: usize, options: Options) -> Vec<LocalRank> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            options,
            spins: if ranks <= cores { SPINS } else { 0 },
            registry: Mutex::default(),
            seats: (0..ranks).map(|_| Seat::new()).collect(),
            broken: OnceLock::new(),
        });
        (0..ranks)
            .map(|rank| LocalRank {
                shared: Arc::clone(&shared),
                rank,
                groups: Vec::new(),
                pending: HashMap::new(),
                next_handle: 0,
                left: false,
            })
            .collect()
    }
}

type Gathering = Meeting<Operands, Transfer>;

/// An operation that some members have begun.
struct Open {
    /// As the first member called it, and who that was.
    call: Arc<Call>,
    first: usize,
    ranks: Vec<usize>,
    meeting: Gathering,
}

struct Shared {
    options: Options,
    spins: u32,
    registry: Mutex<Registry>,
    seats: Vec<Seat>,
    /// The first cause of the world's end.
    broken: OnceLock<CommError>,
}

/// Operations that wait for members.
#[derive(Default)]
struct Registry {
    /// Numbers of the groups seen so far, by name and ranks.
    groups: HashMap<(String, Vec<usize>), usize>,
    /// By group and sequence number.
    collectives: HashMap<(usize, u64), Arc<Open>>,
    /// By sender, receiver and tag: sends that wait for receives, or receives that wait for sends.
    messages: HashMap<(usize, usize, u64), VecDeque<Posted>>,
}

/// One side of a message whose other side has not come.
struct Posted {
    side: Side,
    open: Arc<Open>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

/// What the others can see of a rank.
struct Seat {
    left: AtomicBool,
    doing: Mutex<Doing>,
}

struct Doing {
    state: State,
    since: Instant,
    /// What it may be asleep in.
    waits_in: Option<Arc<Open>>,
}

impl Seat {
    fn new() -> Self {
        let doing = Doing { state: State::Nothing, since: Instant::now(), waits_in: None };
        Self { left: AtomicBool::new(false), doing: Mutex::new(doing) }
    }

    fn set(&self, state: State, waits_in: Option<Arc<Open>>) {
        *lock(&self.doing) = Doing { state, since: Instant::now(), waits_in };
    }
}

impl Shared {
    fn last(&self, rank: usize) -> Last {
        let doing = lock(&self.seats[rank].doing);
        Last { rank, state: doing.state.clone(), since: doing.since.elapsed() }
    }

    /// Ends the world for the first caller's cause.
    fn break_with(&self, cause: CommError) {
        if self.broken.set(cause).is_ok() {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        for seat in &self.seats {
            // Whoever sits down to sleep after this look sees the change that led to this call.
            let waits_in = lock(&seat.doing).waits_in.clone();
            if let Some(open) = waits_in {
                open.meeting.wake();
            }
        }
    }

    fn has_left(&self, rank: usize) -> bool {
        self.seats[rank].left.load(Ordering::Acquire)
    }
}

/// A group in which this rank has begun operations.
struct KnownGroup {
    name: String,
    ranks: Vec<usize>,
    /// The world's number for it.
    number: usize,
    begun: u64,
}

/// One rank of a local world.
pub struct LocalRank {
    shared: Arc<Shared>,
    rank: usize,
    groups: Vec<KnownGroup>,
    pending: HashMap<u64, Arc<Open>>,
    next_handle: u64,
    left: bool,
}

impl LocalRank {
    /// Ends the world, unless it has ended, and lets nobody touch this rank's views any more.
    fn fail(&mut self, cause: impl Into<CommError>) -> CommError {
        self.shared.break_with(cause.into());
        self.pending.drain().for_each(|(_, open)| open.meeting.cancel());
        self.shared.broken.get().cloned().expect("the world was just broken")
    }

    fn check_alive(&mut self, what: &str) -> Result<(), CommError> {
        if let Some(cause) = self.shared.broken.get() {
            return Err(self.fail(cause.clone()));
        }
        if self.left {
            let problem = "this rank has left".to_owned();
            return Err(Cause::Misuse { rank: self.rank, what: what.to_owned(), problem }.into());
        }
        Ok(())
    }

    /// The operation that the request belongs to, new if this rank is the first to begin it.
    fn open(&mut self, request: &mut Request) -> Arc<Open> {
        let first = self.rank;
        let make = |call: &Call, ranks: &[usize]| {
            let (call, ranks) = (Arc::new(call.clone()), ranks.to_vec());
            Arc::new(Open { meeting: Meeting::new(ranks.len()), call, first, ranks })
        };
        if let Operation::Message { from, to } = request.call.operation {
            let side = if request.index == 0 { Side::Sender } else { Side::Receiver };
            let mut registry = lock(&self.shared.registry);
            let key = (from, to, request.call.sequence);
            let queue = registry.messages.entry(key).or_default();
            if let Some(posted) = queue.pop_front_if(|posted| posted.side != side) {
                if queue.is_empty() {
                    registry.messages.remove(&key);
                }
                return posted.open;
            }
            let open = make(&request.call, &request.ranks);
            queue.push_back(Posted { side, open: Arc::clone(&open) });
            return open;
        }
        let group = self.group(request);
        request.call.sequence = group.begun;
        group.begun += 1;
        let key = (group.number, request.call.sequence);
        let mut registry = lock(&self.shared.registry);
        let open = registry.collectives.entry(key).or_insert_with(|| make(&request.call, &request.ranks));
        Arc::clone(open)
    }

    fn group(&mut self, request: &Request) -> &mut KnownGroup {
        let (name, ranks) = (&request.call.group, &request.ranks);
        let known = self.groups.iter().position(|group| group.name == *name && group.ranks == *ranks);
        let known = known.unwrap_or_else(|| {
            let mut registry = lock(&self.shared.registry);
            let next = registry.groups.len();
            let number = *registry.groups.entry((name.clone(), ranks.clone())).or_insert(next);
            self.groups.push(KnownGroup { name: name.clone(), ranks: ranks.clone(), number, begun: 0 });
            self.groups.len() - 1
        });
        &mut self.groups[known]
    }

    /// Forgets a collective that all members have begun.
    fn close(&mut self, request: &Request) {
        let key = (self.group(request).number, request.call.sequence);
        lock(&self.shared.registry).collectives.remove(&key);
    }

    /// Ranks that somebody waits for, and those that these wait for in turn; the ones that wait for nobody,
    /// where the trouble is, first.
    fn blocking(&self, mut ranks: Vec<usize>) -> Vec<Last> {
        let mut next = 0;
        while let Some(rank) = ranks.get(next) {
            let waits_in = lock(&self.shared.seats[*rank].doing).waits_in.clone();
            if let Some(open) = waits_in {
                let theirs = open.meeting.missing().into_iter().map(|index| open.ranks[index]);
                let new: Vec<usize> =
                    theirs.filter(|rank| *rank != self.rank && !ranks.contains(rank)).collect();
                ranks.extend(new);
            }
            next += 1;
        }
        let mut all: Vec<Last> = ranks.into_iter().map(|rank| self.shared.last(rank)).collect();
        all.sort_by_key(|last| matches!(last.state, State::WaitsIn(_)));
        all
    }
}

impl Collective for LocalRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.seats.len()
    }

    fn describe(&self) -> String {
        format!("local ({} threads)", self.world())
    }

    fn begin(&mut self, device: Option<&mut dyn Device>, mut request: Request) -> Result<Handle, CommError> {
        self.check_alive(&request.call.what)?;
        if let Some(rank) = request.ranks.iter().find(|rank| **rank >= self.world()) {
            let problem = format!("rank {rank} of a world of {}", self.world());
            return Err(self.fail(Cause::Invalid { rank: self.rank, call: request.call, problem }));
        }
        let operands = match request.operands(self.rank, device) {
            Ok(operands) => operands,
            Err(error) => return Err(self.fail(error)),
        };
        let open = self.open(&mut request);
        if *open.call != request.call {
            let (other_rank, other) = (open.first, (*open.call).clone());
            let call = request.call;
            return Err(self.fail(Cause::Mismatch { rank: self.rank, call, other_rank, other }));
        }
        let seat = &self.shared.seats[self.rank];
        seat.set(State::Began(Arc::clone(&open.call)), None);
        let last = open.meeting.arrive(request.index, operands, |members| Transfer::new(&open.call, members));
        if last {
            match request.call.operation {
                // Who comes second copies: neither side has to wait for the other's `wait`.
                Operation::Message { .. } => open.meeting.help(),
                _ => self.close(&request),
            }
        }
        let id = self.next_handle;
        self.next_handle += 1;
        self.pending.insert(id, open);
        Ok(Handle { rank: self.rank, id })
    }

    fn finish(
        &mut self,
        _device: Option<&mut dyn Device>,
        handle: Handle,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        let open = self.pending.get(&handle.id).filter(|_| handle.rank == self.rank).map(Arc::clone);
        let Some(open) = open else {
            self.check_alive("wait")?;
            let problem = format!("rank {} has no such operation under way", handle.rank);
            let (rank, what) = (self.rank, "wait".to_owned());
            return Err(self.fail(Cause::Misuse { rank, what, problem }));
        };
        let shared = Arc::clone(&self.shared);
        let seat = &shared.seats[self.rank];
        seat.set(State::WaitsIn(Arc::clone(&open.call)), Some(Arc::clone(&open)));
        let began = Instant::now();
        let outcome = open.meeting.wait(shared.spins, began + shared.options.timeout, |missing| {
            shared.broken.get().is_some() || missing.iter().any(|index| shared.has_left(open.ranks[*index]))
        });
        if outcome == Outcome::Done {
            seat.set(State::Finished(Arc::clone(&open.call)), None);
            self.pending.remove(&handle.id);
            return Ok(open.meeting.work().map_or_else(Vec::new, |work| work.gathered()));
        }
        let missing: Vec<usize> = open.meeting.missing().into_iter().map(|i| open.ranks[i]).collect();
        let (rank, call) = (self.rank, (*open.call).clone());
        Err(self.fail(if outcome == Outcome::TimedOut {
            let missing = self.blocking(missing);
            Cause::Silent { rank, call, waited: began.elapsed(), missing }
        } else {
            let left = missing.into_iter().filter(|rank| shared.has_left(*rank));
            Cause::Left { rank, call, missing: left.map(|rank| shared.last(rank)).collect() }
        }))
    }

    fn abort(&mut self, reason: &str) -> CommError {
        let reason = reason.lines().collect::<Vec<_>>().join(" ");
        self.fail(Cause::Aborted { rank: self.rank, reason })
    }

    fn leave(&mut self) -> Result<(), CommError> {
        self.check_alive("leave")?;
        if let Some(open) = self.pending.values().next() {
            let problem = format!("the {} is still under way", open.call);
            let (rank, what) = (self.rank, "leave".to_owned());
            return Err(self.fail(Cause::Misuse { rank, what, problem }));
        }
        self.left = true;
        let seat = &self.shared.seats[self.rank];
        seat.set(State::Left, None);
        seat.left.store(true, Ordering::Release);
        // Those who wait for this rank need wait no longer.
        self.shared.wake_all();
        Ok(())
    }
}

/// A rank that ends without leaving takes the world with it.
impl Drop for LocalRank {
    fn drop(&mut self) {
        if !self.left {
            let last = self.shared.last(self.rank);
            self.fail(Cause::Gone { last, panicked: std::thread::panicking() });
        }
    }
}

#[cfg(test)]
mod tests;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
