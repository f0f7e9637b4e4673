//! A persistent team of worker threads: fork, work, join, without allocating.
//!
//! The caller is worker 0; the others wait for the next job, spinning a little and then parked. A job is a
//! number of independent items handed out one by one, so a slow core takes fewer of them; since no result
//! depends on who computed an item, results are the same bits for any number of threads.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Rounds of the spin loop before a waiting worker parks: about 50 µs.
const SPINS: u32 = 20_000;

type Job = *const (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Number of the current job; workers wait for it to change.
    epoch: AtomicUsize,
    /// The current job; written by the caller before `epoch` moves, read by workers after.
    job: UnsafeCell<Option<Job>>,
    items: AtomicUsize,
    next: AtomicUsize,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    poisoned: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is written only by the caller while `busy == 0` (no worker reads it), and published to the
// workers by the release store of `epoch`; the job itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only dereferenced while the caller of `run` keeps it alive.
unsafe impl Send for Shared {}

/// See the module's documentation.
pub(crate) struct Team {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `threads`, the caller included.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            items: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let handles: Vec<JoinHandle<()>> = (1..threads.max(1))
            .map(|worker| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("triax-cpu-{worker}"))
                    .spawn(move || work(&shared, worker))
                    .expect("the operating system can start a thread")
            })
            .collect();
        let workers = handles.iter().map(|h| h.thread().clone()).collect();
        Self { shared, workers, handles }
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(worker, item)` once for each item in `0..items`, on all workers; returns when all are done.
    ///
    /// # Panics
    /// When an item panicked on another thread.
    pub(crate) fn run(&mut self, items: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() || items <= 1 {
            (0..items).for_each(|item| job(0, item));
            return;
        }
        let shared = &*self.shared;
        shared.items.store(items, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        // SAFETY: no worker is in a job (`busy` was 0 when the last `run` returned, and `&mut self` keeps
        // others out). The lifetime is erased, but `run` returns only after every worker has left the job.
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), Job>(job));
        }
        shared.epoch.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(Thread::unpark);
        // The guard waits for the workers even when `job` panics here, so that they never outlive it.
        let wait = WaitForWorkers(shared);
        take_items(shared, 0, job);
        drop(wait);
        assert!(!shared.poisoned.load(Ordering::Relaxed), "a worker thread panicked");
    }

    /// Splits `len` rows into about `4 · threads` ranges of at least `least` rows and calls `job(range)` for each.
    pub(crate) fn ranges(&mut self, len: usize, least: usize, job: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let parts = (len / least.max(1)).clamp(1, 4 * self.threads());
        self.run(parts, &|_, i| job(crate::shard_range(len, parts, i)));
    }
}

struct WaitForWorkers<'a>(&'a Shared);

impl Drop for WaitForWorkers<'_> {
    fn drop(&mut self) {
        let mut spins = 0u32;
        while self.0.busy.load(Ordering::Acquire) != 0 {
            spins = spins.wrapping_add(1);
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

fn take_items(shared: &Shared, worker: usize, job: &(dyn Fn(usize, usize) + Sync)) {
    let items = shared.items.load(Ordering::Relaxed);
    loop {
        let item = shared.next.fetch_add(1, Ordering::Relaxed);
        if item >= items {
            return;
        }
        job(worker, item);
    }
}

fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0u32;
        loop {
            let epoch = shared.epoch.load(Ordering::Acquire);
            if epoch != seen {
                seen = epoch;
                break;
            }
            spins = spins.wrapping_add(1);
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::park() }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the caller wrote the job before the epoch we have just seen, and keeps it alive until
        // `busy` reaches 0, which this worker lets happen only below.
        let job = unsafe { (*shared.job.get()).map(|job| &*job) };
        if let Some(job) = job {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                take_items(shared, worker, job);
            }));
            if result.is_err() {
                shared.poisoned.store(true, Ordering::Relaxed);
            }
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(Thread::unpark);
        for handle in self.handles.drain(..) {
            // A worker's panic was already reported by `run`.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_runs_exactly_once() {
        for threads in 1..5 {
            let mut team = Team::new(threads);
            for items in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
                team.run(items, &|worker, item| {
                    assert!(worker < threads);
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panicking_item_reaches_the_caller() {
        let mut team = Team::new(2);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(8, &|_, item| assert!(item != 3, "item 3"));
        }));
        assert!(result.is_err());
    }
}
