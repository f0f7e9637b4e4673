//! Which solved items stand before an item.
//!
//! Every draw is a pure function of seed, task and item, so neither the order of items nor a limit moves it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Draw {
    /// Anew for every item.
    #[default]
    Random,
    /// One draw for all items; where the item itself is in it, the next one takes its place.
    Once,
    /// The first of the file.
    First,
    /// Anew for every item, equally many of each label, in random order.
    Balanced,
}

impl Draw {
    pub const NAMES: &'static [&'static str] = &["random", "once", "first", "balanced"];
}

impl std::str::FromStr for Draw {
    type Err = UnknownDraw;

    fn from_str(name: &str) -> Result<Self, UnknownDraw> {
        match name {
            "random" => Ok(Self::Random),
            "once" => Ok(Self::Once),
            "first" => Ok(Self::First),
            "balanced" => Ok(Self::Balanced),
            _ => Err(UnknownDraw(name.to_owned())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not one of {names}", names = Draw::NAMES.join(", "))]
pub struct UnknownDraw(pub String);

/// Where shots are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// Each candidate's right choice.
    pub labels: &'a [usize],
    /// Whether candidates are the scored items themselves, with the same numbers.
    pub is_test: bool,
}

impl Pool<'_> {
    /// Numbers of the candidates that stand before item `item`, in order. Fewer than `count` where the pool has no
    /// more.
    pub fn draw(&self, draw: Draw, count: usize, seed: u64, task: &str, item: usize) -> Vec<usize> {
        let barred = if self.is_test { Some(item) } else { None };
        let all = 0..self.labels.len();
        let numbers = |stream: &mut Stream| -> Vec<usize> {
            stream
                .some_of(all.len(), count + 1)
                .into_iter()
                .filter(|&n| Some(n) != barred)
                .take(count)
                .collect()
        };
        match draw {
            Draw::First => all.clone().filter(|&number| Some(number) != barred).take(count).collect(),
            Draw::Random => numbers(&mut Stream::new(&format!("{task}/{seed}/{item}"))),
            Draw::Once => numbers(&mut Stream::new(&format!("{task}/{seed}"))),
            Draw::Balanced => {
                self.balanced(count, barred, &mut Stream::new(&format!("{task}/{seed}/{item}")))
            }
        }
    }

    fn balanced(&self, count: usize, barred: Option<usize>, stream: &mut Stream) -> Vec<usize> {
        let kinds = self.labels.iter().max().map_or(0, |most| most + 1);
        let mut by_label = vec![Vec::new(); kinds];
        for number in stream.some_of(self.labels.len(), self.labels.len()) {
            if Some(number) != barred {
                by_label[self.labels[number]].push(number);
            }
        }
        // Round after round one of each label, the labels in random order: a remainder favours none.
        let order = stream.some_of(kinds, kinds);
        let most = by_label.iter().map(Vec::len).max().unwrap_or(0);
        let rounds = (0..most).flat_map(|round| order.iter().map(move |&label| (label, round)));
        let chosen: Vec<usize> =
            rounds.filter_map(|(label, round)| by_label[label].get(round).copied()).take(count).collect();
        stream.some_of(chosen.len(), chosen.len()).into_iter().map(|place| chosen[place]).collect()
    }
}

/// Random numbers addressed by a name: BLAKE3's output stream.
pub(crate) struct Stream(blake3::OutputReader);

impl Stream {
    pub(crate) fn new(name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("triax eval shots v1");
        hasher.update(name.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Below `bound`, which is not 0. Multiplying 64 random bits favours no number by more than `bound` / 2⁶⁴.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        ((u128::from(u64::from_le_bytes(bytes)) * bound as u128) >> 64) as usize
    }

    /// `count` different numbers below `bound`, in random order; all of them where there are no more.
    pub(crate) fn some_of(&mut self, bound: usize, count: usize) -> Vec<usize> {
        // Only the places that were swapped are kept: a draw of 32 from 100,000 is 32 steps.
        let mut swapped = std::collections::HashMap::new();
        (0..count.min(bound))
            .map(|place| {
                let other = place + self.below(bound - place);
                let here = swapped.get(&place).copied().unwrap_or(place);
                swapped.insert(other, here).unwrap_or(if other == place { here } else { other })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(labels: &[usize], is_test: bool) -> Pool<'_> {
        Pool { labels, is_test }
    }

    proptest! {
        #[test]
        fn shots_are_different_and_never_the_item_itself(
            labels in proptest::collection::vec(0usize..4, 1..40), count in 0usize..12, seed: u64, item in 0usize..40,
        ) {
            let item = item % labels.len();
            for draw in [Draw::Random, Draw::Once, Draw::First, Draw::Balanced] {
                let drawn = pool(&labels, true).draw(draw, count, seed, "t", item);
                prop_assert_eq!(drawn.len(), count.min(labels.len() - 1));
                prop_assert!(!drawn.contains(&item));
                let mut sorted = drawn.clone();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), drawn.len());
                prop_assert_eq!(&drawn, &pool(&labels, true).draw(draw, count, seed, "t", item));
            }
        }

        #[test]
        fn some_of_all_is_a_permutation(bound in 1usize..50, seed: u64) {
            let mut all = Stream::new(&seed.to_string()).some_of(bound, bound);
            all.sort_unstable();
            prop_assert_eq!(all, (0..bound).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_balanced_draw_has_equally_many_of_each_label() {
        let labels: Vec<usize> = (0..90).map(|n| if n < 80 { 0 } else { 1 + n % 2 }).collect();
        for item in 0..20 {
            let drawn = pool(&labels, false).draw(Draw::Balanced, 6, 1, "t", item);
            for label in 0..3 {
                assert_eq!(drawn.iter().filter(|&&n| labels[n] == label).count(), 2, "{drawn:?}");
            }
        }
    }

    #[test]
    fn one_draw_for_all_is_the_same_for_all_and_a_draw_anew_is_not() {
        let labels = vec![0; 1000];
        let draw = |draw, seed, item| pool(&labels, false).draw(draw, 4, seed, "t", item);
        assert_eq!(draw(Draw::Once, 1, 0), draw(Draw::Once, 1, 1));
        assert_ne!(draw(Draw::Once, 1, 0), draw(Draw::Once, 2, 0));
        assert_ne!(draw(Draw::Random, 1, 0), draw(Draw::Random, 1, 1));
    }

    #[test]
    fn every_candidate_is_drawn_about_equally_often() {
        let labels = vec![0; 10];
        let mut counts = [0; 10];
        for item in 0..5000 {
            for number in pool(&labels, false).draw(Draw::Random, 3, 7, "t", item) {
                counts[number] += 1;
            }
        }
        // 1500 expected, deviation 32.
        assert!(counts.iter().all(|count| (1350..1650).contains(count)), "{counts:?}");
    }
}
