//! All orders in which threads can meet, explored by loom: no data race, no lost wake-up (loom reports a
//! thread that sleeps for ever), no touch after a cancellation. Built with `--cfg loom` only.
//!
//! Orders of two members that share work have at most four preemptions, of three members two: each more takes ten times
//! as long, and all orders of two members and two tasks more than the five minutes they were given.

use super::*;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::thread;

/// A member's two words, one for each task.
struct Words([UnsafeCell<u32>; 2]);

// SAFETY: loom checks every access to the cells.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn new(value: u32) -> Arc<Self> {
        Arc::new(Self([UnsafeCell::new(value), UnsafeCell::new(value)]))
    }

    fn get(&self, word: usize) -> u32 {
        // SAFETY: loom reports a race, if there is one.
        self.0[word].with(|value| unsafe { *value })
    }

    fn set(&self, word: usize, to: u32) {
        // SAFETY: as above.
        self.0[word].with_mut(|value| unsafe { *value = to });
    }
}

/// An all-reduce of `tasks` words.
struct Sums {
    members: Vec<Arc<Words>>,
    tasks: usize,
}

impl Work for Sums {
    fn tasks(&self) -> usize {
        self.tasks
    }

    fn run(&self, task: usize) {
        let sum = self.members.iter().map(|words| words.get(task)).sum();
        self.members.iter().for_each(|words| words.set(task, sum));
    }
}

type SumMeeting = Meeting<Arc<Words>, Sums>;

fn arrive(meeting: &SumMeeting, index: usize, tasks: usize) -> Arc<Words> {
    let words = Words::new(1 << index);
    meeting.arrive(index, Arc::clone(&words), |members| Sums { members, tasks });
    words
}

fn wait(meeting: &SumMeeting) -> Outcome {
    meeting.wait(0, Instant::now() + Duration::from_secs(3600), |_| false)
}

fn all_meet(members: usize, tasks: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(4);
    model.check(move || {
        let meeting = Arc::new(SumMeeting::new(members));
        let rank = move |meeting: &SumMeeting, index: usize| {
            let words = arrive(meeting, index, tasks);
            assert_eq!(wait(meeting), Outcome::Done);
            // The rank has its memory back: it reads the result and writes anew.
            for task in 0..tasks {
                assert_eq!(words.get(task), (1 << members) - 1);
                words.set(task, 0);
            }
        };
        let others: Vec<_> = (1..members)
            .map(|index| {
                let meeting = Arc::clone(&meeting);
                thread::spawn(move || rank(&meeting, index))
            })
            .collect();
        rank(&meeting, 0);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn two_members_share_two_tasks() {
    all_meet(2, 2);
}

#[test]
fn two_members_share_one_task_or_none() {
    all_meet(2, 1);
    all_meet(2, 0);
}

#[test]
fn three_members_share_a_task() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let meeting = Arc::new(SumMeeting::new(3));
        let others: Vec<_> = [1, 2]
            .map(|index| {
                let meeting = Arc::clone(&meeting);
                thread::spawn(move || {
                    let words = arrive(&meeting, index, 1);
                    assert_eq!(wait(&meeting), Outcome::Done);
                    assert_eq!(words.get(0), 7);
                })
            })
            .into();
        let words = arrive(&meeting, 0, 1);
        assert_eq!(wait(&meeting), Outcome::Done);
        assert_eq!(words.get(0), 7);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[test]
fn nobody_touches_a_member_s_memory_after_it_cancelled() {
    loom::model(|| {
        let meeting = Arc::new(SumMeeting::new(2));
        let other = {
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || {
                arrive(&meeting, 1, 2);
                meeting.help();
            })
        };
        let words = arrive(&meeting, 0, 2);
        meeting.cancel();
        words.set(0, 9);
        words.set(1, 9);
        assert_eq!((words.get(0), words.get(1)), (9, 9));
        other.join().unwrap();
    });
}

#[test]
fn a_sleeper_hears_that_the_world_is_broken() {
    loom::model(|| {
        let meeting = Arc::new(SumMeeting::new(2));
        let broken = Arc::new(AtomicBool::new(false));
        let breaker = {
            let (meeting, broken) = (Arc::clone(&meeting), Arc::clone(&broken));
            thread::spawn(move || {
                broken.store(true, Ordering::Release);
                meeting.wake();
            })
        };
        arrive(&meeting, 0, 1);
        let forever = Instant::now() + Duration::from_secs(3600);
        let outcome = meeting.wait(0, forever, |missing| missing == [1] && broken.load(Ordering::Acquire));
        assert_eq!(outcome, Outcome::Interrupted);
        breaker.join().unwrap();
    });
}
