//! Tokens as text: what each adds, and a name for each that no other has.

use crate::constrain::Trie;
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use triax_data::{DataError, Pieces, Tokenizer};

/// Ends of a turn that chat models use beside the end of a document.
const TURN_ENDS: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>", "<|eot|>"];

/// Stands in the text of a message where a special token is only spelt out (a noncharacter of Unicode).
pub(crate) const SPELT: char = '\u{fdd0}';

pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    pieces: Pieces,
    /// Special tokens, longest first.
    special: Vec<(String, u32)>,
    names: Vec<Box<str>>,
    trie: OnceLock<Arc<Trie>>,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let pieces = tokenizer.pieces();
        let mut taken = HashSet::new();
        let names = (0..pieces.len() as u32)
            .map(|id| {
                let name = name(pieces.bytes(id));
                // Of tokens with one text only the first is called by it.
                let free = !name.is_empty() && taken.insert(name.clone());
                if free { name.into() } else { format!("token_id:{id}").into() }
            })
            .collect();
        Self { special: tokenizer.special_tokens(), pieces, names, tokenizer, trie: OnceLock::new() }
    }

    /// Whether a special token spelt out in the text is the token.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, DataError> {
        if special { self.tokenizer.encode_with_special(text) } else { self.tokenizer.encode(text) }
    }

    /// The text with [`SPELT`] inside the names of special tokens, so that they are none.
    pub(crate) fn spell_out(&self, text: &str) -> String {
        let mut text = text.replace(SPELT, "");
        for (name, _) in &self.special {
            let split = name.chars().next().map_or(0, char::len_utf8);
            if text.contains(name.as_str()) {
                text = text.replace(name.as_str(), &format!("{}{SPELT}{}", &name[..split], &name[split..]));
            }
        }
        text
    }

    /// The ids of a rendered chat: special tokens are tokens, but not where they are [spelt](Self::spell_out).
    pub(crate) fn encode_chat(&self, text: &str) -> Result<Vec<u32>, DataError> {
        if !text.contains(SPELT) {
            return self.encode(text, true);
        }
        let mut ids = Vec::new();
        let mut rest = text;
        loop {
            let next = self
                .special
                .iter()
                .filter_map(|(name, id)| Some((rest.find(name.as_str())?, name.len(), *id)))
                .min_by_key(|&(place, length, _)| (place, std::cmp::Reverse(length)));
            let (plain, special) =
                next.map_or((rest, None), |(place, length, id)| (&rest[..place], Some((place + length, id))));
            ids.extend(self.tokenizer.encode(&plain.replace(SPELT, ""))?);
            let Some((end, id)) = special else { return Ok(ids) };
            ids.push(id);
            rest = &rest[end..];
        }
    }

    /// What the token adds to a text, in bytes; nothing for special tokens.
    pub(crate) fn text_of(&self, id: u32) -> &[u8] {
        if self.pieces.is_special(id) { &[] } else { self.pieces.bytes(id) }
    }

    /// The token's bytes, or a special token's name.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// What the token is called: its text, `bytes:\x..` where that is no text, or its number where another token
    /// has the same text.
    pub(crate) fn name(&self, id: u32) -> std::borrow::Cow<'_, str> {
        match self.names.get(id as usize) {
            Some(name) => (&**name).into(),
            None => format!("token_id:{id}").into(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The token that ends a document.
    pub(crate) fn end(&self) -> Option<u32> {
        self.tokenizer.eod()
    }

    /// The name of the token that ends a document.
    pub(crate) fn end_name(&self) -> Option<String> {
        self.end().map(|id| String::from_utf8_lossy(self.pieces.bytes(id)).into_owned())
    }

    /// The tokens that end a turn of a chat.
    pub(crate) fn turn_ends(&self) -> Vec<u32> {
        let turns = self.special.iter().filter(|(name, _)| TURN_ENDS.contains(&name.as_str()));
        let mut ends: Vec<u32> = turns.map(|&(_, id)| id).chain(self.end()).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// All tokens but the special ones by their bytes; made on first use.
    pub(crate) fn trie(&self) -> Arc<Trie> {
        let tokens = || (0..self.len() as u32).map(|id| (self.text_of(id), id));
        Arc::clone(self.trie.get_or_init(|| Arc::new(Trie::new(tokens()))))
    }
}

fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut name, byte| {
            // Writing to a string does not fail.
            let _ = write!(name, "\\x{byte:02x}");
            name
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::LazyLock;
    use triax_data::TokenizerKind;

    /// Knows every byte and little more.
    pub(crate) fn vocabulary() -> Arc<Vocabulary> {
        static MADE: LazyLock<Arc<Vocabulary>> = LazyLock::new(|| Arc::new(make()));
        Arc::clone(&MADE)
    }

    fn make() -> Vocabulary {
        let texts = ["the cat sat on the mat", "{\"name\": \"cat\"}", "你好，世界"];
        let texts = texts.iter().flat_map(|text| std::iter::repeat_n(*text, 9));
        Vocabulary::new(Tokenizer::train(TokenizerKind::Bpe, 300, texts).unwrap())
    }

    #[test]
    fn every_token_has_a_name_of_its_own() {
        let vocabulary = vocabulary();
        let names: HashSet<_> = (0..vocabulary.len() as u32).map(|id| vocabulary.name(id)).collect();
        assert_eq!(names.len(), vocabulary.len());
        assert!(names.contains("bytes:\\xe4") && names.contains(" "));
    }

    #[test]
    fn a_special_token_in_a_message_is_spelt_and_in_the_template_is_the_token() {
        let vocabulary = vocabulary();
        let end = vocabulary.end().unwrap();
        let content = vocabulary.spell_out("say <|endoftext|> to me");
        let ids = vocabulary.encode_chat(&format!("{content}<|endoftext|>")).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1);
        assert_eq!(ids.last(), Some(&end));
        let text: Vec<u8> = ids.iter().flat_map(|&id| vocabulary.text_of(id).to_vec()).collect();
        assert_eq!(text, b"say <|endoftext|> to me");
    }
}
