//! The fields that completions and chats have in common: how tokens are chosen, how many texts, how they are told.

use crate::constrain::{Constraint, Grammar, Json, any_object, choices, compile};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::router::App;
use serde::Deserialize;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::Arc;
use triax_infer::{Filter, Job, Sampling};

/// Most stop strings, and most texts of a prompt.
const STOPS: usize = 16;
pub(crate) const TEXTS: usize = 128;
/// Most of the likeliest tokens that are told.
pub(crate) const TOP: usize = 20;

pub(crate) struct Common {
    sampling: Sampling,
    /// Texts for each prompt.
    pub(crate) texts: usize,
    pub(crate) stops: Vec<String>,
    pub(crate) stream: bool,
    pub(crate) usage_in_stream: bool,
    grammar: Option<Arc<Grammar>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a string or a list of strings")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

impl Common {
    pub(crate) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let top_p = number(fields, "top_p", 0.0..=1.0, 1.0)?;
        if top_p == 0.0 {
            return Err(ApiError::field("top_p", "`top_p` must be above 0"));
        }
        let sampling = Sampling {
            temperature: number(fields, "temperature", 0.0..=10.0, 1.0)?,
            top_p,
            top_k: fields.take::<u32>("top_k")?.unwrap_or(0) as usize,
            min_p: number(fields, "min_p", 0.0..=1.0, 0.0)?,
            presence_penalty: number(fields, "presence_penalty", -2.0..=2.0, 0.0)?,
            frequency_penalty: number(fields, "frequency_penalty", -2.0..=2.0, 0.0)?,
            seed: match fields.take::<i64>("seed")? {
                Some(seed) => seed as u64,
                None => RandomState::new().build_hasher().finish(),
            },
        };
        let texts = fields.take::<usize>("n")?.unwrap_or(1);
        if !(1..=TEXTS).contains(&texts) {
            return Err(ApiError::field("n", format!("`n` must be 1 to {TEXTS}")));
        }
        let stops = match fields.take("stop")? {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Several(stops)) => stops,
        };
        if stops.len() > STOPS || stops.iter().any(String::is_empty) {
            let message = format!("`stop` must be at most {STOPS} strings, none of them empty");
            return Err(ApiError::field("stop", message));
        }
        let stream = fields.take("stream")?.unwrap_or(false);
        let mut usage_in_stream = false;
        if let Some(mut options) = fields.object("stream_options")? {
            if !stream {
                return Err(ApiError::field("stream_options", "`stream_options` needs `stream`"));
            }
            usage_in_stream = options.take("include_usage")?.unwrap_or(false);
            options.end()?;
        }
        // Names whom the request is for; it changes nothing here and is kept nowhere.
        fields.take::<String>("user")?;
        Ok(Self { sampling, texts, stops, stream, usage_in_stream, grammar: form(fields)?.map(Arc::new) })
    }

    /// The job for text number `text` of a prompt. Each text has a seed of its own, the first one that was given.
    pub(crate) fn job(&self, app: &App, prompt: &Prompt<'_>, text: usize) -> Job {
        let ends = prompt.ends.to_vec();
        Job {
            prompt: prompt.tokens.to_vec(),
            score_from: prompt.score.then_some(1),
            top: prompt.top,
            also: Vec::new(),
            max_tokens: prompt.max_tokens,
            sampling: Sampling { seed: self.sampling.seed.wrapping_add(text as u64), ..self.sampling },
            filter: self.grammar.as_ref().map(|grammar| {
                let (grammar, trie) = (Arc::clone(grammar), app.vocabulary.trie());
                Box::new(Constraint::new(grammar, trie, ends.clone())) as Box<dyn Filter>
            }),
            stop_tokens: ends,
        }
    }
}

/// What a job needs beside the common fields.
pub(crate) struct Prompt<'a> {
    pub(crate) tokens: &'a [u32],
    pub(crate) score: bool,
    pub(crate) top: usize,
    pub(crate) max_tokens: usize,
    pub(crate) ends: &'a [u32],
}

/// Refuses another model than the one that is here.
pub(crate) fn check_model(fields: &mut Fields, app: &App) -> Result<(), ApiError> {
    match fields.take::<String>("model")? {
        Some(asked) if asked != app.name => Err(ApiError::model(&asked, &app.name)),
        _ => Ok(()),
    }
}

fn number(
    fields: &mut Fields,
    name: &'static str,
    range: RangeInclusive<f64>,
    usual: f32,
) -> Result<f32, ApiError> {
    match fields.take::<f64>(name)? {
        None => Ok(usual),
        // A tiny number stays one.
        Some(value) if range.contains(&value) => {
            let tiny = f64::from(f32::MIN_POSITIVE);
            Ok(if value > 0.0 { value.max(tiny) as f32 } else { value as f32 })
        }
        Some(_) => {
            let message = format!("`{name}` must be from {} to {}", range.start(), range.end());
            Err(ApiError::field(name, message))
        }
    }
}

/// `response_format` as OpenAI has it, or `structured_outputs` with `json` or `choice`.
fn form(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let schema = |place: &str, schema: &Json| {
        compile(schema).map_err(|error| ApiError::field(place, format!("`{place}`: {error}")))
    };
    let mut grammar = None;
    if let Some(mut format) = fields.object("response_format")? {
        let kind: String = format.require("type")?;
        match kind.as_str() {
            "text" => {}
            "json_object" => grammar = Some(any_object()),
            "json_schema" => {
                let mut inner = format.object("json_schema")?.ok_or_else(|| {
                    ApiError::field("response_format.json_schema", "`json_schema` is missing")
                })?;
                // Every schema is held to strictly; names and descriptions are for the reader.
                inner.take::<String>("name")?;
                inner.take::<String>("description")?;
                inner.take::<bool>("strict")?;
                grammar = Some(schema("response_format.json_schema.schema", &inner.require("schema")?)?);
                inner.end()?;
            }
            _ => {
                let message = "`type` must be text, json_object or json_schema";
                return Err(ApiError::field("response_format.type", message));
            }
        }
        format.end()?;
    }
    if let Some(mut form) = fields.object("structured_outputs")? {
        let (json, choice) = (form.take::<Json>("json")?, form.take::<Vec<String>>("choice")?);
        form.end()?;
        let found = match (json, choice) {
            (Some(json), None) => schema("structured_outputs.json", &json)?,
            (None, Some(texts)) if !texts.is_empty() && texts.iter().all(|text| !text.is_empty()) => {
                choices(&texts)
            }
            (None, Some(_)) => {
                return Err(ApiError::field(
                    "structured_outputs.choice",
                    "`choice` must be texts, none empty",
                ));
            }
            _ => {
                let message = "`structured_outputs` must have either `json` or `choice`";
                return Err(ApiError::field("structured_outputs", message));
            }
        };
        if grammar.replace(found).is_some() {
            let message = "`structured_outputs` and `response_format` exclude each other";
            return Err(ApiError::field("structured_outputs", message));
        }
    }
    Ok(grammar)
}
