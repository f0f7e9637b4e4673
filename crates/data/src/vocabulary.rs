//! Byte-level BPE as a list of tokens and merges, the form in which GGUF files carry it.

use crate::{DataError, Tokenizer};
use serde_json::{Value, json};

/// A byte-level BPE tokenizer taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// By id, bytes in the guise of visible characters.
    pub tokens: Vec<String>,
    /// What each token is; as many as tokens.
    pub kinds: Vec<TokenKind>,
    /// Two tokens with a space between, the first merge first.
    pub merges: Vec<String>,
    pub pattern: Pattern,
    /// The token that ends a document.
    pub end: Option<u32>,
}

/// What a token stands for; the numbers are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Normal = 1,
    /// Ends documents, separates turns; never comes from text.
    Control = 3,
    /// Found in text before anything else.
    UserDefined = 4,
    /// Holds a place.
    Unused = 5,
}

impl TokenKind {
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        [Self::Normal, Self::Control, Self::UserDefined, Self::Unused]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// How a text is cut into words before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// GPT-2's.
    Gpt2,
    /// GPT-2's, with every digit a word.
    Digits,
    /// Llama 3's.
    Llama3,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pattern {
    /// Names that GGUF files give it, the one to write first.
    const NAMES: [(Self, &'static [&'static str]); 3] = [
        (Self::Gpt2, &["gpt-2", "gpt2", "phi-2", "mpt", "olmo"]),
        (Self::Digits, &["smollm", "starcoder", "refact", "command-r", "codeshell"]),
        (Self::Llama3, &["llama-bpe", "llama3", "llama-v3"]),
    ];

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, names)| names.contains(&name)).map(|&(pattern, _)| pattern)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(pattern, _)| *pattern == self).map_or("", |(_, names)| names[0])
    }

    fn to_json(self) -> Value {
        let words = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        match self {
            Self::Gpt2 => words(true),
            Self::Digits => json!({
                "type": "Sequence",
                "pretokenizers": [{ "type": "Digits", "individual_digits": true }, words(true)],
            }),
            Self::Llama3 => json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "Split", "pattern": { "Regex": LLAMA3 }, "behavior": "Isolated", "invert": false },
                    words(false),
                ],
            }),
        }
    }

    fn of_json(json: &Value) -> Option<Self> {
        let words = |json: &Value| {
            json["type"] == "ByteLevel" && json["add_prefix_space"] == false && json["use_regex"] != false
        };
        if words(json) {
            return Some(Self::Gpt2);
        }
        match json["pretokenizers"].as_array()?.as_slice() {
            [digits, last]
                if digits["type"] == "Digits" && digits["individual_digits"] == true && words(last) =>
            {
                Some(Self::Digits)
            }
            [split, last] if split["pattern"]["Regex"] == LLAMA3 && last["type"] == "ByteLevel" => {
                Some(Self::Llama3)
            }
            _ => None,
        }
    }
}

