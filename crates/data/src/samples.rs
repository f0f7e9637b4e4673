//! Sample number → tokens, as a pure function.
//!
//! ```text
//! n ──stages──▶ source s, k-th of its samples ──▶ epoch k / N, place k mod N
//!                                                   ──permutation keyed (seed, s, epoch)──▶ window i of N
//! window i = tokens i·sequence ..= (i+1)·sequence of the source's documents laid end to end
//! ```
//!
//! A window has one token more than the sequence, the target of the last; the next window starts there, as in
//! Megatron. Each epoch shows every window of a source once, in an order of its own. Epochs follow without end.

use crate::{DataError, Identity, Permutation, Reader, Sequential, Stage, Stages};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Samples {
    sources: Vec<Source>,
    stages: Stages,
    sequence: usize,
    seed: u64,
    identity: Option<Identity>,
}

#[derive(Debug)]
struct Source {
    reader: Reader,
    per_epoch: u64,
}

/// Where a sample comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleOrigin {
    /// Number of the source in the order given to [`Samples::open`].
    pub source: usize,
    /// How often the whole source was shown before.
    pub epoch: u64,
    /// The window: its first token is `index_in_epoch · sequence` of the source's stream.
    pub index_in_epoch: u64,
}

/// One row of [`Samples::describe`].
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSummary {
    pub path: PathBuf,
    /// Share of the samples in the first stage.
    pub share: f64,
    pub documents: u64,
    pub tokens: u64,
    pub samples_per_epoch: u64,
    /// Name of the tokenizer, where the file says it.
    pub tokenizer: Option<String>,
}

impl Samples {
    /// `sources`: prefixes of `.bin/.idx` pairs with relative weights. `sequence`: tokens a sample, without the target of
    /// the last. `seed`: of the order.
    ///
    /// # Errors
    /// When a file is damaged or shorter than one sample, tokenizers differ, or the weights are impossible.
    pub fn open(sources: &[(PathBuf, f64)], sequence: usize, seed: u64) -> Result<Self, DataError> {
        let (paths, weights): (Vec<PathBuf>, Vec<f64>) = sources.iter().cloned().unzip();
        Self::open_staged(&paths, &[Stage { start: 0, weights }], sequence, seed)
    }

    /// As [`Samples::open`], with weights that change at given sample numbers.
    ///
    /// # Errors
    /// As [`Samples::open`]; when stages are out of order.
    pub fn open_staged(
        paths: &[PathBuf],
        stages: &[Stage],
        sequence: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        if sequence == 0 {
            return Err(DataError::EmptySequence);
        }
        let stages = Stages::new(paths.len(), stages)?;
        let readers = paths.iter().map(|path| Reader::open(path)).collect::<Result<Vec<_>, _>>()?;
        let identity = common_identity(&readers)?;
        let sources = readers.into_iter().map(|mut reader| {
            if let Some(identity) = &identity {
                reader.limit_vocab(identity.vocab);
            }
            let per_epoch = reader.tokens().saturating_sub(1) / sequence as u64;
            if per_epoch == 0 {
                return Err(DataError::TooFewTokens {
                    path: reader.prefix().to_owned(),
                    tokens: reader.tokens(),
                    sequence,
                    most: reader.tokens().saturating_sub(1),
                });
            }
            Ok(Source { reader, per_epoch })
        });
        Ok(Self { sources: sources.collect::<Result<_, _>>()?, stages, sequence, seed, identity })
    }

    /// All windows of one source in order, for evaluation.
    ///
    /// # Errors
    /// When a file is damaged or holds fewer than two tokens.
    pub fn open_sequential(path: &Path, sequence: usize) -> Result<Sequential, DataError> {
        Sequential::open(path, sequence)
    }

    /// Refuses token ids at and above `vocab`, the size of the model's embedding.
    pub fn limit_vocab(&mut self, vocab: u32) {
        self.sources.iter_mut().for_each(|source| source.reader.limit_vocab(vocab));
    }

    /// Size of the vocabulary, where a source says which tokenizer made it.
    #[must_use]
    pub fn vocab(&self) -> Option<usize> {
        self.identity.as_ref().map(|identity| identity.vocab as usize)
    }

    #[must_use]
    pub fn tokenizer(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Tokens a sample, without the target of the last.
    #[must_use]
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Where a sample comes from, without reading it.
    #[must_use]
    pub fn at(&self, sample: u64) -> SampleOrigin {
        let (source, number) = self.stages.draw(sample);
        let per_epoch = self.sources[source].per_epoch;
        let (epoch, place) = (number / per_epoch, number % per_epoch);
        let order = Permutation::new(per_epoch, &[self.seed, source as u64, epoch]);
        SampleOrigin { source, epoch, index_in_epoch: order.apply(place) }
    }

    /// Reads a sample into `tokens`, which holds `sequence + 1`: inputs are all but the last, targets all but the first.
    /// Allocates nothing for up to 64 sources.
    ///
    /// # Errors
    /// When the file cannot be read or holds an id that is not in the vocabulary.
    pub fn fill(&self, sample: u64, tokens: &mut [u32]) -> Result<SampleOrigin, DataError> {
        if tokens.len() != self.sequence + 1 {
            return Err(DataError::BufferLength { expected: self.sequence + 1, found: tokens.len() });
        }
        let origin = self.at(sample);
        self.sources[origin.source].reader.read(origin.index_in_epoch * self.sequence as u64, tokens)?;
        Ok(origin)
    }

    /// One row a source, in the order given.
    #[must_use]
    pub fn describe(&self) -> Vec<SourceSummary> {
        let rows = self.sources.iter().zip(self.stages.shares(0)).map(|(source, share)| SourceSummary {
            path: source.reader.prefix().to_owned(),
            share,
            documents: source.reader.documents(),
            tokens: source.reader.tokens(),
            samples_per_epoch: source.per_epoch,
            tokenizer: source.reader.identity().map(|identity| identity.name.clone()),
        });
        rows.collect()
    }
}

/// The one tokenizer of all sources that name theirs; sources by other programs name none and are trusted.
fn common_identity(readers: &[Reader]) -> Result<Option<Identity>, DataError> {
    let mut named = readers.iter().filter_map(|reader| Some((reader.prefix(), reader.identity()?)));
    let Some((first, identity)) = named.next() else { return Ok(None) };
    match named.find(|(_, other)| other.hash != identity.hash || other.vocab != identity.vocab) {
        None => Ok(Some(identity.clone())),
        Some((second, other)) => Err(DataError::TokenizerMismatch {
            first: first.to_owned(),
            first_tokenizer: identity.short(),
            second: second.to_owned(),
            second_tokenizer: other.short(),
        }),
    }
}
