//! `config.json` of GPT-2 and Llama models: every field is read, required to have the one value that is
//! computed here, known not to matter for the network, or refused.

use super::Architecture;
use super::fields::{COMMON, FREE, Field, GPT2, LLAMA};
use crate::ModelError;
use serde_json::{Map, Value, json};
use std::path::Path;
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use triax_tensor::DType;

/// Reads a `config.json`.
pub(crate) fn read(path: &Path) -> Result<(Architecture, Model), ModelError> {
    let text = std::fs::read(path).map_err(|e| ModelError::io(path, e))?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.into(), source })?;
    let config = Config { path, fields };
    let architecture = match config.fields.get("model_type").and_then(Value::as_str) {
        Some("gpt2") => Architecture::Gpt2,
        Some("llama") => Architecture::Llama,
        _ => return Err(config.refuse("model_type", "must be \"gpt2\" or \"llama\"")),
    };
    config.check(match architecture {
        Architecture::Gpt2 => GPT2,
        Architecture::Llama => LLAMA,
    })?;
    let model = match architecture {
        Architecture::Gpt2 => config.gpt2()?,
        Architecture::Llama => config.llama()?,
    };
    Ok((architecture, model))
}

struct Config<'a> {
    path: &'a Path,
    fields: Map<String, Value>,
}

