//! When each action of a step ran on a rank, by a clock that all ranks of a process share.
//!
//! ```text
//! stage 0  F0 F1 ·· B0 F2 B1 …     what waits is a receive that takes long
//! stage 1     F0 B0 F1 B1 …
//! ```

use std::time::Instant;
use triax_plan::{Action, Span};

/// The spans of the newest step, in seconds since the clock's start.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock: Instant,
    pub(crate) spans: Vec<Span>,
}

impl Timeline {
    pub(crate) const fn new(clock: Instant) -> Self {
        Self { clock, spans: Vec::new() }
    }

    pub(crate) fn note(&mut self, action: Action, begin: Instant) {
        let since = |time: Instant| time.duration_since(self.clock).as_secs_f64();
        let span = Span { action, start: since(begin), end: since(Instant::now()) };
        self.spans.push(span);
    }
}
