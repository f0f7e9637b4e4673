//! Counting what is said twice, by hashes: which lines, which n-grams, how often. One open-addressing table of 64-bit
//! hashes serves them all; it is emptied by moving to the next generation, never by clearing.

use super::text::Word;

/// A table from hash to (first place, count), and the rolling hashes of n-grams.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    slots: Vec<Slot>,
    mask: usize,
    generation: u32,
    grams: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u64,
    generation: u32,
    /// Index of the first item with this hash.
    first: u32,
    count: u32,
}

/// Items that were there before, and their characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Duplicates {
    pub(crate) items: usize,
    pub(crate) duplicated: usize,
    pub(crate) characters: usize,
}

/// Odd, with its bits spread: an n-gram's hash is a polynomial in it, so that the order of words counts.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl Repeats {
    /// Empties the table and makes room for so many items.
    fn begin(&mut self, items: usize) {
        let wanted = (2 * items).next_power_of_two().max(64);
        if self.slots.len() < wanted {
            self.slots = vec![Slot::default(); wanted];
            self.generation = 0;
        }
        self.mask = wanted - 1;
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.slots.fill(Slot::default());
            self.generation = 1;
        }
    }

    /// Counts an item: how often it has been seen with this one, and where first.
    fn count(&mut self, hash: u64, place: u32) -> (u32, u32) {
        // The upper half of the product depends on every bit.
        let mut at = (hash.wrapping_mul(FACTOR) >> 32) as usize & self.mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.generation != self.generation {
                *slot = Slot { hash, generation: self.generation, first: place, count: 1 };
                return (1, place);
            }
            if slot.hash == hash {
                slot.count += 1;
                return (slot.count, slot.first);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// How many of the items (hash, characters) were there before. The first copy is no duplicate.
    pub(crate) fn duplicates(&mut self, items: impl Iterator<Item = (u64, usize)> + Clone) -> Duplicates {
        self.begin(items.clone().count());
        let mut found = Duplicates::default();
        for (hash, characters) in items {
            found.items += 1;
            if self.count(hash, 0).0 > 1 {
                found.duplicated += 1;
                found.characters += characters;
            }
        }
        found
    }

    /// `grams[i]` becomes the hash of words i..i+n, made from that of n - 1 words; `n` begins at 1 and grows by 1.
    fn grow(&mut self, words: &[Word], n: usize) {
        if n == 1 {
            self.grams.clear();
            self.grams.extend(words.iter().map(|word| word.hash));
            return;
        }
        self.grams.truncate((words.len() + 1).saturating_sub(n));
        for (gram, last) in self.grams.iter_mut().zip(&words[(n - 1).min(words.len())..]) {
            *gram = gram.wrapping_mul(FACTOR).wrapping_add(last.hash);
        }
    }

    /// Calls `judge(n, share)` for the n-grams of each length asked for (rising) until it says stop.
    /// `characters` is the denominator of every share.
    pub(crate) fn over_grams<L: Copy, R>(
        &mut self,
        words: &[Word],
        lengths: &[(usize, L)],
        mut judge: impl FnMut(&mut Self, usize, L) -> Option<R>,
    ) -> Option<R> {
        let mut n = 0;
        for &(length, limit) in lengths {
            while n < length {
                n += 1;
                self.grow(words, n);
            }
            if let Some(found) = judge(self, length, limit) {
                return Some(found);
            }
        }
        None
    }

    /// Characters of the most frequent n-gram's copies, its words joined by spaces; the earliest of equals.
    pub(crate) fn top_gram(&mut self, words: &[Word], n: usize) -> usize {
        self.begin(self.grams.len());
        let (mut most, mut first) = (0, 0);
        for place in 0..self.grams.len() {
            let (count, earliest) = self.count(self.grams[place], place as u32);
            if count > most || (count == most && earliest < first) {
                (most, first) = (count, earliest);
            }
        }
        if most == 0 {
            return 0;
        }
        let gram = &words[first as usize..first as usize + n];
        let characters: usize = gram.iter().map(|word| word.characters as usize).sum::<usize>() + n - 1;
        characters * most as usize
    }

    /// Characters in n-grams that were there before; after such a one, its n words are passed over.
    pub(crate) fn repeated_grams(&mut self, words: &[Word], n: usize) -> usize {
        self.begin(self.grams.len());
        let (mut place, mut characters) = (0, 0);
        while place < self.grams.len() {
            if self.count(self.grams[place], 0).0 > 1 {
                characters +=
                    words[place..place + n].iter().map(|word| word.characters as usize).sum::<usize>();
                place += n;
            } else {
                place += 1;
            }
        }
        characters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::text::Analysis;
    use crate::filters::words::Language;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn shares(text: &str, n: usize) -> (usize, usize) {
        let mut analysis = Analysis::default();
        analysis.segment(text, Language::English);
        let words = &analysis.words;
        Repeats::default()
            .over_grams(words, &[(n, ())], |repeats, n, ()| {
                Some((repeats.top_gram(words, n), repeats.repeated_grams(words, n)))
            })
            .expect("one length")
    }

    /// The rules as they are written down, on strings.
    fn plain(text: &str, n: usize) -> (usize, usize) {
        let words: Vec<_> = text.split_whitespace().collect();
        let mut counts: HashMap<&[&str], (usize, usize)> = HashMap::new();
        for (place, gram) in words.windows(n).enumerate() {
            counts.entry(gram).or_insert((0, place)).0 += 1;
        }
        let top = counts.iter().max_by_key(|(_, (count, place))| (*count, usize::MAX - place));
        let top = top.map_or(0, |(gram, (count, _))| gram.join(" ").len() * count);
        let (mut seen, mut place, mut repeated) = (HashSet::new(), 0, 0);
        while place + n <= words.len() {
            let gram = &words[place..place + n];
            if seen.insert(gram) {
                place += 1;
            } else {
                repeated += gram.concat().len();
                place += n;
            }
        }
        (top, repeated)
    }

    proptest! {
        #[test]
        fn gram_counts_are_those_of_the_plain_rule(
            words in prop::collection::vec("[ab]{1,2}|ccc", 0..60), n in 2_usize..6
        ) {
            let text = words.join(" ");
            prop_assert_eq!(shares(&text, n), plain(&text, n));
        }
    }

    #[test]
    fn a_first_copy_is_no_duplicate() {
        let mut repeats = Repeats::default();
        let items = [(1, 4), (2, 5), (1, 4), (1, 4), (3, 9)];
        let expected = Duplicates { items: 5, duplicated: 2, characters: 8 };
        assert_eq!(repeats.duplicates(items.into_iter()), expected);
        assert_eq!(repeats.duplicates(items.into_iter()), expected, "the table is empty again");
    }
}
