//! KenLM's binary language models, read only: probing hash tables and tries, quantised or not, with or without
//! compressed pointers (file format 5 of Heafield's kenlm). The file is read into memory.
//!
//! ```text
//! header │ vocabulary: hashes of words │ search: hash tables or tries, one an order │ strings (not read)
//! ```
//!
//! A model scores a word after the words before it; what it needs of those is a [`State`].

mod format;
mod perplexity;
mod probing;
mod trie;
mod vocabulary;

use std::path::Path;

use format::{Bytes, Header, Kind};
use probing::Probing;
use trie::Trie;
use vocabulary::Vocabulary;

pub use perplexity::{Perplexity, PerplexityConfig};

/// Why a model cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KenlmError {
    #[error("language model {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("language model {path}: {problem}; wanted is a file of KenLM's build_binary, format 5")]
    Format { path: String, problem: String },
}

/// Longest n-grams a file may have; kenlm is built for 6 by default.
const MAX_ORDER: usize = 16;

/// A language model.
#[derive(Debug)]
pub struct Model {
    bytes: Bytes,
    order: usize,
    vocabulary: Vocabulary,
    search: Search,
    begin: u32,
    end: u32,
}

#[derive(Debug)]
enum Search {
    Probing(Probing),
    Trie(Trie),
}

/// The words before the next one, as far as the model remembers: log10 backoffs of the last one, two, … words.
#[derive(Clone, Copy, Debug)]
pub struct State {
    words: [u32; MAX_ORDER],
    backoffs: [f32; MAX_ORDER],
    length: usize,
}

/// What is stored for an n-gram: log10 probability and backoff.
#[derive(Clone, Copy, Debug)]
struct Weights {
    probability: f32,
    backoff: f32,
}

impl Model {
    /// Reads a model's file.
    ///
    /// # Errors
    /// If the file cannot be read, is no KenLM binary of format 5, of an unknown kind, or shorter than its header says.
    pub fn open(path: &Path) -> Result<Self, KenlmError> {
        let bytes = Bytes::open(path)
            .map_err(|source| KenlmError::Io { path: path.display().to_string(), source })?;
        Self::read(bytes).map_err(|problem| KenlmError::Format { path: path.display().to_string(), problem })
    }

    fn read(bytes: Bytes) -> Result<Self, String> {
        let header = Header::read(&bytes)?;
        let (vocabulary, at) = Vocabulary::read(&bytes, &header)?;
        let (search, size) = match header.kind {
            Kind::Probing => {
                let (probing, size) = Probing::read(&header, at)?;
                (Search::Probing(probing), size)
            }
            Kind::Trie { quantised, compressed } => {
                let (trie, size) = Trie::read(&bytes, &header, at, quantised, compressed)?;
                (Search::Trie(trie), size)
            }
        };
        let wanted = at.checked_add(size).ok_or("its header gives sizes beyond any file")?;
        if bytes.len() < wanted {
            return Err(format!("it has {} bytes, its header promises at least {wanted}", bytes.len()));
        }
        let mut model = Self { bytes, order: header.counts.len(), vocabulary, search, begin: 0, end: 0 };
        model.begin = model.index("<s>");
        model.end = model.index("</s>");
        Ok(model)
    }

    /// Words of the longest n-grams.
    pub const fn order(&self) -> usize {
        self.order
    }

    /// A word's number, 0 for one that the model does not know.
    pub fn index(&self, word: &str) -> u32 {
        self.vocabulary.index(&self.bytes, word.as_bytes())
    }

    /// The state at the beginning of a sentence.
    pub fn begin_sentence(&self) -> State {
        let mut state = State::empty();
        state.words[0] = self.begin;
        state.backoffs[0] = match &self.search {
            Search::Probing(probing) => probing.unigram(&self.bytes, self.begin).backoff,
            Search::Trie(trie) => trie.unigram(&self.bytes, self.begin).0.backoff,
        };
        state.length = 1;
        state
    }

    /// log10 of the probability of a word after a state, and the state after the word.
    pub fn score(&self, state: &State, word: u32) -> (f32, State) {
        let mut next = State::empty();
        let history = &state.words[..state.length];
        let (matched, probability) = match &self.search {
            Search::Probing(probing) => probing.longest_match(&self.bytes, word, history, &mut next.backoffs),
            Search::Trie(trie) => trie.longest_match(&self.bytes, word, history, &mut next.backoffs),
        };
        // A context that was longer than the match pays its backoffs.
        let backoff: f32 = state.backoffs[(matched - 1).min(state.length)..state.length].iter().sum();
        next.length = matched.min(self.order - 1);
        next.words[0] = word;
        next.words[1..next.length.max(1)].copy_from_slice(&history[..next.length.max(1) - 1]);
        (probability + backoff, next)
    }

    /// log10 of the probability of a sentence, words between white space, with its beginning and end; and how many
    /// words were scored, the end counted.
    pub fn sentence(&self, sentence: &str) -> (f64, usize) {
        let (mut state, mut total, mut words) = (self.begin_sentence(), 0.0, 0);
        for word in sentence.split_whitespace().map(|word| self.index(word)).chain([self.end]) {
            let (score, next) = self.score(&state, word);
            (state, total, words) = (next, total + f64::from(score), words + 1);
        }
        (total, words)
    }
}

impl State {
    const fn empty() -> Self {
        Self { words: [0; MAX_ORDER], backoffs: [0.0; MAX_ORDER], length: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kenlm").join(name)
    }

    /// Every kind of file gives the scores that kenlm 0.3.0 gave (golden/curation/kenlm_models.py).
    #[test]
    fn scores_are_those_of_kenlm() {
        let table = std::fs::read_to_string(golden("scores.tsv")).expect("the golden scores");
        let mut compared = 0;
        for kind in ["probing", "trie", "quantised", "compressed", "both"] {
            let model = Model::open(&golden(&format!("{kind}.bin"))).expect("a golden model");
            for line in table.lines() {
                let mut fields = line.split('\t');
                let (Some(of), Some(score), Some(sentence)) = (fields.next(), fields.next(), fields.next())
                else {
                    panic!("three fields: {line}")
                };
                if of == kind {
                    let expected: f64 = score.parse().expect("a number");
                    let (found, _) = model.sentence(sentence);
                    assert!((found - expected).abs() < 1e-4, "{kind}: {sentence}: {found}, kenlm {expected}");
                    compared += 1;
                }
            }
        }
        assert!(compared >= 50, "{compared}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = std::fs::read(golden("both.bin")).expect("a golden model");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("damaged.bin");
        let problem = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            Model::open(&path).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(problem(b"").contains("no KenLM"), "{}", problem(b""));
        assert!(problem(b"\\data\\\nngram 1=4\n").contains("no KenLM"));
        assert!(
            problem(&whole[..whole.len() / 3]).contains("promises"),
            "{}",
            problem(&whole[..whole.len() / 3])
        );
        assert!(problem(&whole[..100]).contains("header"), "{}", problem(&whole[..100]));
        for at in 88..160 {
            let mut lying = whole.clone();
            lying[at] ^= 0xFF;
            // Whatever the header claims, reading ends and stays inside the file.
            std::fs::write(&path, &lying).expect("written");
            if let Ok(model) = Model::open(&path) {
                model.sentence("the sea is the sea");
            }
        }
    }
}
