//! Which ranks' processes live on this machine, and whether they still do. Each rank watches the next one on
//! its machine, in a ring, so that a death is found at once, by one rank, without a message.
//!
//! ```text
//! machine a:  0 ─▶ 1 ─▶ 4 ─▶ 5 ─▶ 0        machine b:  2 ─▶ 3 ─▶ 2
//! ```

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};

/// A process as those on its machine can find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Names the machine, its present boot and its space of process numbers; 0 where that is unknown.
    machine: u64,
    id: u64,
    /// In clock ticks since the boot: a number that is used again has another.
    started: u64,
}

impl Process {
    pub(super) fn mine() -> Self {
        let id = u64::from(std::process::id());
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let space = fs::read_link("/proc/self/ns/pid");
        match (boot, space, status(id)) {
            (Ok(boot), Ok(space), Some(Status { started, .. })) => {
                let mut hasher = DefaultHasher::new();
                (boot, space).hash(&mut hasher);
                Self { machine: hasher.finish().max(1), id, started }
            }
            // Not Linux, or no /proc: nobody is watched.
            _ => Self { machine: 0, id, started: 0 },
        }
    }

    pub(super) const fn to_words(self) -> [u64; 3] {
        [self.machine, self.id, self.started]
    }

    pub(super) const fn from_words([machine, id, started]: [u64; 3]) -> Self {
        Self { machine, id, started }
    }

    fn is_dead(self) -> bool {
        match status(self.id) {
            Some(status) => status.ended || status.started != self.started,
            None => true,
        }
    }
}

/// The ranks of one machine's processes.
pub(super) struct Neighbours {
    /// In their order, without me, beginning with the next.
    ring: Vec<(usize, Process)>,
}

impl Neighbours {
    pub(super) fn new(processes: &[Process], rank: usize) -> Self {
        let machine = processes[rank].machine;
        let others = (rank + 1..processes.len()).chain(0..rank);
        let ring = others.map(|other| (other, processes[other]));
        Self { ring: ring.filter(|(_, process)| machine != 0 && process.machine == machine).collect() }
    }

    /// Nobody while the next rank that `stays` lives; otherwise all here that should but do not.
    pub(super) fn dead(&self, stays: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut staying = self.ring.iter().filter(|(rank, _)| stays(*rank));
        match staying.next() {
            Some((next, process)) if process.is_dead() => {
                let others = staying.filter(|(_, process)| process.is_dead()).map(|(rank, _)| *rank);
                std::iter::once(*next).chain(others).collect()
            }
            _ => Vec::new(),
        }
    }
}

struct Status {
    started: u64,
    /// Gone, but for its parent's asking how.
    ended: bool,
}

fn status(id: u64) -> Option<Status> {
    parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// `number (name) state …`; the name may hold anything. The start is the 22nd field.
fn parse(text: &str) -> Option<Status> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Status { started: fields.nth(18)?.parse().ok()?, ended })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_status_is_read_whatever_the_program_is_called() {
        let text = "17 (a) Z (b) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99";
        let status = parse(text).unwrap();
        assert_eq!((status.started, status.ended), (4711, false));
        assert!(parse(&text.replace(") S", ") Z")).unwrap().ended);
        assert!(parse("17 (a) S 1").is_none());
    }

    #[test]
    fn the_next_rank_s_death_is_found_and_with_it_the_others() {
        let mut children: Vec<_> =
            (0..3).map(|_| Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()).collect();
        let process = |id: u64| Process { id, started: status(id).unwrap().started, ..Process::mine() };
        let mut all = vec![Process::mine()];
        all.extend(children.iter().map(|child| process(u64::from(child.id()))));
        let elsewhere = Process { machine: 1, ..all[0] };
        all.insert(2, elsewhere);
        let mine = Neighbours::new(&all, 0);
        assert!(mine.dead(|_| true).is_empty());
        // Rank 1 lives, so its neighbour is its own to watch; a dead one is known before its parent has asked.
        children[2].kill().unwrap();
        assert!(mine.dead(|_| true).is_empty());
        children[0].kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while mine.dead(|_| true) != [1, 4] {
            assert!(std::time::Instant::now() < deadline, "{:?}", mine.dead(|_| true));
        }
        // Whoever has left may be gone; then the one behind is watched.
        assert!(mine.dead(|rank| rank != 1).is_empty());
        assert_eq!(mine.dead(|rank| ![1, 3].contains(&rank)), [4]);
        for mut child in children {
            let _ = child.kill();
            child.wait().unwrap();
        }
        assert_eq!(mine.dead(|_| true), [1, 3, 4]);
        assert!(Neighbours::new(&all, 2).dead(|_| true).is_empty());
    }
}
