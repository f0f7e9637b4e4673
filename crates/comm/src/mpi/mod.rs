//! Ranks as processes under an MPI launcher. The rank's thread hands operations to one thread that alone
//! speaks MPI and keeps them moving while the rank computes. Sums are made here, in the tree's order, from
//! the other ranks' parts, so that their bits are those of [`crate::local`].
//!
//! The rank that finds why the world ended tells people and the others: when a peer is silent for too long, when
//! ranks disagree, when a process of the same machine dies (`neighbours.rs`; those elsewhere are noticed by the
//! launcher, which ends the others, or by the timeout), when a rank is dropped without leaving. After an error
//! MPI is not finalised, and the contents of views under way are undefined.

mod exchange;
mod neighbours;
mod port;
mod progress;
mod wire;

use crate::request::Operands;
use crate::{Call, Cause, Collective, CommError, Handle, Last, Operation as Kind, Options, Request};
use port::Port;
use progress::Progress;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use triax_tensor::Device;

/// Longest bytes of one rank in a gathering on the host: MPI counts in `int`.
const LONGEST: usize = 1 << 30;

/// How long the MPI thread, which never blocks, may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Ranks lose patience one after the other, so that one of them tells the rest.
const STAGGER: Duration = Duration::from_millis(50);

/// Shows people why the world ended. Called once at most, on the rank that has found it, from the thread that
/// speaks MPI: the rank's own may be computing for as long as it takes the launcher to end everything.
pub type Announce = fn(&CommError);

/// This process's rank; one a process.
pub struct MpiRank {
    rank: usize,
    world: usize,
    library: String,
    options: Options,
    commands: Sender<Command>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Operations begun in each group, by name and ranks.
    groups: Vec<(String, Vec<usize>, u64)>,
    pending: HashMap<u64, Arc<Call>>,
    next_handle: u64,
    left: bool,
}

/// An operation as the MPI thread gets it.
struct Operation {
    call: Arc<Call>,
    ranks: Vec<usize>,
    index: usize,
    operands: Operands,
}

enum Command {
    Begin {
        id: u64,
        operation: Operation,
    },
    /// Asks for [`Shared::give_report`].
    Report {
        id: u64,
    },
    Leave,
    /// What this rank's own thread has found.
    Broken(CommError),
    /// After this rank has left.
    Stop,
    Abort,
}

/// Between the two threads.
#[derive(Default)]
struct Shared {
    results: Mutex<Results>,
    changed: Condvar,
    /// Whether the rank's thread is waiting.
    waiting: AtomicBool,
}

#[derive(Default)]
struct Results {
    finished: HashMap<u64, Vec<Vec<u8>>>,
    report: Option<Vec<Last>>,
    broken: Option<CommError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Results> {
        // No code panics while it holds the lock.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, id: u64, gathered: Vec<Vec<u8>>) {
        self.lock().finished.insert(id, gathered);
        self.changed.notify_all();
    }

    fn give_report(&self, report: Vec<Last>) {
        self.lock().report = Some(report);
        self.changed.notify_all();
    }

    /// Keeps the first cause; whether this is it.
    fn break_with(&self, cause: CommError) -> bool {
        let mut results = self.lock();
        let first = results.broken.is_none();
        results.broken.get_or_insert(cause);
        drop(results);
        self.changed.notify_all();
        first
    }
}

impl MpiRank {
    /// Initialises MPI. Once a process; an error the second time.
    pub fn start(options: Options, announce: Announce) -> Result<Self, CommError> {
        let (commands, receiver) = channel();
        let (tell, told) = channel();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("triax-mpi".to_owned())
            .spawn(move || serve(&receiver, &tell, theirs, options.timeout, announce))
            .map_err(|error| misuse(0, "MPI", format!("cannot start a thread: {error}")))?;
        let Ok(Some((rank, world, library))) = told.recv() else {
            let problem = "it was initialised before in this process, or finds no other".to_owned();
            return Err(misuse(0, "MPI", problem));
        };
        Ok(Self {
            rank,
            world,
            library,
            options,
            commands,
            shared,
            thread: Some(thread),
            groups: Vec::new(),
            pending: HashMap::new(),
            next_handle: 0,
            left: false,
        })
    }

    fn fail(&mut self, cause: impl Into<CommError>) -> CommError {
        self.pending.clear();
        let cause = cause.into();
        if self.shared.break_with(cause.clone()) {
            self.command(Command::Broken(cause.clone()));
            return cause;
        }
        self.shared.lock().broken.clone().unwrap_or(cause)
    }

    fn check_alive(&mut self, what: &str) -> Result<(), CommError> {
        if let Some(cause) = self.shared.lock().broken.clone() {
            return Err(cause);
        }
        if self.left {
            return Err(misuse(self.rank, what, "this rank has left".to_owned()));
        }
        Ok(())
    }

    fn command(&self, command: Command) {
        // The thread lives until it is told to stop, or the process ends with it.
        let _ = self.commands.send(command);
    }

