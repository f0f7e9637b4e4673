//! The fields of a request's JSON object: each is taken by name and type, and what is left over is refused by name.

use crate::error::ApiError;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The fields not yet taken.
#[derive(Debug)]
pub(crate) struct Fields {
    map: BTreeMap<String, Box<RawValue>>,
    /// Names asked for so far.
    known: Vec<&'static str>,
    /// Where the object lies in the request, with a dot behind it; empty for the request itself.
    place: String,
}

/// Fields of the API that have no meaning here, and why.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("best_of", "ask for n texts and choose by their log-probabilities"),
    ("suffix", "the networks here only continue texts"),
    ("logit_bias", "use structured_outputs to force a form"),
    ("tools", "the networks here call no tools"),
    ("tool_choice", "the networks here call no tools"),
    ("functions", "the networks here call no functions"),
    ("function_call", "the networks here call no functions"),
    ("audio", "the networks here know text only"),
    ("modalities", "the networks here know text only"),
    ("prediction", "predicted outputs are not implemented"),
    ("store", "nothing is stored here"),
    ("metadata", "nothing is stored here"),
    ("parallel_tool_calls", "the networks here call no tools"),
    ("reasoning_effort", "the networks here do not reason in steps of their own"),
    ("service_tier", "there is one tier"),
    ("repetition_penalty", "use presence_penalty and frequency_penalty"),
    ("logprob_token_ids", "ask for more logprobs"),
];

/// What a value should be, in place of Rust's name for it.
const TYPES: [(&str, &str); 4] = [
    ("expected usize", "expected a whole number from 0"),
    ("expected u32", "expected a whole number from 0"),
    ("expected i64", "expected a whole number"),
    ("expected f64", "expected a number"),
];

/// The error without its place, which counts from the field's begin and not the request's.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text).to_owned();
    TYPES.iter().fold(text, |text, (name, meaning)| text.replace(name, meaning))
}

impl Fields {
    /// # Errors
    /// When the bytes are no JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(map) => Ok(Self::new(map, String::new())),
            Err(error) if error.is_data() => Err(ApiError::invalid("the body must be a JSON object")),
            Err(error) => Err(ApiError::invalid(format!("the body is not valid JSON: {error}"))),
        }
    }

    pub(crate) const fn new(map: BTreeMap<String, Box<RawValue>>, place: String) -> Self {
        Self { map, known: Vec::new(), place }
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// The field `name`; absent and null are the same.
    ///
    /// # Errors
    /// When it has another type.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, ApiError> {
        self.known.push(name);
        match self.map.remove(name) {
            None => Ok(None),
            // An option takes null as none.
            Some(value) => serde_json::from_str::<Option<T>>(value.get()).map_err(|error| {
                ApiError::field(self.full_name(name), format!("`{name}`: {}", plain(&error)))
            }),
        }
    }

    /// The object in the field `name`.
    ///
    /// # Errors
    /// When it is no object.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Option<Self>, ApiError> {
        let place = self.full_name(name);
        Ok(self.take(name)?.map(|map| Self::new(map, format!("{place}."))))
    }

    /// # Errors
    /// When the field is missing.
    pub(crate) fn require<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, ApiError> {
        let place = self.full_name(name);
        self.take(name)?.ok_or_else(|| ApiError::field(place, format!("`{name}` is missing")))
    }

    /// # Errors
    /// When a field is left: it means nothing here, and leaving it out silently would change what was asked.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        let Some(name) = self.map.keys().next() else { return Ok(()) };
        let place = self.full_name(name);
        if let Some((_, why)) = UNSUPPORTED.iter().find(|(field, _)| field == name) {
            return Err(ApiError::unsupported(&place, format!("`{name}` is not supported: {why}")));
        }
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::jaro_winkler(known, name), known))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map_or_else(String::new, |(_, known)| format!("; do you mean `{known}`?"));
        Err(ApiError::unsupported(&place, format!("there is no field `{name}`{hint}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(error: &ApiError) -> String {
        error.body()["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn fields_are_taken_by_type_and_null_is_absent() {
        let mut fields = Fields::parse(br#"{"n": 2, "stop": null}"#).unwrap();
        assert_eq!(fields.take::<u32>("n").unwrap(), Some(2));
        assert_eq!(fields.take::<String>("stop").unwrap(), None);
        fields.end().unwrap();
    }

    #[test]
    fn what_is_left_is_refused_by_name_with_the_nearest_one() {
        let mut fields = Fields::parse(br#"{"temprature": 1}"#).unwrap();
        fields.take::<f32>("temperature").unwrap();
        let error = fields.end().unwrap_err();
        assert_eq!(message(&error), "there is no field `temprature`; do you mean `temperature`?");
        assert_eq!(error.body()["error"]["param"], "temprature");
        let error = Fields::parse(br#"{"best_of": 1}"#).unwrap().end().unwrap_err();
        assert!(message(&error).starts_with("`best_of` is not supported: "));
    }

    #[test]
    fn bad_json_and_wrong_types_are_refused() {
        for bytes in [&b"{"[..], b"[]", b"\xff\xfe", b"{\"a\": \"\xff\"}", b""] {
            assert!(Fields::parse(bytes).is_err(), "{bytes:?}");
        }
        let error = Fields::parse(br#"{"n": "two"}"#).unwrap().take::<u32>("n").unwrap_err();
        assert_eq!(error.body()["error"]["param"], "n");
        assert_eq!(message(&error), "`n`: invalid type: string \"two\", expected a whole number from 0");
    }
}
