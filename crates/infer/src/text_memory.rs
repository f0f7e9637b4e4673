//! A memory beside the network: what followed the same tokens before, in the training text and in the held-out
//! text already read, as a general compressor remembers it.
//!
//! ```text
//! p(token) = Σᵢ wᵢ · pᵢ(token)      experts i: the network;
//!                                              for k in ORDERS, training text and text read: the share with which
//!                                              `token` followed where the last k tokens stood before
//! wᵢ ∝ priorᵢ + Σ wᵢ pᵢ / p         over the tokens read so far in the same situation (online EM)
//! ```
//! A situation is the longest order known from either text, and whether it has always gone on in the same way. A
//! token is remembered, and the weights learn from it, only after it has been paid for. This is the mixture of a
//! network with a cache (Grave, Joulin & Usunier 2017) and with unbounded n-grams (Liu et al. 2024).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Tokens before the one that is predicted.
const ORDERS: [usize; 8] = [2, 3, 4, 6, 8, 12, 20, 32];
/// The network, and every order in both texts.
const EXPERTS: usize = 1 + 2 * ORDERS.len();
/// Longest order known (or none) from both texts, each with one continuation or several.
const SITUATIONS: usize = (2 * ORDERS.len() + 1) * (2 * ORDERS.len() + 1);
/// No continuation is known, or more than one.
const NONE: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Keys are mixed already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Ids = HashMap<u64, u32, BuildHasherDefault<AsIs>>;

/// What followed the contexts of one order.
#[derive(Clone, Default)]
struct Counts {
    /// Times each context was seen, the one token that followed it (or [`SEVERAL`]), and times each pair of a
    /// context and its continuation was seen.
    contexts: Vec<u32>,
    followed_by: Vec<u32>,
    pairs: Vec<u32>,
}

impl Counts {
    fn new(contexts: usize, pairs: usize) -> Self {
        Self { contexts: vec![0; contexts], followed_by: vec![NONE; contexts], pairs: vec![0; pairs] }
    }

    fn add(&mut self, context: u32, token: u32, pair: Option<u32>) {
        let context = context as usize;
        self.contexts[context] += 1;
        let one = &mut self.followed_by[context];
        *one = if *one == NONE || *one == token { token } else { SEVERAL };
        if let Some(pair) = pair {
            self.pairs[pair as usize] += 1;
        }
    }
}

/// One order: where the text to be read asks for what, and what the training text answers. Only what will be
/// asked for is counted, which changes no answer and keeps the tables small.
struct Order {
    length: usize,
    context_ids: Ids,
    pair_ids: Ids,
    /// By position of the text to be read; [`NONE`] where fewer tokens stand before.
    contexts: Vec<u32>,
    pairs: Vec<u32>,
    trained: Counts,
}

/// Hashes of all runs of `length` tokens: element t is that of the tokens just before position t.
fn contexts(tokens: &[u32], length: usize) -> impl Iterator<Item = (usize, u64)> {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let leaving = BASE.wrapping_pow(length as u32);
    let mut rolling = 0u64;
    (0..tokens.len()).filter_map(move |t| {
        let hash = (t >= length).then(|| (t, mix(rolling ^ length as u64)));
        rolling = rolling.wrapping_mul(BASE).wrapping_add(u64::from(tokens[t]) + 1);
        if t >= length {
            rolling = rolling.wrapping_sub(leaving.wrapping_mul(u64::from(tokens[t - length]) + 1));
        }
        hash
    })
}

/// The finalizer of SplitMix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn pair_key(context: u32, token: u32) -> u64 {
    mix(u64::from(context) << 32 | u64::from(token))
}

impl Order {
    fn new(length: usize, text: &[u32]) -> Self {
        let (mut context_ids, mut pair_ids) = (Ids::default(), Ids::default());
        let (mut at, mut pairs) = (vec![NONE; text.len()], vec![NONE; text.len()]);
        for (t, hash) in contexts(text, length) {
            let next = context_ids.len() as u32;
            at[t] = *context_ids.entry(hash).or_insert(next);
            let next = pair_ids.len() as u32;
            pairs[t] = *pair_ids.entry(pair_key(at[t], text[t])).or_insert(next);
        }
        let trained = Counts::new(context_ids.len(), pair_ids.len());
        Self { length, context_ids, pair_ids, contexts: at, pairs, trained }
    }

    fn learn(&mut self, text: &[u32]) {
        for (t, hash) in contexts(text, self.length) {
            if let Some(&context) = self.context_ids.get(&hash) {
                let pair = self.pair_ids.get(&pair_key(context, text[t])).copied();
                self.trained.add(context, text[t], pair);
            }
        }
    }
}

/// Memories of the training text for one text that will be read.
pub struct TextMemory<'a> {
    text: &'a [u32],
    orders: Vec<Order>,
}

impl<'a> TextMemory<'a> {
    /// Of nothing yet, for `text`, which will be read; what is learned and answers no question of it is not kept.
    pub fn new(text: &'a [u32]) -> Self {
        Self { text, orders: ORDERS.iter().map(|&length| Order::new(length, text)).collect() }
    }

    /// Remembers a training text.
    pub fn learn(&mut self, text: &[u32]) {
        std::thread::scope(|scope| {
            for order in &mut self.orders {
                scope.spawn(|| order.learn(text));
            }
        });
    }

