//! A tokenizer with its identity: trained here or loaded from a Hugging Face `tokenizer.json`.
//!
//! Both trained kinds work on bytes in the guise of visible characters (GPT-2's byte level), so that every text comes
//! back exactly. Documents are plain text: a special token spelt out in one is not taken for the token.

use crate::atomic::write_file;
use crate::byte_level::{ByteLevelBpe, WordCache, visible_words};
use crate::{DataError, Identity};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner, Trainer};

/// Ends every document in tokenizers trained here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What foreign tokenizers call the end of a document, most telling first.
const END_NAMES: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|im_end|>"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-pair encoding, as GPT-2's.
    Bpe,
    /// The likeliest cut under a unigram model of pieces.
    Unigram,
}

pub struct Tokenizer {
    inner: Inner,
    json: Vec<u8>,
    identity: Identity,
    fast: Option<ByteLevelBpe>,
}

/// One thread's memory between calls of [`Tokenizer::encode_into`].
#[derive(Default)]
pub(crate) struct Scratch(WordCache);

impl Tokenizer {
    /// `vocab`: most ids, at least 257: every byte and [`END_OF_TEXT`] (id 0). Little text gives fewer.
    ///
    /// # Errors
    /// When `vocab` is too small or the text is too little to train on.
    pub fn train<S: AsRef<str> + Send>(
        kind: TokenizerKind,
        vocab: usize,
        texts: impl Iterator<Item = S> + Send,
    ) -> Result<Self, DataError> {
        let name = format!("{}-{vocab}", if kind == TokenizerKind::Bpe { "bpe" } else { "unigram" });
        let fault = |message: String| DataError::Tokenizer { name: name.clone(), message };
        if vocab < 257 {
            return Err(fault(format!(
                "a vocabulary of {vocab} cannot hold all 256 bytes and {END_OF_TEXT}; at least 257 would work"
            )));
        }
        let special = vec![AddedToken::from(END_OF_TEXT, true)];
        let alphabet = ByteLevel::alphabet().into_iter();
        let (model, mut trainer): (ModelWrapper, TrainerWrapper) = match kind {
            TokenizerKind::Bpe => {
                let trainer = BpeTrainer::builder()
                    .show_progress(false)
                    .vocab_size(vocab)
                    .special_tokens(special)
                    .initial_alphabet(alphabet.collect())
                    .build();
                (BPE::default().into(), trainer.into())
            }
            TokenizerKind::Unigram => {
                let trainer = UnigramTrainer::builder()
                    .show_progress(false)
                    .vocab_size(vocab as u32)
                    .special_tokens(special)
                    .initial_alphabet(alphabet.collect())
                    .build()
                    .map_err(|error| fault(error.to_string()))?;
                (Unigram::default().into(), trainer.into())
            }
        };
        let mut inner = Inner::new(model);
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        // The crate would cut words by its pattern engine; the scanner gives the same words far sooner.
        let trained = trainer.feed(texts, |text| Ok(visible_words(text))).and_then(|()| {
            let mut model = inner.get_model().clone();
            let special = trainer.train(&mut model)?;
            inner.with_model(model);
            inner.add_special_tokens(special)
        });
        trained.map_err(|error| fault(error.to_string()))?;
        let json = inner.to_string(true).map_err(|error| fault(error.to_string()))?;
        // What was trained is what will be loaded, down to the hash.
        Self::from_json(&name, json.into_bytes(), None)
    }

    /// A `tokenizer.json`, or the folder that holds one.
    ///
    /// # Errors
    /// When the file cannot be read or is no tokenizer.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let json = std::fs::read(&path).map_err(|error| DataError::io("read", &path, error))?;
        let stem = path.file_stem().filter(|stem| *stem != "tokenizer");
        let folder = || path.parent().and_then(Path::file_name);
        let name = stem.or_else(folder).map_or("tokenizer".into(), |name| name.to_string_lossy());
        Self::from_json(&name, json, None)
    }

    /// `json`: the bytes of a `tokenizer.json`. `end`: the token that ends a document, guessed from the usual names if
    /// not given.
    ///
    /// # Errors
    /// When the text is no tokenizer, or `end` is not one of its tokens.
    pub fn from_json(name: &str, json: Vec<u8>, end: Option<&str>) -> Result<Self, DataError> {
        let fault = |message: String| DataError::Tokenizer { name: name.to_owned(), message };
        let mut inner =
            Inner::from_bytes(&json).map_err(|error| fault(format!("not a tokenizer.json: {error}")))?;
        inner.set_encode_special_tokens(true);
        let vocab = inner.get_vocab(true);
        let Some(largest) = vocab.values().max().filter(|&&largest| largest < i32::MAX as u32) else {
            return Err(fault("its vocabulary is empty or has ids beyond 2147483646".into()));
        };
        let eod = match end {
            Some(end) => Some(*vocab.get(end).ok_or_else(|| fault(format!("it has no token {end}")))?),
            None => END_NAMES.iter().find_map(|name| vocab.get(*name)).copied(),
        };
        let identity = Identity {
            name: name.to_owned(),
            vocab: largest + 1,
            hash: blake3::hash(&json).to_hex().to_string(),
            eod,
        };
        let fast = serde_json::from_slice(&json).ok().and_then(|json| ByteLevelBpe::from_json(&json));
        Ok(Self { inner, json, identity, fast })
    }

    /// Writes the `tokenizer.json` this tokenizer was made from.
    ///
    /// # Errors
    /// When the file cannot be written; then it is as it was before.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        write_file(path, &self.json)
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// All ids are below it.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.identity.vocab as usize
    }

    /// Id of the token that ends a document.
    #[must_use]
    pub fn eod(&self) -> Option<u32> {
        self.identity.eod
    }

    /// # Errors
    /// When the model has no id for a part of the text and no unknown token either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut Scratch::default(), &mut ids)?;
        Ok(ids)
    }

    /// [`Tokenizer::encode`] for texts in which a special token spelt out is the token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let special = self.special_tokens();
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = special
                .iter()
                .filter_map(|(name, id)| Some((rest.find(name.as_str())?, name.len(), *id)))
                .min_by_key(|&(place, length, _)| (place, std::cmp::Reverse(length)));
            let Some((place, length, id)) = next else { break };
            self.encode_into(&rest[..place], &mut Scratch::default(), &mut ids)?;
            ids.push(id);
            rest = &rest[place + length..];
        }
        self.encode_into(rest, &mut Scratch::default(), &mut ids)?;
        Ok(ids)
    }

    /// Special tokens are left out.
    ///
    /// # Errors
    /// When the decoder cannot put the pieces together.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner.decode(ids, true).map_err(|error| self.fault(error.to_string()))
    }

    pub(crate) fn encode_into(
        &self,
        text: &str,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        if let Some(fast) = &self.fast {
            fast.encode(text, &mut scratch.0, ids);
            return Ok(());
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|error| self.fault(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Whether a text may be encoded in parts cut by [`crate::words::safe_cut`].
    pub(crate) fn is_cuttable(&self) -> bool {
        self.fast.is_some()
    }

    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    fn fault(&self, message: String) -> DataError {
        DataError::Tokenizer { name: self.identity.name.clone(), message }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tokenizer({})", self.identity.short())
    }
}