    /// Gives the request its number in the group.
    fn number(&mut self, request: &mut Request) {
        if let Kind::Message { .. } = request.call.operation {
            return;
        }
        let (name, ranks) = (&request.call.group, &request.ranks);
        let known = self.groups.iter().position(|(n, r, _)| n == name && r == ranks);
        let known = known.unwrap_or_else(|| {
            self.groups.push((name.clone(), ranks.clone(), 0));
            self.groups.len() - 1
        });
        request.call.sequence = self.groups[known].2;
        self.groups[known].2 += 1;
    }

    /// The result of the operation, or how it ended; `None` after the timeout.
    fn await_result(&self, id: u64) -> Option<Result<Vec<Vec<u8>>, CommError>> {
        let deadline = Instant::now() + self.options.timeout + STAGGER * self.rank.min(100) as u32;
        let mut results = self.shared.lock();
        loop {
            if let Some(gathered) = results.finished.remove(&id) {
                return Some(Ok(gathered));
            }
            if let Some(cause) = &results.broken {
                return Some(Err(cause.clone()));
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.shared.changed.wait_timeout(results, left);
            results = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the ranks that the operation lacks did last.
    fn await_report(&self, id: u64) -> Vec<Last> {
        self.shared.lock().report = None;
        self.command(Command::Report { id });
        let deadline = Instant::now() + ANSWER;
        let mut results = self.shared.lock();
        loop {
            if let Some(report) = results.report.take() {
                return report;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return Vec::new() };
            let waited = self.shared.changed.wait_timeout(results, left);
            results = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The MPI thread.
fn serve(
    commands: &Receiver<Command>,
    tell: &Sender<Option<(usize, usize, String)>>,
    shared: Arc<Shared>,
    timeout: Duration,
    announce: Announce,
) {
    let port = Port::open();
    // Whoever asked waits for the answer.
    let _ = tell.send(port.as_ref().map(|port| (port.rank, port.world, port.library.clone())));
    if let Some(port) = port {
        Progress::new(port, shared, timeout, announce).run(commands);
    }
}

fn misuse(rank: usize, what: &str, problem: String) -> CommError {
    Cause::Misuse { rank, what: what.to_owned(), problem }.into()
}

impl Collective for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn describe(&self) -> String {
        format!("mpi ({} processes, {})", self.world, self.library)
    }

    fn begin(&mut self, device: Option<&mut dyn Device>, mut request: Request) -> Result<Handle, CommError> {
        self.check_alive(&request.call.what)?;
        let outside = request.ranks.iter().find(|rank| **rank >= self.world);
        let problem = match outside {
            Some(rank) => Some(format!("rank {rank} of a world of {}", self.world)),
            None if request.bytes.len() > LONGEST => {
                Some(format!("{} bytes, at most {LONGEST}", request.bytes.len()))
            }
            None => None,
        };
        if let Some(problem) = problem {
            return Err(self.fail(Cause::Invalid { rank: self.rank, call: request.call, problem }));
        }
        let operands = match request.operands(self.rank, device) {
            Ok(operands) => operands,
            Err(error) => return Err(self.fail(error)),
        };
        self.number(&mut request);
        let id = self.next_handle;
        self.next_handle += 1;
        let call = Arc::new(request.call);
        self.pending.insert(id, Arc::clone(&call));
        let operation = Operation { call, ranks: request.ranks, index: request.index, operands };
        self.command(Command::Begin { id, operation });
        Ok(Handle { rank: self.rank, id })
    }

    fn finish(
        &mut self,
        _device: Option<&mut dyn Device>,
        handle: Handle,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        let call = self.pending.get(&handle.id).filter(|_| handle.rank == self.rank).map(Arc::clone);
        let Some(call) = call else {
            self.check_alive("wait")?;
            let problem = format!("rank {} has no such operation under way", handle.rank);
            return Err(self.fail(misuse(self.rank, "wait", problem)));
        };
        let began = Instant::now();
        self.shared.waiting.store(true, Ordering::Relaxed);
        let result = self.await_result(handle.id);
        self.shared.waiting.store(false, Ordering::Relaxed);
        match result {
            Some(Ok(gathered)) => {
                self.pending.remove(&handle.id);
                Ok(gathered)
            }
            Some(Err(cause)) => Err(self.fail(cause)),
            None => {
                let (rank, waited) = (self.rank, began.elapsed());
                let missing = self.await_report(handle.id);
                let call = (*call).clone();
                Err(self.fail(Cause::Silent { rank, call, waited, missing }))
            }
        }
    }

    fn abort(&mut self, reason: &str) -> CommError {
        let reason = reason.lines().collect::<Vec<_>>().join(" ");
        self.fail(Cause::Aborted { rank: self.rank, reason })
    }

    fn leave(&mut self) -> Result<(), CommError> {
        self.check_alive("leave")?;
        if let Some(call) = self.pending.values().next() {
            let problem = format!("the {call} is still under way");
            return Err(self.fail(misuse(self.rank, "leave", problem)));
        }
        self.left = true;
        self.command(Command::Leave);
        Ok(())
    }
}

/// A rank that ends without leaving ends the world; one that has left waits for the others to.
impl Drop for MpiRank {
    fn drop(&mut self) {
        self.command(if self.left { Command::Stop } else { Command::Abort });
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
