//! The tokenizer over HTTP, as evaluators use it: `/tokenize`, `/detokenize`, `/tokenizer_info`.

use crate::error::ApiError;
use crate::fields::Fields;
use crate::router::App;
use crate::sampling::check_model;
use crate::stream;
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn tokenize(app: Arc<App>, mut fields: Fields) -> Result<Response, ApiError> {
    check_model(&mut fields, &app)?;
    let text: String = fields.require("prompt")?;
    // The tokenizers here put nothing before a text, so both say the same.
    fields.take::<bool>("add_special_tokens")?;
    fields.end()?;
    let tokens =
        app.vocabulary.encode(&text, true).map_err(|error| ApiError::field("prompt", error.to_string()))?;
    stream::json(&json!({
        "count": tokens.len(), "max_model_len": app.core.shape.context, "tokens": tokens,
    }))
}

pub(crate) async fn detokenize(app: Arc<App>, mut fields: Fields) -> Result<Response, ApiError> {
    check_model(&mut fields, &app)?;
    let tokens: Vec<u32> = fields.require("tokens")?;
    fields.end()?;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= app.core.shape.vocab) {
        let message = format!("token {id} is beyond the vocabulary of {}", app.core.shape.vocab);
        return Err(ApiError::field("tokens", message));
    }
    let bytes: Vec<u8> = tokens.iter().flat_map(|&id| app.vocabulary.bytes(id)).copied().collect();
    stream::json(&json!({"prompt": String::from_utf8_lossy(&bytes)}))
}

pub(crate) fn info(app: &App) -> Result<Response, ApiError> {
    let end = app.vocabulary.end_name();
    let chat = app.chat_template.as_ref();
    stream::json(&json!({
        "eos_token": end,
        "bos_token": chat.and_then(|chat| chat.start.as_ref()).or(end.as_ref()),
        "pad_token": end,
        "chat_template": chat.map(|chat| &chat.source),
        "vocab_size": app.vocabulary.len(),
        "max_model_len": app.core.shape.context,
    }))
}
