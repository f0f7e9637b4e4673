//! The paged memory's bookkeeping: which block is free, who shares it, and what a full one holds.
//!
//! ```text
//!  free ──take──▶ held by 1 … n sequences ──release──▶ idle, if its content has a name   ──▶ found again
//!   ▲                                        └──▶ free, if not                └── longest idle: taken
//!   └───────────────────────────────────────────────┘
//! ```
//! A full block's name is the hash of its tokens and of the name of the block before it, so equal names mean
//! equal texts from the first token on.

use std::collections::{BTreeMap, HashMap};

/// Of a block's content and everything before it.
pub(crate) type Name = [u8; 32];

/// The name of a block of `tokens` behind the block `before` (none: the first of its text).
pub(crate) fn name(before: Option<&Name>, tokens: &[u32]) -> Name {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before.map_or(&[][..], |name| name));
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    name: Option<Name>,
    /// When it became idle.
    idle_since: u64,
}

#[derive(Debug)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Without holders but with a name, by the time they became so.
    idle: BTreeMap<u64, u32>,
    named: HashMap<Name, u32>,
    clock: u64,
}

impl Blocks {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            blocks: (0..count).map(|_| Block::default()).collect(),
            free: (0..count as u32).rev().collect(),
            idle: BTreeMap::new(),
            named: HashMap::new(),
            clock: 0,
        }
    }

    /// Blocks that [`Blocks::take`] can give.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks held by sequences.
    pub(crate) fn held(&self) -> usize {
        self.blocks.len() - self.available()
    }

    /// A block for new content, held once; the longest idle one is forgotten if need be.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let number = self.free.pop().or_else(|| {
            let (_, number) = self.idle.pop_first()?;
            let name = self.blocks[number as usize].name.take().expect("idle blocks have names");
            self.named.remove(&name);
            Some(number)
        })?;
        self.blocks[number as usize].holders = 1;
        Some(number)
    }

    /// The block of this name, held once more.
    pub(crate) fn find(&mut self, name: &Name) -> Option<u32> {
        let &number = self.named.get(name)?;
        let block = &mut self.blocks[number as usize];
        if block.holders == 0 {
            self.idle.remove(&block.idle_since);
        }
        block.holders += 1;
        Some(number)
    }

    /// The block is full; others may find it by `name`. Of two blocks with one content the first keeps the name.
    pub(crate) fn publish(&mut self, number: u32, name: Name) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.named.entry(name) {
            entry.insert(number);
            self.blocks[number as usize].name = Some(name);
        }
    }

    /// Gives up one hold on each of a text's blocks. Its last block is forgotten first: without the ones
    /// before it, it could not be found again.
    pub(crate) fn release(&mut self, numbers: &mut Vec<u32>) {
        for number in numbers.drain(..).rev() {
            let block = &mut self.blocks[number as usize];
            block.holders -= 1;
            if block.holders > 0 {
                continue;
            }
            if block.name.is_some() {
                self.clock += 1;
                block.idle_since = self.clock;
                self.idle.insert(self.clock, number);
            } else {
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_block_is_found_by_its_name_until_it_is_needed() {
        let mut blocks = Blocks::new(2);
        let first = name(None, &[1, 2]);
        let number = blocks.take().unwrap();
        blocks.publish(number, first);
        blocks.release(&mut vec![number]);
        assert_eq!((blocks.available(), blocks.held()), (2, 0));
        assert_eq!(blocks.find(&first), Some(number));
        assert_eq!(blocks.held(), 1);
        blocks.release(&mut vec![number]);
        let taken = [blocks.take(), blocks.take()];
        assert!(taken.iter().all(Option::is_some));
        assert_eq!((blocks.find(&first), blocks.take()), (None, None));
    }

    #[test]
    fn the_end_of_a_text_is_forgotten_before_its_begin() {
        let mut blocks = Blocks::new(2);
        let first = name(None, &[1]);
        let second = name(Some(&first), &[2]);
        let mut text = vec![blocks.take().unwrap(), blocks.take().unwrap()];
        blocks.publish(text[0], first);
        blocks.publish(text[1], second);
        blocks.release(&mut text);
        blocks.take().unwrap();
        assert!(blocks.find(&second).is_none() && blocks.find(&first).is_some());
    }

    #[test]
    fn a_shared_block_is_held_until_its_last_holder_leaves() {
        let mut blocks = Blocks::new(1);
        let number = blocks.take().unwrap();
        blocks.publish(number, name(None, &[5]));
        assert_eq!(blocks.find(&name(None, &[5])), Some(number));
        blocks.release(&mut vec![number]);
        assert_eq!((blocks.held(), blocks.take()), (1, None));
        blocks.release(&mut vec![number]);
        assert_eq!(blocks.held(), 0);
    }

    #[test]
    fn names_tell_texts_apart_by_everything_before() {
        assert_ne!(name(None, &[1, 2]), name(Some(&name(None, &[1])), &[2]));
        assert_ne!(name(Some(&name(None, &[1])), &[2]), name(Some(&name(None, &[3])), &[2]));
    }
}
