//! What each token adds to a text, in bytes: a token may hold a part of a character.
//!
//! ```text
//! byte level (GPT-2)          "Ġwor" ─▶ " wor"      "ä" ─▶ byte E4
//! byte fallback (Llama 2)     "▁wor" ─▶ " wor"      "<0xE4>" ─▶ byte E4
//! otherwise                   the token's own characters
//! ```

use crate::Tokenizer;
use crate::byte_level::byte_characters;
use serde_json::Value;
use std::collections::HashMap;

/// The bytes of every token of a tokenizer.
#[derive(Clone, Debug)]
pub struct Pieces {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl Pieces {
    /// Ids are below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What token `id` adds to a text; a special token's name. Nothing for ids without a token.
    #[must_use]
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        &self.bytes[id.checked_sub(1).map_or(0, |before| self.ends[before])..end]
    }

    /// Whether the token stands for something that is no text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    ByteLevel,
    /// `spaces`: U+2581 stands for a space.
    Plain {
        spaces: bool,
        fallback: bool,
    },
}

impl Style {
    fn of(json: &Value) -> Self {
        let decoder = &json["decoder"];
        let several = decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice);
        let has = |kind: &str| decoder["type"] == kind || several.iter().any(|one| one["type"] == kind);
        if has("ByteLevel") {
            return Self::ByteLevel;
        }
        let replaces = |one: &Value| one["type"] == "Replace" && one["pattern"]["String"] == "\u{2581}";
        Self::Plain {
            spaces: has("Metaspace") || replaces(decoder) || several.iter().any(replaces),
            fallback: has("ByteFallback") || json["model"]["byte_fallback"] == true,
        }
    }

    fn append(self, token: &str, bytes_of: &HashMap<char, u8>, to: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => {
                for character in token.chars() {
                    match bytes_of.get(&character) {
                        Some(&byte) => to.push(byte),
                        None => to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            Self::Plain { spaces, fallback } => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) if fallback => to.push(byte),
                    _ if spaces => to.extend_from_slice(token.replace('\u{2581}', " ").as_bytes()),
                    _ => to.extend_from_slice(token.as_bytes()),
                }
            }
        }
    }
}

impl Tokenizer {
    /// The bytes of every token.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        let style = serde_json::from_slice(self.json())
            .map_or(Style::Plain { spaces: false, fallback: false }, |json: Value| Style::of(&json));
        let bytes_of: HashMap<char, u8> = byte_characters().into_iter().zip(0..=255).collect();
        let added = self.inner().get_added_tokens_decoder();
        let mut pieces = Pieces { bytes: Vec::new(), ends: Vec::new(), special: Vec::new() };
        for id in 0..self.vocab() as u32 {
            match added.get(&id) {
                Some(token) => pieces.bytes.extend_from_slice(token.content.as_bytes()),
                None => {
                    if let Some(token) = self.inner().id_to_token(id) {
                        style.append(&token, &bytes_of, &mut pieces.bytes);
                    }
                }
            }
            pieces.ends.push(pieces.bytes.len());
            pieces.special.push(added.get(&id).is_some_and(|token| token.special));
        }
        pieces
    }

    /// Special tokens by name, longest first.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<(String, u32)> {
        let added = self.inner().get_added_tokens_decoder();
        let mut found: Vec<(String, u32)> = added
            .iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(&id, token)| (token.content.clone(), id))
            .collect();
        found.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenizerKind;

    #[test]
    fn the_pieces_of_a_text_put_together_are_the_text() {
        let text = "Zwölf Boxkämpfer, 数学と言語 — \u{1f980}!\n";
        let tokenizer = Tokenizer::train(TokenizerKind::Bpe, 300, std::iter::repeat_n(text, 20)).unwrap();
        let pieces = tokenizer.pieces();
        let bytes: Vec<u8> =
            tokenizer.encode(text).unwrap().iter().flat_map(|&id| pieces.bytes(id).to_vec()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        assert_eq!(pieces.len(), tokenizer.vocab());
        let end = tokenizer.eod().unwrap();
        assert!(pieces.is_special(end) && !pieces.is_special(end + 1));
        assert_eq!(tokenizer.special_tokens(), [("<|endoftext|>".to_owned(), end)]);
    }

    #[test]
    fn byte_fallback_tokens_are_bytes_and_the_mark_is_a_space() {
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
            ]},
            "model": {"type": "BPE", "vocab": {"\u{2581}a": 0, "<0xE4>": 1, "b": 2}, "merges": [],
                      "byte_fallback": true},
        });
        let pieces = Tokenizer::from_json("t", json.to_string().into_bytes(), None).unwrap().pieces();
        assert_eq!((pieces.bytes(0), pieces.bytes(1), pieces.bytes(2)), (&b" a"[..], &[0xe4][..], &b"b"[..]));
        assert!(pieces.bytes(3).is_empty());
    }
}
