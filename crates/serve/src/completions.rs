//! `POST /v1/completions`: continues texts, or tells how likely they are (echo with logprobs).

use crate::assembly::{Entry, Piece};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::router::App;
use crate::run::{Run, Telling, Usage};
use crate::sampling::{Common, Prompt, TOP, check_model};
use crate::stream::{self, Chunks};
use crate::vocabulary::Vocabulary;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Tokens made where a request does not say how many.
const USUAL_TOKENS: usize = 16;

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "must be a string, a list of strings, a list of token ids or a list of such lists"
)]
enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

impl Prompts {
    fn tokens(self, vocabulary: &Vocabulary, start: Option<u32>) -> Result<Vec<Vec<u32>>, ApiError> {
        let lists = match self {
            Self::Text(text) => vec![encode(vocabulary, &text, start)?],
            Self::Texts(texts) => {
                texts.iter().map(|text| encode(vocabulary, text, start)).collect::<Result<_, _>>()?
            }
            // Ids are used as they are.
            Self::Ids(ids) => vec![ids],
            Self::IdLists(lists) => lists,
        };
        if lists.is_empty() || lists.iter().any(Vec::is_empty) {
            return Err(ApiError::field("prompt", "`prompt` has no tokens"));
        }
        Ok(lists)
    }
}

/// An empty text starts a document.
fn encode(vocabulary: &Vocabulary, text: &str, start: Option<u32>) -> Result<Vec<u32>, ApiError> {
    let mut ids =
        vocabulary.encode(text, true).map_err(|error| ApiError::field("prompt", error.to_string()))?;
    if ids.is_empty() {
        ids.extend(start);
    }
    Ok(ids)
}

pub(crate) async fn answer(app: Arc<App>, mut fields: Fields) -> Result<Response, ApiError> {
    check_model(&mut fields, &app)?;
    let common = Common::take(&mut fields)?;
    let prompts: Prompts = fields.require("prompt")?;
    let echo = fields.take("echo")?.unwrap_or(false);
    let max_tokens = fields.take::<usize>("max_tokens")?.unwrap_or(USUAL_TOKENS);
    let top = fields.take::<usize>("logprobs")?;
    fields.end()?;
    if top.is_some_and(|top| top > TOP) {
        return Err(ApiError::field("logprobs", format!("`logprobs` must be 0 to {TOP}")));
    }
    let prompts = prompts.tokens(&app.vocabulary, app.core.document_start)?;
    let ends: Vec<u32> = app.vocabulary.end().into_iter().collect();
    let jobs = prompts
        .iter()
        .flat_map(|tokens| {
            let score = echo && top.is_some() && tokens.len() > 1;
            let prompt = Prompt { tokens, score, top: top.unwrap_or(0), max_tokens, ends: &ends };
            (0..common.texts).map(|text| common.job(&app, &prompt, text)).collect::<Vec<_>>()
        })
        .collect();
    // Evaluators count on an entry for each token made, also for one that ends a document.
    let telling = Telling { echo, stops: common.stops.clone(), stop_tokens: true, param: "prompt" };
    let mut run = Run::start(&app.core, &app.vocabulary, jobs, common.texts, &telling, app.limits.request)?;
    let form = Form {
        id: app.id("cmpl"),
        created: app.now(),
        name: app.name.clone(),
        vocabulary: Arc::clone(&app.vocabulary),
        logprobs: top.is_some(),
        usage: common.usage_in_stream,
        streamed: common.stream,
    };
    if common.stream {
        return Ok(stream::respond(run, form));
    }
    let texts = run.all().await?;
    let choices = texts.into_iter().enumerate().map(|(index, piece)| form.choice(index, piece)).collect();
    stream::json(&form.whole(choices, Some(usage(run.usage))))
}

/// Tokens of prompts, and tokens made.
pub(crate) fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached.min(usage.prompt)},
    })
}

/// How the answer is written.
struct Form {
    id: String,
    created: u64,
    name: String,
    vocabulary: Arc<Vocabulary>,
    logprobs: bool,
    usage: bool,
    streamed: bool,
}

impl Form {
    fn whole(&self, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut answer = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.name,
            "choices": choices,
        });
        if usage.is_some() || (self.streamed && self.usage) {
            answer["usage"] = usage.unwrap_or(Value::Null);
        }
        answer
    }

    fn choice(&self, index: usize, piece: Piece) -> Value {
        json!({
            "index": index,
            "text": piece.text,
            "logprobs": if self.logprobs { self.logprobs(&piece.entries) } else { Value::Null },
            "finish_reason": piece.finish,
        })
    }

    fn logprobs(&self, entries: &[Entry]) -> Value {
        let name = |token| self.vocabulary.name(token);
        let top = |entry: &Entry| {
            let Some(log_prob) = entry.log_prob else { return Value::Null };
            // The likeliest, and the token itself.
            let all = entry.top.iter().copied().chain([(entry.token, log_prob)]);
            Value::Object(
                all.map(|(token, log_prob)| (name(token).into_owned(), json!(log_prob)))
                    .collect::<Map<_, _>>(),
            )
        };
        json!({
            "tokens": entries.iter().map(|entry| name(entry.token)).collect::<Vec<_>>(),
            "token_logprobs": entries.iter().map(|entry| entry.log_prob).collect::<Vec<_>>(),
            "top_logprobs": entries.iter().map(top).collect::<Vec<_>>(),
            "text_offset": entries.iter().map(|entry| entry.offset).collect::<Vec<_>>(),
        })
    }
}

impl Chunks for Form {
    fn first(&self, _choices: usize) -> Vec<Value> {
        Vec::new()
    }

    fn chunk(&self, choice: usize, piece: Piece) -> Vec<Value> {
        vec![self.whole(vec![self.choice(choice, piece)], None)]
    }

    fn last(&self, used: Usage) -> Option<Value> {
        self.usage.then(|| self.whole(Vec::new(), Some(usage(used))))
    }
}
