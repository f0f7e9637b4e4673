//! The thread that speaks MPI: takes operations from the rank's thread, tells and hears control messages,
//! and moves the rounds of [`super::exchange`] forward while the rank computes.

use super::exchange::{self, After, Direction, Place, Round, SEGMENT};
use super::neighbours::Neighbours;
use super::port::{Buffer, MpiError, Port, Request};
use super::wire::{Control, Garbled};
use super::{Announce, Command, Operation as Begun, STAGGER, Shared};
use crate::error::State;
use crate::{Call, Cause, CommError, Last, Operation, sums};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

/// Tag of control messages; those of data follow.
const CONTROL: i32 = 0;

/// Rounds of an operation under way at once.
const WINDOW: usize = 4;

/// Tags that an operation uses toward one peer: two stages for each round in the window.
const TAGS: i32 = 2 * WINDOW as i32;

/// How many operations toward one peer have tags of their own; MPI promises tags up to 32767.
const NUMBERS: i32 = 32_000 / TAGS;

/// How long to poll at full speed after something happened, and how long to rest between polls then.
const EAGER: Duration = Duration::from_micros(100);
const REST_WAITED_FOR: Duration = Duration::from_micros(20);
const REST: Duration = Duration::from_micros(100);
/// The same while this rank has nothing under way.
const IDLE: Duration = Duration::from_millis(20);

/// Between two looks whether the next rank on this machine lives.
const LOOK: Duration = Duration::from_millis(50);

/// How long a rank that ends early tries to tell the others.
const FAREWELL: Duration = Duration::from_millis(500);

/// Who announced which operation: the group's hash, the sequence number, the sender.
type Key = (u64, u64, usize);

pub(super) struct Progress {
    port: Port,
    shared: Arc<Shared>,
    active: Vec<Active>,
    /// Announcements of operations that this rank has not begun or not looked at.
    heard: HashMap<Key, VecDeque<Announced>>,
    /// What each rank announced last.
    last: Vec<Option<(Arc<Call>, Instant)>>,
    left: Vec<Option<Instant>>,
    /// Operations begun toward each peer.
    told: Vec<i32>,
    /// Control messages that belong to no operation.
    sending: Vec<Request>,
    spare: Vec<Vec<f32>>,
    neighbours: Neighbours,
    next_look: Instant,
    /// Shows people what this rank has found.
    announce: Announce,
    timeout: Duration,
}

struct Announced {
    call: Arc<Call>,
    tag: i32,
    bytes: Vec<u8>,
}

/// An operation under way.
struct Active {
    id: u64,
    begun: Begun,
    at: Instant,
    key: u64,
    /// First tag of each member toward me, once heard; mine toward each.
    tags_in: Vec<Option<i32>>,
    tags_out: Vec<i32>,
    /// Members not heard yet.
    unheard: Vec<usize>,
    /// Host bytes by member.
    gathered: Vec<Vec<u8>>,
    control: Vec<Request>,
    waiting: VecDeque<Round>,
    running: VecDeque<Running>,
    /// Number of the first running round.
    first: usize,
}

struct Running {
    number: usize,
    round: Round,
    moves: Vec<Phase>,
    temporaries: HashMap<usize, Vec<f32>>,
    summed: bool,
}

enum Phase {
    Waits,
    UnderWay(Request),
    Done,
}

/// Why a step could not be made.
enum Trouble {
    Cause(CommError),
    Mpi(MpiError),
    Garbled {
        from: usize,
    },
    /// Another rank has found why the world ended.
    Told {
        from: usize,
        line: String,
    },
}

impl From<MpiError> for Trouble {
    fn from(error: MpiError) -> Self {
        Self::Mpi(error)
    }
}