    /// Bits of the text's tokens but the first, of which the network's losses (nats, by position) are given.
    ///
    /// # Panics
    /// When there is not one loss for each token.
    pub fn bits(&self, losses: &[f32]) -> f64 {
        assert_eq!(losses.len(), self.text.len(), "a loss for every token");
        let mut read: Vec<Counts> = self
            .orders
            .iter()
            .map(|order| Counts::new(order.trained.contexts.len(), order.trained.pairs.len()))
            .collect();
        let mut evidence = vec![None; SITUATIONS];
        let mut bits = 0.0;
        for (t, &loss) in losses.iter().enumerate().skip(1) {
            let mut experts = [None; EXPERTS];
            experts[0] = Some(f64::from(-loss).exp());
            let mut longest = [0, 0];
            let mut last = [0, 0];
            for (k, order) in self.orders.iter().enumerate() {
                let (context, pair) = (order.contexts[t] as usize, order.pairs[t] as usize);
                if context == NONE as usize {
                    continue;
                }
                for (which, counts) in [&order.trained, &read[k]].into_iter().enumerate() {
                    let seen = counts.contexts[context];
                    if seen > 0 {
                        let expert = 1 + 2 * k + which;
                        experts[expert] = Some(f64::from(counts.pairs[pair]) / f64::from(seen));
                        let surely = usize::from(counts.followed_by[context] != SEVERAL);
                        (longest[which], last[which]) = (1 + 2 * k + surely, expert);
                    }
                }
            }
            let situation = longest[0] * (2 * ORDERS.len() + 1) + longest[1];
            let evidence = evidence[situation].get_or_insert_with(|| prior(last));
            bits -= learn_weights(evidence, &experts).log2();
            for (order, read) in self.orders.iter().zip(&mut read) {
                if order.contexts[t] != NONE {
                    read.add(order.contexts[t], self.text[t], Some(order.pairs[t]));
                }
            }
        }
        bits
    }
}

/// What a situation's weights begin with: the network and the longest orders count most.
fn prior(longest: [usize; 2]) -> [f64; EXPERTS] {
    let mut prior = [0.1; EXPERTS];
    for expert in [0, longest[0], longest[1]] {
        prior[expert] += 1.0;
    }
    prior
}

/// The mixture's probability of the token; the evidence grows by each expert's share in it.
fn learn_weights(evidence: &mut [f64; EXPERTS], experts: &[Option<f64>; EXPERTS]) -> f64 {
    let known = |(evidence, expert): (&f64, &Option<f64>)| expert.map(|p| (*evidence, p));
    let total: f64 = evidence.iter().zip(experts).filter_map(known).map(|(weight, _)| weight).sum();
    let joint: f64 = evidence.iter().zip(experts).filter_map(known).map(|(weight, p)| weight * p).sum();
    for (evidence, expert) in evidence.iter_mut().zip(experts) {
        if let Some(p) = expert {
            *evidence += *evidence * p / joint;
        }
    }
    joint / total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn losses(text: &[u32], vocabulary: u32) -> Vec<f32> {
        vec![f64::from(vocabulary).ln() as f32; text.len()]
    }

    #[test]
    fn contexts_are_equal_where_the_tokens_are() {
        let text = [1, 2, 3, 9, 1, 2, 3, 7];
        let of = |t: usize| contexts(&text, 3).find(|&(at, _)| at == t).map(|(_, hash)| hash);
        assert_eq!((of(2), of(3)), (None, of(7)));
        assert_ne!(of(3), of(4));
    }

    #[test]
    fn what_was_read_before_costs_little_and_what_was_not_costs_what_the_network_says() {
        let once: Vec<u32> = (0..400).map(|i| i * 7919 % 1009).collect();
        let twice = [once.clone(), once.clone()].concat();
        let bits = |text: &[u32]| TextMemory::new(text).bits(&losses(text, 1024));
        let first = bits(&once);
        assert!((first - 3990.0).abs() < 60.0, "399 tokens of 10 bits each: {first}");
        assert!(bits(&twice) - first < 400.0, "the second time: {}", bits(&twice) - first);
        let mut trained = TextMemory::new(&once);
        trained.learn(&twice);
        let known = trained.bits(&losses(&once, 1024));
        assert!(known < 400.0, "after training on it: {known}");
    }

    proptest! {
        /// Over all tokens of a small vocabulary the mixture's probabilities add up to one, so that no code is
        /// shorter than an honest one (1e-6: the network's loss is an f32); the future is not looked at.
        #[test]
        fn probabilities_add_up_to_one_and_do_not_see_the_future(
            training in proptest::collection::vec(0u32..3, 0..60),
            text in proptest::collection::vec(0u32..3, 2..50),
        ) {
            let bits = |text: &[u32]| {
                let mut memory = TextMemory::new(text);
                memory.learn(&training);
                memory.bits(&losses(text, 3))
            };
            let (_, before) = text.split_last().unwrap();
            let all: f64 = (0..3)
                .map(|last| {
                    let text = [before, &[last]].concat();
                    2f64.powf(bits(before) - bits(&text))
                })
                .sum();
            prop_assert!((all - 1.0).abs() < 1e-6, "{}", all);
        }
    }
}
