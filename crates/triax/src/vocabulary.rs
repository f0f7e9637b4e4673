//! The tokenizer in a GGUF file's metadata, both ways.

use triax_data::{Pattern, TokenKind, Vocabulary};
use triax_model::gguf::{Metadata, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MODEL: &str = "tokenizer.ggml.model";
const PATTERN: &str = "tokenizer.ggml.pre";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const END: &str = "tokenizer.ggml.eos_token_id";

/// The tokenizer, when the file has one.
///
/// # Errors
/// What it says that no tokenizer here does.
pub(crate) fn of_metadata(metadata: &Metadata) -> Result<Option<Vocabulary>, String> {
    if metadata.get(MODEL).is_none() && metadata.get(TOKENS).is_none() {
        return Ok(None);
    }
    let text = |key: &str| metadata.get(key).and_then(Value::text).unwrap_or("missing");
    if text(MODEL) != "gpt2" {
        return Err(format!("{MODEL} is {}: only gpt2 (byte-level BPE) is supported", text(MODEL)));
    }
    if metadata.get("tokenizer.ggml.add_bos_token").and_then(Value::flag) == Some(true) {
        return Err("tokenizer.ggml.add_bos_token is true: nothing is put before texts here".into());
    }
    let pattern = Pattern::named(text(PATTERN))
        .ok_or_else(|| format!("{PATTERN} is {}: how it cuts words is not known here", text(PATTERN)))?;
    let texts = |key: &str| metadata.texts(key).ok_or_else(|| format!("{key} is no list of texts"));
    let kinds = metadata.get(KINDS).and_then(Value::list).ok_or_else(|| format!("{KINDS} is no list"))?;
    let kind = |value: &Value| {
        let known = value.whole().and_then(|number| TokenKind::of(number as u64));
        known.ok_or_else(|| format!("{KINDS} has {value}, which is not known here"))
    };
    let end = metadata.get(END).map(|value| {
        let id = value.whole().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| format!("{END} is {value}, no id"))
    });
    Ok(Some(Vocabulary {
        tokens: texts(TOKENS)?,
        kinds: kinds.iter().map(kind).collect::<Result<_, _>>()?,
        merges: texts(MERGES)?,
        pattern,
        end: end.transpose()?,
    }))
}

/// The entries for a tokenizer beside a model of `vocab` ids; ids without a token are called unused.
pub(crate) fn to_metadata(vocabulary: &Vocabulary, vocab: usize) -> Metadata {
    let Vocabulary { tokens, kinds, merges, pattern, end } = vocabulary;
    let mut metadata = Metadata::default();
    let texts = |texts: Vec<String>| Value::List(texts.into_iter().map(Value::Text).collect());
    let unused = (tokens.len()..vocab).map(|id| format!("[unused {id}]"));
    let kinds = kinds.iter().copied().chain(std::iter::repeat(TokenKind::Unused)).take(vocab);
    metadata.push(MODEL, Value::Text("gpt2".into()));
    metadata.push(PATTERN, Value::Text(pattern.name().into()));
    metadata.push(TOKENS, texts(tokens.iter().cloned().chain(unused).collect()));
    metadata.push(KINDS, Value::List(kinds.map(|kind| Value::Signed(kind as i64)).collect()));
    metadata.push(MERGES, texts(merges.clone()));
    metadata.push("tokenizer.ggml.add_bos_token", Value::Bool(false));
    metadata.push("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    if let Some(end) = end {
        for key in [END, "tokenizer.ggml.bos_token_id"] {
            metadata.push(key, Value::Unsigned(u64::from(*end)));
        }
    }
    metadata
}
