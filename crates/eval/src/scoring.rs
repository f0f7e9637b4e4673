//! Texts to log-probabilities: every different request once, known ones from the cache, neighbours side by side.

use crate::border::{Codec, Window, split, windows};
use crate::cache::{Cache, Key, Scored};
use crate::error::EvalError;
use std::collections::{BTreeMap, HashMap};
use triax_infer::{ScoreReply, ScoreRequest, Scorer};

/// Tokens between two writes of the cache: a kill loses no more.
const TOKENS_AT_ONCE: usize = 1 << 14;

/// A server tells of no tokens but the likeliest, and has no vocabulary worth the name.
const LARGEST_VOCABULARY: usize = 1 << 21;

/// Context, target and key of a request that is not in the cache.
type Missing<'a> = (&'a [u32], &'a [u32], Key);

/// The scores of a group that was asked for together.
fn apart(group: &[Missing<'_>], reply: ScoreReply) -> Vec<(Key, Scored)> {
    if let [(_, _, key)] = group {
        return vec![(*key, Scored { log_probs: reply.log_probs, greedy: reply.greedy })];
    }
    let told = reply.top.first().and_then(|told| told.split_first());
    let (&(_, likeliest), told) = told.expect("the likeliest token is told, and the group's");
    let score = |&(_, log_prob): &(u32, f32)| Scored {
        log_probs: vec![log_prob],
        greedy: vec![log_prob >= likeliest],
    };
    group.iter().zip(told).map(|((_, _, key), told)| (*key, score(told))).collect()
}

/// The network under test, with its tokenizer.
pub struct Network<'a> {
    pub scorer: &'a mut dyn Scorer,
    pub codec: &'a dyn Codec,
    /// Tells this network's scores from any other's in the cache.
    pub identity: String,
    /// Whether every text begins with the token of a document's start, and not only an empty context.
    pub start_always: bool,
}

/// A target behind a context, as tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tokens {
    pub(crate) windows: Vec<Window>,
    /// The context lost its beginning.
    pub(crate) truncated: bool,
    /// The target's first token holds a piece of the context.
    pub(crate) joined: bool,
}

impl Tokens {
    /// The tokens that are scored.
    pub(crate) fn target(&self) -> impl Iterator<Item = u32> {
        self.windows.iter().flat_map(|window| window.target.iter().copied())
    }

    /// Only the first token of the target.
    pub(crate) fn first(mut self) -> Self {
        self.windows.truncate(1);
        self.windows.iter_mut().for_each(|window| window.target.truncate(1));
        self
    }
}

impl Network<'_> {
    /// # Errors
    /// When the text cannot be tokenised, or nothing says how a document begins.
    pub(crate) fn tokens(&self, context: &str, target: &str) -> Result<Tokens, EvalError> {
        let mut split = split(self.codec, context, target)?;
        let start = || {
            self.codec.start().ok_or_else(|| EvalError::Item {
                task: self.codec.name(),
                message: "the tokenizer does not say which token begins a document; give --start-token ID"
                    .to_owned(),
            })
        };
        if split.context.is_empty() || self.start_always {
            split.context.insert(0, start()?);
        }
        let (windows, truncated) = windows(&split.context, &split.target, self.scorer.context_length());
        Ok(Tokens { windows, truncated, joined: split.joined })
    }

    /// One entry for each of `asked`.
    ///
    /// # Errors
    /// When the network refuses, or the cache cannot be written.
    pub(crate) fn score(&mut self, asked: &[&Tokens], cache: &mut Cache) -> Result<Vec<Scored>, EvalError> {
        let keys: Vec<Vec<Key>> = asked
            .iter()
            .map(|tokens| tokens.windows.iter().map(|window| self.key(window)).collect())
            .collect();
        // Sorted by tokens, so that requests with a common beginning are neighbours; each once.
        let mut missing: BTreeMap<(&[u32], &[u32]), Key> = BTreeMap::new();
        for (tokens, keys) in asked.iter().zip(&keys) {
            for (window, key) in tokens.windows.iter().zip(keys) {
                if !window.target.is_empty() && cache.get(key).is_none() {
                    missing.insert((&window.context, &window.target), *key);
                }
            }
        }
        let missing: Vec<Missing<'_>> = missing.into_iter().map(|((c, t), key)| (c, t, key)).collect();
        let mut rest = &missing[..];
        while !rest.is_empty() {
            let (mut requests, mut groups) = (Vec::new(), Vec::new());
            let mut tokens = 0;
            while !rest.is_empty() && tokens < TOKENS_AT_ONCE {
                let (group, after) = rest.split_at(self.one_look(rest));
                rest = after;
                let (context, target, _) = group[0];
                tokens += context.len() + target.len();
                let also = match group {
                    [_] => Vec::new(),
                    _ => group.iter().map(|(_, target, _)| target[0]).collect(),
                };
                requests.push(ScoreRequest {
                    context: context.to_vec(),
                    continuation: target.to_vec(),
                    top: usize::from(!also.is_empty()),
                    also,
                });
                groups.push(group);
            }
            let replies = self.scorer.score(&requests)?;
            let scored = groups.into_iter().zip(replies).flat_map(|(group, reply)| apart(group, reply));
            cache.add(scored)?;
        }
        let join = |keys: &Vec<Key>| {
            let mut all = Scored::default();
            for scored in keys.iter().filter_map(|key| cache.get(key)) {
                all.log_probs.extend_from_slice(&scored.log_probs);
                all.greedy.extend_from_slice(&scored.greedy);
            }
            all
        };
        Ok(keys.iter().map(join).collect())
    }

    /// How many of the first of `missing` one look at a distribution answers: single tokens behind the same context.
    fn one_look(&self, missing: &[Missing<'_>]) -> usize {
        let (context, target, _) = missing[0];
        if target.len() != 1 || self.scorer.vocab() > LARGEST_VOCABULARY {
            return 1;
        }
        missing.iter().take_while(|other| other.0 == context && other.1.len() == 1).count()
    }

    fn key(&self, window: &Window) -> Key {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(bytes);
        };
        add(&(self.identity.len() as u64).to_le_bytes());
        add(self.identity.as_bytes());
        add(&(window.context.len() as u64).to_le_bytes());
        for id in window.context.iter().chain(&window.target) {
            add(&id.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Words that the scored tokens cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Collision {
    pub tokens: Vec<u32>,
    pub labels: Vec<String>,
    pub words: Vec<String>,
}

/// Groups of choices with the same context and target tokens.
pub(crate) fn same<'a>(tokens: impl Iterator<Item = &'a Tokens>) -> Vec<Vec<usize>> {
    let mut groups: HashMap<&[Window], Vec<usize>> = HashMap::new();
    for (place, tokens) in tokens.enumerate() {
        groups.entry(&tokens.windows).or_default().push(place);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    groups
}
