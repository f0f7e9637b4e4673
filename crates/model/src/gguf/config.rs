//! From a GGUF file's metadata to a model and back.

use super::metadata::{Metadata, Value};
use super::parse::Head;
use crate::ModelError;
use std::path::Path;
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};

/// Keys of the `llama` architecture that are read, or that are required to have the one value that is computed.
const READ: [&str; 12] = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "vocab_size",
];

pub(super) fn model(path: &Path, head: &Head) -> Result<Model, ModelError> {
    let config = Config { path, metadata: &head.metadata };
    match config.metadata.get("general.architecture").and_then(Value::text) {
        Some("llama") => {}
        _ => return Err(config.refuse("general.architecture", "must be \"llama\"")),
    }
    config.check()?;
    let dims = |name: &str| head.tensors.iter().find(|t| t.name == name).map(|t| t.dims.as_slice());
    let Some(&[vocab, _]) = dims("token_embd.weight") else {
        return Err(ModelError::file(path, "has no tensor `token_embd.weight` of two dimensions"));
    };
    if let Some(stated) = config.size("llama.vocab_size")?
        && stated != vocab
    {
        return Err(config.refuse("llama.vocab_size", format!("token_embd.weight has {vocab} rows")));
    }
    let (hidden, heads) =
        (config.required("llama.embedding_length")?, config.required("llama.attention.head_count")?);
    let kv_heads = config.size("llama.attention.head_count_kv")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.refuse("llama.attention.head_count_kv", format!("must divide {heads} heads")));
    }
    let head_dim = match config.size("llama.attention.key_length")? {
        Some(width) => width,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(config.refuse("llama.attention.head_count", format!("must divide {hidden}"))),
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if config.size(key)?.is_some_and(|width| width != head_dim) {
            return Err(
                config.refuse(key, format!("not supported here, only the width of a head, {head_dim}"))
            );
        }
    }
    if !head_dim.is_multiple_of(2) {
        return Err(config.refuse("llama.attention.key_length", "must be even with rotary positions"));
    }
    Ok(Model {
        layers: config.required("llama.block_count")?,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn: config.required("llama.feed_forward_length")?,
        vocab,
        sequence: config.required("llama.context_length")?,
        norm: NormKind::Rms,
        norm_eps: config.number("llama.attention.layer_norm_rms_epsilon", None)?,
        activation: Activation::Swiglu,
        positions: Positions::Rotary { base: config.number("llama.rope.freq_base", Some(10_000.0))? },
        bias: false,
        tied: dims("output.weight").is_none(),
        mask: Mask::Causal,
        dropout: Dropout::default(),
        init: Init { std: 0.02, scale_outputs: false },
    })
}

struct Config<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
}

impl Config<'_> {
    fn refuse(&self, key: &str, rule: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.into(),
            field: key.into(),
            value: self.metadata.get(key).map_or("missing".into(), Value::to_string),
            rule: rule.into(),
        }
    }

    /// Every key of the architecture must be known, and what is not computed here must be absent or neutral.
    fn check(&self) -> Result<(), ModelError> {
        for (key, value) in &self.metadata.0 {
            let rule = match key.strip_prefix("llama.") {
                None if key == "split.count" && value.whole() != Some(1) => {
                    "parts of split files must be joined"
                }
                None => continue,
                Some(key) if READ.contains(&key) => continue,
                Some("rope.scaling.type") if value.text() == Some("none") => continue,
                Some("expert_count" | "expert_used_count") if value.whole() == Some(0) => continue,
                Some("rope.scaling.factor") if value.number() == Some(1.0) => continue,
                Some("attention.causal") if value.flag() == Some(true) => continue,
                Some(_) => "this is not computed here",
            };
            return Err(self.refuse(key, rule));
        }
        Ok(())
    }

    fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.whole().filter(|&n| n > 0 && n <= 1 << 40) {
                Some(n) => Ok(Some(n)),
                None => Err(self.refuse(key, "must be one whole number of at least 1")),
            },
        }
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.size(key)?.ok_or_else(|| self.refuse(key, "must be a whole number of at least 1"))
    }

    fn number(&self, key: &str, default: Option<f32>) -> Result<f32, ModelError> {
        let found = self.metadata.get(key).map(Value::number);
        match (found, default) {
            (Some(Some(n)), _) if n.is_finite() && n > 0.0 => Ok(n as f32),
            (None, Some(default)) => Ok(default),
            _ => Err(self.refuse(key, "must be a number above 0")),
        }
    }
}

/// The metadata of a model that [`super::export()`] can write; `base` of its rotary positions.
pub(super) fn describe(model: &Model, base: f32, file_type: u32) -> Metadata {
    let mut metadata = Metadata::default();
    let whole = |n: usize| Value::Unsigned(n as u64);
    let entries = [
        ("general.architecture", Value::Text("llama".into())),
        ("general.file_type", Value::Unsigned(file_type.into())),
        ("general.quantization_version", Value::Unsigned(2)),
        ("llama.block_count", whole(model.layers)),
        ("llama.context_length", whole(model.sequence)),
        ("llama.embedding_length", whole(model.hidden)),
        ("llama.feed_forward_length", whole(model.ffn)),
        ("llama.attention.head_count", whole(model.heads)),
        ("llama.attention.head_count_kv", whole(model.kv_heads)),
        ("llama.attention.key_length", whole(model.head_dim)),
        ("llama.attention.value_length", whole(model.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(model.norm_eps.into())),
        ("llama.rope.freq_base", Value::Float(base.into())),
        ("llama.rope.dimension_count", whole(model.head_dim)),
        ("llama.vocab_size", whole(model.vocab)),
    ];
    for (key, value) in entries {
        metadata.push(key, value);
    }
    metadata
}
