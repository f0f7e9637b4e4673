//! `POST /v1/chat/completions`: the next message of a chat, whose messages a template makes into one text.

use crate::assembly::{Entry, Piece};
use crate::completions::usage;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::router::App;
use crate::run::{Run, Telling, Usage};
use crate::sampling::{Common, Prompt, TOP, check_model};
use crate::stream::{self, Chunks};
use crate::template::Message;
use crate::vocabulary::Vocabulary;
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a text or a list of parts of type text")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

fn message(
    vocabulary: &Vocabulary,
    place: usize,
    map: BTreeMap<String, Box<RawValue>>,
) -> Result<Message, ApiError> {
    let at = |name: &str| format!("messages[{place}].{name}");
    let mut fields = Fields::new(map, at(""));
    let role: String = fields.require("role")?;
    let content: Content = fields.require("content")?;
    // Names are told apart by few templates, and by none that comes with a model of this kind.
    fields.end()?;
    if !ROLES.contains(&role.as_str()) {
        return Err(ApiError::field(at("role"), format!("`role` must be one of {}", ROLES.join(", "))));
    }
    let content = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => {
            if let Some(part) = parts.iter().find(|part| part.kind != "text") {
                let message = format!("parts of type `{}` are not supported: text only", part.kind);
                return Err(ApiError::field(at("content"), message));
            }
            parts.into_iter().map(|part| part.text).collect()
        }
    };
    Ok(Message { role, content: vocabulary.spell_out(&content) })
}

pub(crate) async fn answer(app: Arc<App>, mut fields: Fields) -> Result<Response, ApiError> {
    check_model(&mut fields, &app)?;
    let common = Common::take(&mut fields)?;
    let messages: Vec<BTreeMap<String, Box<RawValue>>> = fields.require("messages")?;
    let most = fields.take::<usize>("max_completion_tokens")?;
    let most = fields.take::<usize>("max_tokens")?.or(most);
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.take::<usize>("top_logprobs")?.unwrap_or(0);
    fields.end()?;
    if top > TOP || (top > 0 && !logprobs) {
        let message = format!("`top_logprobs` must be 0 to {TOP}, and needs `logprobs`");
        return Err(ApiError::field("top_logprobs", message));
    }
    if messages.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty"));
    }
    let messages = messages.into_iter().enumerate().map(|(place, map)| message(&app.vocabulary, place, map));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let Some(template) = &app.template else {
        let message = "this model has no chat template; ask for completions, or start the server with one";
        return Err(ApiError::field("messages", message));
    };
    let text = template.render(&messages).map_err(|error| ApiError::field("messages", error))?;
    let fault = |error: triax_data::DataError| ApiError::field("messages", error.to_string());
    let tokens = app.vocabulary.encode_chat(&text).map_err(fault)?;
    let ends = app.vocabulary.turn_ends();
    let prompt = Prompt {
        tokens: &tokens,
        score: false,
        top,
        max_tokens: most.unwrap_or(app.core.shape.context),
        ends: &ends,
    };
    let jobs = (0..common.texts).map(|text| common.job(&app, &prompt, text)).collect();
    let telling = Telling { echo: false, stops: common.stops.clone(), stop_tokens: false, param: "messages" };
    let mut run = Run::start(&app.core, &app.vocabulary, jobs, common.texts, &telling, app.limits.request)?;
    let form = Form {
        id: app.id("chatcmpl"),
        created: app.now(),
        name: app.name.clone(),
        vocabulary: Arc::clone(&app.vocabulary),
        logprobs,
        usage: common.usage_in_stream,
    };
    if common.stream {
        return Ok(stream::respond(run, form));
    }
    let texts = run.all().await?;
    let choices = texts.into_iter().enumerate().map(|(index, piece)| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": piece.text},
            "logprobs": form.logprobs(&piece.entries),
            "finish_reason": piece.finish,
        })
    });
    let mut answer = form.whole("chat.completion", choices.collect());
    answer["usage"] = usage(run.usage);
    stream::json(&answer)
}

/// How the answer is written.
struct Form {
    id: String,
    created: u64,
    name: String,
    vocabulary: Arc<Vocabulary>,
    logprobs: bool,
    usage: bool,
}

impl Form {
    fn whole(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.name, "choices": choices,
        })
    }

    fn chunk_of(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.whole("chat.completion.chunk", choices);
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn logprobs(&self, entries: &[Entry]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let one = |token: u32, log_prob: f32| {
            json!({
                "token": self.vocabulary.name(token),
                "logprob": log_prob,
                "bytes": self.vocabulary.bytes(token),
            })
        };
        let all = entries.iter().filter_map(|entry| {
            let mut told = one(entry.token, entry.log_prob?);
            told["top_logprobs"] = entry.top.iter().map(|&(token, log_prob)| one(token, log_prob)).collect();
            Some(told)
        });
        json!({"content": all.collect::<Vec<_>>()})
    }
}

impl Chunks for Form {
    fn first(&self, choices: usize) -> Vec<Value> {
        let role = |index| {
            json!({
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": null,
                "finish_reason": null,
            })
        };
        (0..choices).map(|index| self.chunk_of(vec![role(index)])).collect()
    }

    fn chunk(&self, choice: usize, piece: Piece) -> Vec<Value> {
        let mut chunks = Vec::new();
        if !piece.text.is_empty() || !piece.entries.is_empty() {
            chunks.push(self.chunk_of(vec![json!({
                "index": choice,
                "delta": {"content": piece.text},
                "logprobs": self.logprobs(&piece.entries),
                "finish_reason": null,
            })]));
        }
        if piece.finish.is_some() {
            chunks.push(self.chunk_of(vec![json!({
                "index": choice, "delta": {}, "logprobs": null, "finish_reason": piece.finish,
            })]));
        }
        chunks
    }

    fn last(&self, used: Usage) -> Option<Value> {
        self.usage.then(|| {
            let mut chunk = self.chunk_of(Vec::new());
            chunk["usage"] = usage(used);
            chunk
        })
    }
}