impl Progress {
    pub(super) fn new(port: Port, shared: Arc<Shared>, timeout: Duration, announce: Announce) -> Self {
        let world = port.world;
        Self {
            neighbours: Neighbours::new(&port.processes, port.rank),
            next_look: Instant::now(),
            announce,
            timeout,
            port,
            shared,
            active: Vec::new(),
            heard: HashMap::new(),
            last: vec![None; world],
            left: vec![None; world],
            told: vec![0; world],
            sending: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Until told to stop.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut eager_until = Instant::now();
        loop {
            let idle = self.active.is_empty() && self.sending.is_empty();
            let command = if idle {
                commands.recv_timeout(IDLE)
            } else if Instant::now() < eager_until {
                std::thread::yield_now();
                commands.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                let waited_for = self.shared.waiting.load(Ordering::Relaxed);
                commands.recv_timeout(if waited_for { REST_WAITED_FOR } else { REST })
            };
            let stepped = match command {
                Ok(Command::Stop) => return self.stop(),
                // The rank's thread is gone without a word.
                Ok(Command::Abort) | Err(RecvTimeoutError::Disconnected) => return self.depart(),
                Ok(command) => self.obey(command).map(|()| true),
                Err(RecvTimeoutError::Timeout) => self.step().and_then(|moved| self.look().map(|()| moved)),
            };
            match stepped {
                Ok(true) => eager_until = Instant::now() + EAGER,
                Ok(false) => {}
                Err(trouble) => self.fail(trouble),
            }
        }
    }

    /// After this rank has left: waits for the others to, since MPI's own end waits for all without an end of
    /// its own; MPI is finalised when this value is dropped. When another rank fails meanwhile there is nobody
    /// to wait for.
    fn stop(mut self) {
        let deadline = Instant::now() + self.timeout;
        let me = self.port.rank;
        while !self.sending.is_empty()
            || self.left.iter().enumerate().any(|(rank, left)| rank != me && left.is_none())
        {
            let stepped = self.step().and_then(|_| self.look());
            if stepped.is_err() || Instant::now() > deadline {
                return self.port.abandon();
            }
            std::thread::sleep(REST);
        }
    }

    /// After a failure: the others are told, as far as they can be, and not waited for.
    fn depart(mut self) {
        let rank = self.port.rank;
        let cause = CommError::from(Cause::Gone { last: self.last_of(rank), panicked: false });
        if self.shared.break_with(cause.clone()) {
            self.tell_all(&cause);
        }
        let deadline = Instant::now() + FAREWELL;
        while !self.sending.is_empty() && Instant::now() < deadline && self.step().is_ok() {
            std::thread::sleep(REST);
        }
        self.port.abandon();
    }

    fn fail(&mut self, trouble: Trouble) {
        self.active.clear();
        let rank = self.port.rank;
        if let Trouble::Told { from, line } = trouble {
            self.shared.break_with(Cause::Told { by: from, line }.into());
            return;
        }
        let trouble = match trouble {
            // A connection breaks a moment before its process is gone.
            Trouble::Mpi(error) => {
                std::thread::sleep(2 * LOOK);
                self.look().err().filter(|found| !matches!(found, Trouble::Mpi(_))).unwrap_or(error.into())
            }
            other => other,
        };
        let what = || "MPI".to_owned();
        let cause = match trouble {
            Trouble::Cause(cause) => cause,
            Trouble::Mpi(MpiError(problem)) => Cause::Misuse { rank, what: what(), problem }.into(),
            Trouble::Garbled { from } => {
                let problem = format!("rank {from} speaks another version of this program's language");
                Cause::Misuse { rank, what: what(), problem }.into()
            }
            Trouble::Told { from, line } => Cause::Told { by: from, line }.into(),
        };
        if self.shared.break_with(cause.clone()) {
            self.spread(&cause);
        }
    }

    /// Tells people and the other ranks what this one has found. Who gives up says why itself.
    fn spread(&mut self, cause: &CommError) {
        self.active.clear();
        // Another rank may have found the same a moment ago, and told it.
        let is_known = matches!(self.hear(), Err(Trouble::Told { .. }));
        if !is_known && !matches!(cause.cause(), Cause::Aborted { .. } | Cause::Told { .. }) {
            (self.announce)(cause);
        }
        self.tell_all(cause);
    }

    fn tell_all(&mut self, cause: &CommError) {
        let message = Control::Broken { line: cause.to_string() }.encode();
        for peer in (0..self.port.world).filter(|peer| *peer != self.port.rank) {
            // Whoever cannot be told finds out by itself.
            let sent = self.port.send(peer, CONTROL, Buffer::Bytes(message.clone()));
            self.sending.extend(sent);
        }
    }

    /// Whether the next rank on this machine lives.
    fn look(&mut self) -> Result<(), Trouble> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        self.next_look = Instant::now() + LOOK;
        if self.neighbours.dead(|rank| self.left[rank].is_none()).is_empty() {
            return Ok(());
        }
        // Its last words may be that it left, or why it failed.
        self.hear()?;
        let dead = self.neighbours.dead(|rank| self.left[rank].is_none());
        if dead.is_empty() {
            return Ok(());
        }
        let missing = dead.into_iter().map(|rank| self.last_of(rank)).collect();
        Err(Trouble::Cause(Cause::Dead { by: self.port.rank, missing }.into()))
    }

