//! What one server takes on; beyond it, requests are refused with the status that says so.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a request's body (413).
    pub body: usize,
    /// For the header, and again for the body, to arrive (408).
    pub arrival: Duration,
    /// For a whole request, its waiting included (504).
    pub request: Duration,
    /// Texts that may wait beside those that run (429).
    pub queue: usize,
    /// Open connections; further ones wait to be accepted.
    pub connections: usize,
    /// After the signal to stop, for requests under way to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 16 << 20,
            arrival: Duration::from_secs(20),
            request: Duration::from_secs(600),
            queue: 256,
            connections: 1024,
            drain: Duration::from_secs(30),
        }
    }
}