impl Config<'_> {
    fn refuse(&self, field: &str, rule: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.into(),
            field: field.into(),
            value: self.fields.get(field).map_or("missing".into(), Value::to_string),
            rule: rule.into(),
        }
    }

    fn check(&self, own: &[(&str, Field)]) -> Result<(), ModelError> {
        for (name, value) in &self.fields {
            if FREE.contains(&name.as_str()) {
                continue;
            }
            match COMMON.iter().chain(own).find(|(known, _)| known == name) {
                Some((_, Field::Read | Field::Free)) => {}
                Some((_, Field::Only(text))) => {
                    let only: Value = serde_json::from_str(text).expect("the tables of fields hold JSON");
                    let same = match (value.as_f64(), only.as_f64()) {
                        (Some(a), Some(b)) => a == b,
                        _ => *value == only,
                    };
                    if !same && !value.is_null() {
                        return Err(self.refuse(name, format!("not supported here, only {text}")));
                    }
                }
                None => {
                    return Err(
                        self.refuse(name, "this field is not known here; remove it if it does not matter")
                    );
                }
            }
        }
        Ok(())
    }

    fn optional<T>(
        &self,
        field: &str,
        get: impl Fn(&Value) -> Option<T>,
        kind: &str,
    ) -> Result<Option<T>, ModelError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => get(value).map(Some).ok_or_else(|| self.refuse(field, format!("must be {kind}"))),
        }
    }

    fn size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        let get = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        self.optional(field, get, "a whole number of at least 1")
    }

    fn required(&self, field: &str) -> Result<usize, ModelError> {
        self.size(field)?.ok_or_else(|| self.refuse(field, "must be a whole number of at least 1"))
    }

    fn number(&self, field: &str, default: f32) -> Result<f32, ModelError> {
        Ok(self.optional(field, Value::as_f64, "a number")?.map_or(default, |n| n as f32))
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        Ok(self.optional(field, Value::as_bool, "true or false")?.unwrap_or(default))
    }

    fn gpt2(&self) -> Result<Model, ModelError> {
        match self.fields.get("activation_function").and_then(Value::as_str) {
            None | Some("gelu_new" | "gelu_pytorch_tanh") => {}
            Some(_) => {
                return Err(
                    self.refuse("activation_function", "only \"gelu_new\" (the tanh form) is supported")
                );
            }
        }
        let (hidden, heads) = (self.required("n_embd")?, self.required("n_head")?);
        if !hidden.is_multiple_of(heads) {
            return Err(self.refuse("n_head", format!("must divide n_embd = {hidden}")));
        }
        let sequence = match (self.size("n_positions")?, self.size("n_ctx")?) {
            (Some(positions), Some(context)) if positions != context => {
                return Err(self.refuse("n_ctx", format!("must equal n_positions = {positions}")));
            }
            (Some(n), _) | (None, Some(n)) => n,
            (None, None) => return Err(self.refuse("n_positions", "must be a whole number of at least 1")),
        };
        Ok(Model {
            layers: self.required("n_layer")?,
            hidden,
            heads,
            kv_heads: heads,
            head_dim: hidden / heads,
            ffn: self.size("n_inner")?.unwrap_or(4 * hidden),
            vocab: self.required("vocab_size")?,
            sequence,
            norm: NormKind::Layer,
            norm_eps: self.number("layer_norm_epsilon", 1e-5)?,
            activation: Activation::Gelu,
            positions: Positions::Learned,
            bias: true,
            tied: self.flag("tie_word_embeddings", true)?,
            mask: Mask::Causal,
            dropout: Dropout {
                embedding: self.number("embd_pdrop", 0.1)?,
                attention: self.number("attn_pdrop", 0.1)?,
                hidden: self.number("resid_pdrop", 0.1)?,
            },
            init: Init { std: self.number("initializer_range", 0.02)?, scale_outputs: true },
        })
    }

    fn llama(&self) -> Result<Model, ModelError> {
        if !matches!(self.fields.get("hidden_act").and_then(Value::as_str), None | Some("silu" | "swish")) {
            return Err(self.refuse("hidden_act", "only \"silu\" is supported"));
        }
        let (hidden, heads) = (self.required("hidden_size")?, self.required("num_attention_heads")?);
        let kv_heads = self.size("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                self.refuse("num_key_value_heads", format!("must divide num_attention_heads = {heads}"))
            );
        }
        let head_dim = match self.size("head_dim")? {
            Some(width) => width,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(self.refuse("num_attention_heads", format!("must divide hidden_size = {hidden}")));
            }
        };
        Ok(Model {
            layers: self.required("num_hidden_layers")?,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn: self.required("intermediate_size")?,
            vocab: self.required("vocab_size")?,
            sequence: self.required("max_position_embeddings")?,
            norm: NormKind::Rms,
            norm_eps: self.number("rms_norm_eps", 1e-6)?,
            activation: Activation::Swiglu,
            positions: Positions::Rotary { base: self.rotary_base()? },
            bias: false,
            tied: self.flag("tie_word_embeddings", false)?,
            mask: Mask::Causal,
            dropout: Dropout { attention: self.number("attention_dropout", 0.0)?, ..Dropout::default() },
            init: Init { std: self.number("initializer_range", 0.02)?, scale_outputs: false },
        })
    }

    /// `rope_theta`, since version 5 of transformers inside `rope_parameters`; no scaling.
    fn rotary_base(&self) -> Result<f32, ModelError> {
        let mut base = self.optional("rope_theta", Value::as_f64, "a number")?;
        for field in ["rope_scaling", "rope_parameters"] {
            let Some(parameters) = self.optional(field, |v| v.as_object().cloned(), "an object")? else {
                continue;
            };
            for (name, value) in &parameters {
                match (name.as_str(), value) {
                    ("rope_type" | "type", Value::String(kind)) if kind == "default" => {}
                    ("partial_rotary_factor", value) if value.as_f64() == Some(1.0) => {}
                    ("rope_theta", value) if value.is_number() => {
                        if base.is_some() && base != value.as_f64() {
                            return Err(self.refuse(field, "contradicts rope_theta"));
                        }
                        base = value.as_f64();
                    }
                    _ => {
                        return Err(self.refuse(
                            field,
                            format!("`{name}` is not supported here, only the rope type \"default\""),
                        ));
                    }
                }
            }
        }
        Ok(base.unwrap_or(10_000.0) as f32)
    }
}

/// The architecture that computes what `model` computes.
///
/// Dropout matters to training alone, so a rate that the architecture has no field for does not hinder.
pub(crate) fn architecture_of(model: &Model) -> Result<Architecture, ModelError> {
    let gpt2 = [
        (model.norm == NormKind::Layer, "its norms are no layer norms"),
        (model.activation == Activation::Gelu, "its activation is not GELU"),
        (model.positions == Positions::Learned, "its positions are not learned"),
        (model.bias, "its linear layers have no biases"),
        (model.kv_heads == model.heads, "it groups key/value heads"),
        (model.heads * model.head_dim == model.hidden, "heads · head_dim is not the hidden size"),
        (model.mask == Mask::Causal, "its mask is not causal"),
    ];
    let llama = [
        (model.norm == NormKind::Rms, "its norms are no RMS norms"),
        (model.activation == Activation::Swiglu, "its activation is not SwiGLU"),
        (matches!(model.positions, Positions::Rotary { .. }), "its positions are not rotary"),
        (!model.bias, "its linear layers have biases"),
        (model.mask == Mask::Causal, "its mask is not causal"),
    ];
    let missing = |rules: &[(bool, &str)]| {
        let reasons: Vec<&str> = rules.iter().filter(|(holds, _)| !holds).map(|&(_, why)| why).collect();
        (reasons.len(), reasons.join(", "))
    };
    let (gpt2, llama) = (missing(&gpt2), missing(&llama));
    match (gpt2.0, llama.0) {
        (0, _) => Ok(Architecture::Gpt2),
        (_, 0) => Ok(Architecture::Llama),
        (a, b) if a <= b => {
            Err(ModelError::NotExportable { architecture: "Hugging Face GPT-2 folder", reason: gpt2.1 })
        }
        _ => Err(ModelError::NotExportable { architecture: "Hugging Face Llama folder", reason: llama.1 }),
    }
}