impl Tokenizer {
    /// Puts a tokenizer together.
    ///
    /// # Errors
    /// When the lists do not fit together.
    pub fn from_vocabulary(name: &str, vocabulary: &Vocabulary) -> Result<Self, DataError> {
        let fault = |message: String| DataError::Tokenizer { name: name.to_owned(), message };
        let Vocabulary { tokens, kinds, merges, pattern, end } = vocabulary;
        if tokens.len() != kinds.len() {
            return Err(fault(format!("{} tokens and {} kinds of tokens", tokens.len(), kinds.len())));
        }
        let ids: serde_json::Map<String, Value> =
            tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        if ids.len() != tokens.len() {
            return Err(fault(format!(
                "{} of its {} tokens are there twice",
                tokens.len() - ids.len(),
                tokens.len()
            )));
        }
        let added: Vec<Value> = tokens
            .iter()
            .zip(kinds)
            .enumerate()
            .filter(|(_, (_, kind))| matches!(kind, TokenKind::Control | TokenKind::UserDefined))
            .map(|(id, (token, kind))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind == TokenKind::Control,
                })
            })
            .collect();
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pattern.to_json(), "post_processor": null, "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": *pattern == Pattern::Llama3, "vocab": ids, "merges": merges,
            },
        });
        let end = match end {
            None => None,
            Some(id) => Some(
                tokens
                    .get(*id as usize)
                    .ok_or_else(|| fault(format!("its end has the id {id}, beyond all")))?,
            ),
        };
        Self::from_json(name, json.to_string().into_bytes(), end.map(String::as_str))
    }

    /// Takes the tokenizer apart.
    ///
    /// # Errors
    /// When it is no byte-level BPE of a known [`Pattern`].
    pub fn vocabulary(&self) -> Result<Vocabulary, DataError> {
        let name = &self.identity().name;
        let fault = |message: &str| DataError::Tokenizer { name: name.clone(), message: message.to_owned() };
        let json: Value =
            serde_json::from_slice(self.json()).map_err(|error| fault(&format!("no JSON: {error}")))?;
        let model = &json["model"];
        let (Some(vocab), Some(merges), "BPE") =
            (model["vocab"].as_object(), model["merges"].as_array(), model["type"].as_str().unwrap_or(""))
        else {
            return Err(fault("is no byte-pair encoding, the one kind that is written here"));
        };
        let pattern = Pattern::of_json(&json["pre_tokenizer"])
            .filter(|_| json["normalizer"].is_null())
            .ok_or_else(|| fault("cuts words in a way that has no name in GGUF files"))?;
        let mut tokens: Vec<String> = (0..self.vocab()).map(|id| format!("[unused {id}]")).collect();
        let mut kinds = vec![TokenKind::Unused; tokens.len()];
        let mut place = |id: Option<u64>, token: &str, kind| {
            if let Some(id) = id.map(|id| id as usize).filter(|&id| id < tokens.len()) {
                (tokens[id], kinds[id]) = (token.to_owned(), kind);
            }
        };
        for (token, id) in vocab {
            place(id.as_u64(), token, TokenKind::Normal);
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let kind = if token["special"] == true { TokenKind::Control } else { TokenKind::UserDefined };
            place(token["id"].as_u64(), token["content"].as_str().unwrap_or_default(), kind);
        }
        let merges = merges.iter().map(|merge| match merge {
            Value::String(pair) => Some(pair.clone()),
            pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
        });
        let merges = merges.collect::<Option<_>>().ok_or_else(|| fault("has merges that are no pairs"))?;
        Ok(Vocabulary { tokens, kinds, merges, pattern, end: self.eod() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenizerKind;

    #[test]
    fn taken_apart_and_put_together_a_tokenizer_is_the_same() {
        let texts = ["the cat sat on the mat, 1984 times", "naïve 猫 caves\n\n  indented 7"];
        let tokenizer = Tokenizer::train(TokenizerKind::Bpe, 300, texts.iter()).unwrap();
        let vocabulary = tokenizer.vocabulary().unwrap();
        assert_eq!(vocabulary.pattern, Pattern::Gpt2);
        let again = Tokenizer::from_vocabulary("again", &vocabulary).unwrap();
        assert_eq!(again.eod(), tokenizer.eod());
        for text in texts.iter().chain(&["caves <|endoftext|> at 猫\t12345"]) {
            assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{text}");
            assert_eq!(again.decode(&again.encode(text).unwrap()).unwrap(), *text);
        }
        assert_eq!(again.vocabulary().unwrap(), vocabulary);
    }

    #[test]
    fn digits_stand_alone_where_the_pattern_says_so() {
        let tokenizer = Tokenizer::train(TokenizerKind::Bpe, 270, ["12 12 12 12 ab ab ab"].iter()).unwrap();
        let whole = tokenizer.vocabulary().unwrap();
        let digits = Vocabulary { pattern: Pattern::Digits, ..whole };
        let again = Tokenizer::from_vocabulary("digits", &digits).unwrap();
        assert!(again.encode("12").unwrap().len() > tokenizer.encode("12").unwrap().len());
        assert_eq!(again.vocabulary().unwrap().pattern, Pattern::Digits);
    }

    #[test]
    fn what_cannot_be_taken_apart_is_refused() {
        let tokenizer = Tokenizer::train(TokenizerKind::Unigram, 280, ["some text to cut"].iter()).unwrap();
        assert!(tokenizer.vocabulary().unwrap_err().to_string().contains("byte-pair"));
        let tokens = vec!["a".to_owned(), "a".to_owned()];
        let twice = Vocabulary {
            tokens,
            kinds: vec![TokenKind::Normal; 2],
            merges: Vec::new(),
            pattern: Pattern::Gpt2,
            end: None,
        };
        assert!(Tokenizer::from_vocabulary("twice", &twice).unwrap_err().to_string().contains("twice"));
    }
}
