//! What the core needs of a network: passes over new tokens of many sequences, with paged memory.

/// How large a network and its memory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Ids are below this.
    pub vocab: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    /// Tokens of a block of keys and values.
    pub block: usize,
    /// Blocks in all; at least enough for one sequence of `context` tokens.
    pub blocks: usize,
    /// Most tokens of all parts of a pass.
    pub rows: usize,
    /// Most parts of a pass.
    pub sequences: usize,
    /// A prompt's tokens see each other in both directions: it comes in one part and shares no blocks.
    pub prefix_mask: bool,
}

impl Shape {
    /// Blocks that hold `tokens` tokens.
    pub(crate) const fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block)
    }
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub tokens: &'a [u32],
    /// Tokens of the sequence whose keys and values are in memory already.
    pub past: usize,
    /// `blocks[b]` holds positions `b · block .. (b + 1) · block`; enough for `past` and `tokens`.
    pub blocks: &'a [u32],
    /// How many of the last tokens want logits.
    pub logits: usize,
}

/// A network with memory for many sequences. A row's logits depend on its sequence's tokens alone: not on how
/// they were cut into parts, on other parts, or on the numbers of its blocks.
pub trait Network: Send {
    fn shape(&self) -> Shape;

    /// One pass over all parts; keys and values of the new tokens go to their blocks. `each` sees the number of
    /// every wanted row (counted from 0, in the order of parts and tokens) and its `[vocab]` logits.
    fn step(&mut self, parts: &[Part<'_>], each: &mut dyn FnMut(usize, &[f32]));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Network, Part, Shape};
    use triax_tensor::philox::Stream;

    /// Its logits are a hash of all tokens it finds in the blocks, so a wrong or overwritten block shows.
    pub(crate) struct Hashing {
        pub(crate) shape: Shape,
        memory: Vec<u32>,
        /// Rows computed so far.
        pub(crate) rows: usize,
    }

    pub(crate) const SHAPE: Shape =
        Shape { vocab: 11, context: 24, block: 4, blocks: 6, rows: 9, sequences: 3, prefix_mask: false };

    impl Hashing {
        pub(crate) fn new(shape: Shape) -> Self {
            Self { shape, memory: vec![u32::MAX; shape.blocks * shape.block], rows: 0 }
        }

        /// Logits behind `text`.
        pub(crate) fn logits(vocab: usize, text: &[u32]) -> Vec<f32> {
            let hash = text.iter().fold(7, |h: u64, &t| (h ^ u64::from(t)).wrapping_mul(0x100_0000_01b3));
            let stream = Stream::named(hash, "logits");
            (0..vocab as u64).map(|id| stream.word(id) as f32 / 2f32.powi(30)).collect()
        }
    }

    impl Network for Hashing {
        fn shape(&self) -> Shape {
            self.shape
        }

        fn step(&mut self, parts: &[Part<'_>], each: &mut dyn FnMut(usize, &[f32])) {
            let block = self.shape.block;
            assert!(!parts.is_empty() && parts.len() <= self.shape.sequences);
            assert!(parts.iter().map(|part| part.tokens.len()).sum::<usize>() <= self.shape.rows);
            let place = |part: &Part<'_>, i: usize| part.blocks[i / block] as usize * block + i % block;
            for part in parts {
                assert!(!part.tokens.is_empty() && part.logits <= part.tokens.len());
                for (i, &token) in part.tokens.iter().enumerate() {
                    self.memory[place(part, part.past + i)] = token;
                }
                self.rows += part.tokens.len();
            }
            let mut row = 0;
            for part in parts {
                let end = part.past + part.tokens.len();
                let seen: Vec<u32> = (0..end).map(|i| self.memory[place(part, i)]).collect();
                for last in end - part.logits..end {
                    each(row, &Self::logits(self.shape.vocab, &seen[..=last]));
                    row += 1;
                }
            }
        }
    }
}
