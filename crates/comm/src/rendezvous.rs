//! Where the members of an operation meet: each brings its part, the last one to come seals the meeting,
//! and the work, cut into tasks, is done by whoever waits.
//!
//! ```text
//! gathering ──last arrival──▶ sealed ──last task finished──▶ done
//! ```
//!
//! Work needs nobody's presence but a waiter's: a member that computes on after arriving holds nobody up.
//! A member that gives up calls [`Meeting::cancel`], after which nobody touches what it brought.

use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, yield_now};
use std::time::{Duration, Instant};

/// What is to be done once all are there.
pub(crate) trait Work: Send + Sync {
    fn tasks(&self) -> usize;
    /// Called once for each task, by any member's thread, several at a time.
    fn run(&self, task: usize);
}

pub(crate) struct Meeting<M, W> {
    state: Mutex<State<M, W>>,
    /// Signalled when the stage changes, and by [`Meeting::wake`].
    changed: Condvar,
    /// One of the stages; a copy for those who spin.
    stage: AtomicUsize,
    /// The next task to be taken.
    next: AtomicUsize,
    finished: AtomicUsize,
    /// Twice the number of threads at work, plus one when the meeting is cancelled.
    workers: AtomicUsize,
}

const GATHERING: usize = 0;
const SEALED: usize = 1;
const DONE: usize = 2;

const CANCELLED: usize = 1;
const WORKER: usize = 2;

struct State<M, W> {
    members: Vec<Option<M>>,
    missing: usize,
    work: Option<Arc<W>>,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// `interrupted` said so.
    Interrupted,
    TimedOut,
}

impl<M, W: Work> Meeting<M, W> {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            state: Mutex::new(State {
                members: (0..members).map(|_| None).collect(),
                missing: members,
                work: None,
            }),
            changed: Condvar::new(),
            stage: AtomicUsize::new(GATHERING),
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
        }
    }

    /// Brings a member's part. The last one makes the work of all parts; true when that was this call.
    ///
    /// # Panics
    /// When the member is there already.
    pub(crate) fn arrive(&self, index: usize, part: M, make_work: impl FnOnce(Vec<M>) -> W) -> bool {
        let mut state = self.lock();
        let seat = &mut state.members[index];
        assert!(seat.is_none(), "member {index} came twice");
        *seat = Some(part);
        state.missing -= 1;
        if state.missing > 0 {
            return false;
        }
        let work = make_work(state.members.drain(..).flatten().collect());
        let tasks = work.tasks();
        state.work = Some(Arc::new(work));
        // Release: whoever sees the stage sees the parts.
        self.stage.store(if tasks == 0 { DONE } else { SEALED }, Ordering::Release);
        drop(state);
        if tasks == 1 {
            // Sooner done than shared: sleepers wake to find it finished.
            self.help();
        } else {
            self.changed.notify_all();
        }
        true
    }

    /// Members that have not come.
    pub(crate) fn missing(&self) -> Vec<usize> {
        missing(&self.lock().members)
    }

    /// What was made of the parts; `None` before all are there.
    pub(crate) fn work(&self) -> Option<Arc<W>> {
        self.lock().work.clone()
    }

    /// Does tasks until none is left to take; others may still be busy with theirs then.
    pub(crate) fn help(&self) {
        let Some(work) = self.work() else { return };
        let tasks = work.tasks();
        if self.next.load(Ordering::Relaxed) >= tasks {
            return;
        }
        // Counted in before the flag is read, in one step: either `cancel` sees this worker, or this worker
        // sees the cancellation.
        let mut flag = self.workers.fetch_add(WORKER, Ordering::AcqRel);
        while flag & CANCELLED == 0 {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            work.run(task);
            // AcqRel: the last one has seen the writes of all, and passes them on with the stage.
            if self.finished.fetch_add(1, Ordering::AcqRel) + 1 == tasks {
                let state = self.lock();
                self.stage.store(DONE, Ordering::Release);
                drop(state);
                self.changed.notify_all();
            }
            flag = self.workers.load(Ordering::Relaxed);
        }
        self.workers.fetch_sub(WORKER, Ordering::Release);
    }

    /// Works and waits until all is done: `spins` rounds of polling, then asleep until `deadline`.
    /// `interrupted` is asked whenever something changed; it gets the missing members.
    pub(crate) fn wait(
        &self,
        spins: u32,
        deadline: Instant,
        mut interrupted: impl FnMut(&[usize]) -> bool,
    ) -> Outcome {
        let mut spins_left = spins;
        let mut helped = false;
        loop {
            match self.stage.load(Ordering::Acquire) {
                DONE => return Outcome::Done,
                SEALED if !helped => {
                    self.help();
                    helped = true;
                    continue;
                }
                _ => {}
            }
            if spins_left > 0 {
                spins_left -= 1;
                std::hint::spin_loop();
                continue;
            }
            let state = self.lock();
            let stage = self.stage.load(Ordering::Relaxed);
            if stage == DONE || (stage == SEALED && !helped) {
                continue;
            }
            if interrupted(&missing(&state.members)) {
                return Outcome::Interrupted;
            }
            let now = Instant::now();
            if now >= deadline {
                return Outcome::TimedOut;
            }
            self.sleep(state, deadline - now);
        }
    }

    /// Makes sleepers ask `interrupted` again.
    pub(crate) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// From the return of this call on nobody touches what the members brought.
    pub(crate) fn cancel(&self) {
        self.workers.fetch_or(CANCELLED, Ordering::AcqRel);
        while self.workers.load(Ordering::Acquire) >= WORKER {
            yield_now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M, W>> {
        // Nothing panics between changes of the state that belong together.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn sleep(&self, state: MutexGuard<'_, State<M, W>>, longest: Duration) {
        drop(self.changed.wait_timeout(state, longest));
    }
}

fn missing<M>(members: &[Option<M>]) -> Vec<usize> {
    members.iter().enumerate().filter(|(_, member)| member.is_none()).map(|(index, _)| index).collect()
}

#[cfg(all(test, loom))]
mod explored;
