//! Values on their way to the checkpoint writer: pieces of a bounded pool that go round.
//!
//! ```text
//!            full pieces, in order
//! training ────────────────────────▶ writer
//!          ◀────────────────────────
//!            empty pieces
//! ```
//! The pool holds a third of what is saved: as much as the weights. What does not fit waits until the writer has
//! written as much, and training stands still meanwhile.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Elements of a piece of a large save.
const PIECE: usize = 1 << 20;

/// Pieces of the pool for a save of `elements`, and elements of a piece.
pub(super) const fn pool(elements: usize) -> (usize, usize) {
    if elements <= 2 * PIECE {
        return (1, if elements == 0 { 1 } else { elements });
    }
    let pieces = elements.div_ceil(3).div_ceil(PIECE);
    (if pieces < 2 { 2 } else { pieces }, PIECE)
}

/// Training's end.
pub(super) struct Giver {
    full: Sender<Vec<f32>>,
    empty: Receiver<Vec<f32>>,
}

/// The writer's end.
pub(super) struct Taker {
    full: Receiver<Vec<f32>>,
    empty: Sender<Vec<f32>>,
    piece: Vec<f32>,
    used: usize,
}

pub(super) fn stream() -> (Giver, Taker) {
    let (full, taken) = channel();
    let (returned, empty) = channel();
    (Giver { full, empty }, Taker { full: taken, empty: returned, piece: Vec::new(), used: 0 })
}

impl Giver {
    /// An empty piece, as soon as there is one; none when the writer has given up.
    pub(super) fn empty(&self) -> Option<Vec<f32>> {
        self.empty.recv().ok()
    }

    /// False when the writer has given up.
    pub(super) fn give(&self, piece: Vec<f32>) -> bool {
        self.full.send(piece).is_ok()
    }
}

impl Taker {
    /// The next elements, at least one and at most `most`.
    pub(super) fn next(&mut self, most: usize) -> io::Result<&[f32]> {
        while self.used == self.piece.len() {
            let next = self.full.recv();
            let next = next.map_err(|_| io::Error::other("the values to write ended too early"))?;
            let mut written = std::mem::replace(&mut self.piece, next);
            self.used = 0;
            written.clear();
            // The first time there is none yet; and training has gone on when it needs no more room.
            if written.capacity() > 0 {
                let _ = self.empty.send(written);
            }
        }
        let start = self.used;
        self.used = self.piece.len().min(start + most);
        Ok(&self.piece[start..self.used])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_a_third_but_never_more_than_all() {
        assert_eq!(pool(10), (1, 10));
        assert_eq!(pool(3 * PIECE), (2, PIECE));
        assert_eq!(pool(30 * PIECE), (10, PIECE));
    }

    #[test]
    fn elements_come_in_order_whatever_is_asked_for() {
        let (giver, mut taker) = stream();
        let writer = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for most in (1..4).cycle() {
                match taker.next(most) {
                    Ok(values) => seen.extend_from_slice(values),
                    Err(error) => return (seen, error.to_string()),
                }
            }
            unreachable!("the cycle does not end")
        });
        for piece in [vec![0.0, 1.0, 2.0], vec![], vec![3.0], vec![4.0; 6]] {
            assert!(giver.give(piece));
        }
        assert!(giver.empty().is_some());
        drop(giver);
        let (seen, error) = writer.join().unwrap();
        assert_eq!(seen, [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
        assert!(error.contains("ended too early"));
    }
}
