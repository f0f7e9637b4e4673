//! What generation needs of a network: feed tokens, get the logits behind the last one.

use triax_model::Session;

/// An autoregressive network with the memory (key/value cache) of one sequence.
pub trait Decode {
    /// Ids are below this.
    fn vocabulary(&self) -> usize;

    /// Most tokens one sequence can hold.
    fn capacity(&self) -> usize;

    /// Forgets the sequence.
    fn clear(&mut self);

    /// Appends `tokens` (at least one) to the sequence; returns the `vocabulary()` logits of the token that
    /// follows the last of them.
    fn feed(&mut self, tokens: &[u32]) -> &[f32];
}

impl Decode for Session {
    fn vocabulary(&self) -> usize {
        self.model().vocab
    }

    fn capacity(&self) -> usize {
        Self::capacity(self)
    }

    fn clear(&mut self) {
        self.truncate(0);
    }

    fn feed(&mut self, tokens: &[u32]) -> &[f32] {
        Self::feed(self, tokens)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Decode;

    /// Prefers `(last + 1) % vocabulary`, by a margin of 4 nats over its other neighbour.
    pub(crate) struct Counting {
        pub(crate) vocabulary: usize,
        pub(crate) capacity: usize,
        pub(crate) fed: Vec<u32>,
        logits: Vec<f32>,
    }

    impl Counting {
        pub(crate) fn new(vocabulary: usize, capacity: usize) -> Self {
            Self { vocabulary, capacity, fed: Vec::new(), logits: vec![0.0; vocabulary] }
        }
    }

    impl Decode for Counting {
        fn vocabulary(&self) -> usize {
            self.vocabulary
        }

        fn capacity(&self) -> usize {
            self.capacity
        }

        fn clear(&mut self) {
            self.fed.clear();
        }

        fn feed(&mut self, tokens: &[u32]) -> &[f32] {
            self.fed.extend_from_slice(tokens);
            assert!(self.fed.len() <= self.capacity);
            let next = (*tokens.last().unwrap() as usize + 1) % self.vocabulary;
            self.logits.fill(0.0);
            self.logits[next] = 4.0;
            &self.logits
        }
    }
}