    /// What a rank has begun last, as far as is known here.
    fn last_of(&self, rank: usize) -> Last {
        match &self.last[rank] {
            Some((call, at)) => Last { rank, state: State::Began(Arc::clone(call)), since: at.elapsed() },
            None => Last { rank, state: State::Nothing, since: Duration::ZERO },
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Trouble> {
        match command {
            Command::Begin { id, operation } => self.begin(id, operation)?,
            Command::Report { id } => {
                let report = self.report(id);
                self.shared.give_report(report);
            }
            Command::Leave => {
                for peer in (0..self.port.world).filter(|peer| *peer != self.port.rank) {
                    let bytes = Buffer::Bytes(Control::Left.encode());
                    self.sending.push(self.port.send(peer, CONTROL, bytes)?);
                }
            }
            Command::Broken(cause) => self.spread(&cause),
            Command::Stop | Command::Abort => {}
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, operation: Begun) -> Result<(), Trouble> {
        let (members, index) = (operation.ranks.len(), operation.index);
        self.last[self.port.rank] = Some((Arc::clone(&operation.call), Instant::now()));
        let (hears, tells) = exchange::partners(operation.call.operation, members, index);
        let rounds = exchange::rounds(&operation.call, members, index, SEGMENT);
        let mut active = Active {
            id,
            key: group_hash(&operation.call, &operation.ranks),
            tags_in: vec![None; members],
            tags_out: vec![0; members],
            unheard: hears,
            gathered: vec![Vec::new(); members],
            control: Vec::new(),
            waiting: rounds.into(),
            running: VecDeque::new(),
            first: 0,
            at: Instant::now(),
            begun: operation,
        };
        active.gathered[index].clone_from(&active.begun.operands.bytes);
        for member in tells {
            let peer = active.begun.ranks[member];
            let number = self.told[peer];
            self.told[peer] = (number + 1) % NUMBERS;
            active.tags_out[member] = CONTROL + 1 + number * TAGS;
            active.tell(&self.port, member)?;
        }
        self.active.push(active);
        self.step().map(drop)
    }

    /// Moves everything forward as far as it goes; whether anything moved.
    fn step(&mut self) -> Result<bool, Trouble> {
        let mut moved = self.hear()?;
        let mut index = 0;
        while index < self.active.len() {
            moved |= self.advance(index)?;
            if self.active[index].is_done() {
                let active = self.active.remove(index);
                let gathered = if active.begun.call.operation == Operation::GatherHost {
                    active.gathered
                } else {
                    vec![]
                };
                self.shared.finish(active.id, gathered);
                moved = true;
            } else {
                index += 1;
            }
        }
        let mut sending = std::mem::take(&mut self.sending);
        retain_unfinished(&self.port, &mut sending)?;
        self.sending = sending;
        Ok(moved)
    }

    /// Reads the control messages that have arrived.
    fn hear(&mut self) -> Result<bool, Trouble> {
        let mut heard = false;
        while let Some((from, bytes)) = self.port.arrived(CONTROL)? {
            heard = true;
            match Control::decode(&bytes).map_err(|Garbled| Trouble::Garbled { from })? {
                Control::Left => self.left[from] = Some(Instant::now()),
                Control::Broken { line } => return Err(Trouble::Told { from, line }),
                Control::Began { call, ranks, tag, bytes } => {
                    let key = (group_hash(&call, &ranks), call.sequence, from);
                    let call = Arc::new(call);
                    self.last[from] = Some((Arc::clone(&call), Instant::now()));
                    self.heard.entry(key).or_default().push_back(Announced { call, tag, bytes });
                }
            }
        }
        Ok(heard)
    }

    fn advance(&mut self, index: usize) -> Result<bool, Trouble> {
        let active = &mut self.active[index];
        let mut moved = active.listen(&mut self.heard, self.port.rank)?;
        // All members hear that one left, and one after the other concludes what that means, so that one of them tells
        // the rest.
        let (waited, patience) = (active.at.elapsed(), STAGGER * self.port.rank.min(100) as u32);
        let gone: Vec<Last> = active
            .unheard
            .iter()
            .map(|member| active.begun.ranks[*member])
            .filter_map(|rank| Some(Last { rank, state: State::Left, since: self.left[rank]?.elapsed() }))
            .filter(|last| waited.min(last.since) >= patience)
            .collect();
        if !gone.is_empty() {
            let call = (*active.begun.call).clone();
            return Err(Trouble::Cause(Cause::Left { rank: self.port.rank, call, missing: gone }.into()));
        }
        while active.running.len() < WINDOW
            && let Some(round) = active.waiting.pop_front()
        {
            active.start(round);
            moved = true;
        }
        for running in 0..active.running.len() {
            moved |= active.advance(&self.port, running, &mut self.spare)?;
        }
        while active.running.front().is_some_and(Running::is_done) {
            active.running.pop_front();
            active.first += 1;
        }
        moved |= retain_unfinished(&self.port, &mut active.control)?;
        Ok(moved)
    }

    /// What the ranks that an operation waits for did last.
    fn report(&self, id: u64) -> Vec<Last> {
        let Some(active) = self.active.iter().find(|active| active.id == id) else { return Vec::new() };
        // Everybody was heard, but data is missing: any of the partners may be the one.
        let everybody =
            exchange::partners(active.begun.call.operation, active.begun.ranks.len(), active.begun.index);
        let members = match (&active.unheard[..], everybody) {
            ([], (hears, _)) if !hears.is_empty() => hears,
            ([], (_, tells)) => tells,
            (unheard, _) => unheard.to_vec(),
        };
        let last = |rank: usize| match self.last_of(rank) {
            Last { state: State::Nothing, .. } => Last { rank, state: State::Unknown, since: Duration::ZERO },
            known => known,
        };
        members.into_iter().map(|member| last(active.begun.ranks[member])).collect()
    }
}

impl Active {
    fn is_done(&self) -> bool {
        self.unheard.is_empty()
            && self.control.is_empty()
            && self.waiting.is_empty()
            && self.running.is_empty()
    }

    /// Announces the operation to a member, with the host bytes.
    fn tell(&mut self, port: &Port, member: usize) -> Result<(), MpiError> {
        let control = Control::Began {
            call: (*self.begun.call).clone(),
            ranks: self.begun.ranks.clone(),
            tag: self.tags_out[member],
            bytes: self.begun.operands.bytes.clone(),
        };
        let buffer = Buffer::Bytes(control.encode());
        self.control.push(port.send(self.begun.ranks[member], CONTROL, buffer)?);
        Ok(())
    }

    /// Takes the announcements of this operation's members.
    fn listen(
        &mut self,
        heard: &mut HashMap<Key, VecDeque<Announced>>,
        rank: usize,
    ) -> Result<bool, Trouble> {
        let before = self.unheard.len();
        let mut trouble = None;
        let (key, begun) = (self.key, &self.begun);
        self.unheard.retain(|member| {
            let other_rank = begun.ranks[*member];
            let key = (key, begun.call.sequence, other_rank);
            let Some(announced) = heard.get_mut(&key).and_then(VecDeque::pop_front) else { return true };
            if heard[&key].is_empty() {
                heard.remove(&key);
            }
            if announced.call != begun.call {
                let (call, other) = ((*begun.call).clone(), (*announced.call).clone());
                trouble = Some(Trouble::Cause(Cause::Mismatch { rank, call, other_rank, other }.into()));
            }
            self.tags_in[*member] = Some(announced.tag);
            self.gathered[*member] = announced.bytes;
            false
        });
        match trouble {
            Some(trouble) => Err(trouble),
            None => Ok(self.unheard.len() < before),
        }
    }

    fn start(&mut self, round: Round) {
        let width = self.width();
        if let Some((from, to)) = &round.copy {
            let (source, destination) =
                (self.pointer(Place::From, from.start), self.pointer(Place::To, to.start));
            // SAFETY: the request was checked: both ranges lie in their views, which are the same memory or
            // apart; no other round or message uses these elements, and the rank does not before its wait.
            unsafe { sums::copy(source, &[destination], from.len() * width) };
        }
        let moves = round.moves.iter().map(|_| Phase::Waits).collect();
        let number = self.first + self.running.len();
        let summed = round.sum.is_none();
        self.running.push_back(Running { number, round, moves, temporaries: HashMap::new(), summed });
    }

    fn width(&self) -> usize {
        self.begun.call.elements.map_or(1, |(_, dtype)| dtype.bytes())
    }

    fn memory(&self, place: Place) -> &triax_tensor::HostMemory {
        let operands = &self.begun.operands;
        let memory = if place == Place::From { &operands.from } else { &operands.to };
        memory.as_ref().expect("a checked request has the operands that its rounds use")
    }

    fn pointer(&self, place: Place, element: usize) -> *mut u8 {
        self.memory(place).pointer().wrapping_add(element * self.width())
    }

    /// Begins and tests the moves of one running round, and sums when it is time.
    fn advance(&mut self, port: &Port, running: usize, spare: &mut Vec<Vec<f32>>) -> Result<bool, Trouble> {
        let mut moved = false;
        let width = self.width();
        for number in 0..self.running[running].moves.len() {
            let state = &self.running[running];
            let m = &state.round.moves[number];
            let (peer, place, direction) = (m.peer, m.place, m.direction);
            match &state.moves[number] {
                Phase::Done => {}
                Phase::Waits => {
                    let ready = match m.after {
                        After::Nothing => true,
                        After::Sum => state.summed,
                        After::Move(other) => matches!(state.moves[other], Phase::Done),
                    };
                    let first = match direction {
                        Direction::Send => Some(self.tags_out[peer]),
                        Direction::Receive => self.tags_in[peer],
                    };
                    let (true, Some(first)) = (ready, first) else { continue };
                    let tag = first + 2 * (state.number % WINDOW) as i32 + m.stage as i32;
                    let buffer = if let Place::Temporary(_) = place {
                        let mut floats = spare.pop().unwrap_or_default();
                        floats.resize(m.elements.len(), 0.0);
                        Buffer::Floats(floats)
                    } else {
                        Buffer::Host {
                            memory: self.memory(place).clone(),
                            offset: m.elements.start * width,
                            bytes: m.elements.len() * width,
                        }
                    };
                    let rank = self.begun.ranks[peer];
                    let request = match direction {
                        Direction::Send => port.send(rank, tag, buffer)?,
                        Direction::Receive => port.receive(rank, tag, buffer)?,
                    };
                    self.running[running].moves[number] = Phase::UnderWay(request);
                    moved = true;
                }
                Phase::UnderWay(_) => {
                    let state = &mut self.running[running];
                    let Phase::UnderWay(request) = &mut state.moves[number] else { continue };
                    let Some(buffer) = port.test(request)? else { continue };
                    if let (Place::Temporary(member), Buffer::Floats(floats)) = (place, buffer) {
                        state.temporaries.insert(member, floats);
                    }
                    state.moves[number] = Phase::Done;
                    moved = true;
                }
            }
        }
        if self.running[running].may_sum() {
            self.sum(running, spare);
            moved = true;
        }
        Ok(moved)
    }

    fn sum(&mut self, running: usize, spare: &mut Vec<Vec<f32>>) {
        let state = &self.running[running];
        let Some(sum) = &state.round.sum else { return };
        let sources: Vec<*const f32> = (0..self.begun.ranks.len())
            .map(|member| match state.temporaries.get(&member) {
                Some(floats) => floats.as_ptr(),
                None => self.pointer(Place::From, sum.from.start).cast_const().cast(),
            })
            .collect();
        let destination: *mut f32 = self.pointer(Place::To, sum.to.start).cast();
        // SAFETY: every other member's temporary has been received whole, with as many floats as my own
        // range; that and the destination lie in the views of a checked request, the same memory or apart,
        // used by no other round or message, and not by the rank before its wait.
        unsafe { sums::sum(&sources, &[destination], sum.from.len()) };
        let state = &mut self.running[running];
        state.summed = true;
        spare.extend(state.temporaries.drain().map(|(_, floats)| floats));
        spare.truncate(64);
    }
}

impl Running {
    fn is_done(&self) -> bool {
        self.summed && self.moves.iter().all(|phase| matches!(phase, Phase::Done))
    }

    /// Whether all parts of the sum are here and it is not made yet.
    fn may_sum(&self) -> bool {
        !self.summed
            && self
                .round
                .moves
                .iter()
                .zip(&self.moves)
                .all(|(m, phase)| !matches!(m.place, Place::Temporary(_)) || matches!(phase, Phase::Done))
    }
}

/// Drops the finished ones; whether there were any.
fn retain_unfinished(port: &Port, requests: &mut Vec<Request>) -> Result<bool, MpiError> {
    let before = requests.len();
    let mut index = 0;
    while index < requests.len() {
        if port.test(&mut requests[index])?.is_some() {
            requests.swap_remove(index);
        } else {
            index += 1;
        }
    }
    Ok(requests.len() < before)
}

fn group_hash(call: &Call, ranks: &[usize]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&call.group, ranks).hash(&mut hasher);
    hasher.finish()
}