/// The `config.json` of `model`.
pub(crate) fn write(architecture: Architecture, model: &Model, dtype: DType) -> Value {
    let dtype = match dtype {
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    match (architecture, model.positions) {
        (Architecture::Llama, Positions::Rotary { base }) => json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": exact(model.dropout.attention),
            "head_dim": model.head_dim,
            "hidden_act": "silu",
            "hidden_size": model.hidden,
            "initializer_range": exact(model.init.std),
            "intermediate_size": model.ffn,
            "max_position_embeddings": model.sequence,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": model.heads,
            "num_hidden_layers": model.layers,
            "num_key_value_heads": model.kv_heads,
            "rms_norm_eps": exact(model.norm_eps),
            "rope_theta": exact(base),
            "tie_word_embeddings": model.tied,
            "torch_dtype": dtype,
            "vocab_size": model.vocab,
            "bos_token_id": null,
            "eos_token_id": null,
        }),
        _ => json!({
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": exact(model.dropout.attention),
            "embd_pdrop": exact(model.dropout.embedding),
            "initializer_range": exact(model.init.std),
            "layer_norm_epsilon": exact(model.norm_eps),
            "model_type": "gpt2",
            "n_embd": model.hidden,
            "n_head": model.heads,
            "n_inner": model.ffn,
            "n_layer": model.layers,
            "n_positions": model.sequence,
            "resid_pdrop": exact(model.dropout.hidden),
            "tie_word_embeddings": model.tied,
            "torch_dtype": dtype,
            "vocab_size": model.vocab,
            "bos_token_id": null,
            "eos_token_id": null,
        }),
    }
}

/// The shortest decimal that reads back as the same f32, so that 1e-5 is not written as 9.99999974e-6.
fn exact(value: f32) -> f64 {
    value.to_string().parse().expect("a float prints as a float")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama(change: impl Fn(&mut Map<String, Value>)) -> Result<Model, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let mut fields = json!({
            "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 16, "vocab_size": 10, "max_position_embeddings": 32,
        });
        change(fields.as_object_mut().unwrap());
        std::fs::write(&path, fields.to_string()).unwrap();
        read(&path).map(|(_, model)| model)
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_name() {
        let refused: &[(&str, Value)] = &[
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("sliding_window", json!(4096)),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
            ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 1e4})),
            ("quantization_config", json!({"bits": 4})),
            ("num_experts", json!(8)),
            ("num_key_value_heads", json!(3)),
            ("vocab_size", json!(0)),
            ("head_dim", json!("four")),
            ("model_type", json!("mamba")),
        ];
        for (field, value) in refused {
            let message = llama(|f| drop(f.insert((*field).into(), value.clone()))).unwrap_err().to_string();
            assert!(message.contains(&format!("`{field}`")), "{field}: {message}");
        }
    }

    #[test]
    fn the_rotary_base_is_read_from_either_place() {
        let base = |model: Model| model.positions;
        assert_eq!(base(llama(|_| ()).unwrap()), Positions::Rotary { base: 10_000.0 });
        let old = llama(|f| drop(f.insert("rope_theta".into(), json!(5e5)))).unwrap();
        assert_eq!(base(old), Positions::Rotary { base: 5e5 });
        let new = json!({"rope_theta": 1e6, "rope_type": "default"});
        let new = llama(|f| drop(f.insert("rope_parameters".into(), new.clone()))).unwrap();
        assert_eq!(base(new), Positions::Rotary { base: 1e6 });
    }
}
