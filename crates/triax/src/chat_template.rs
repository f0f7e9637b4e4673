//! The chat template that comes with a network, and what it calls the start of a text.

use crate::failure::{Context, Failure};
use serde_json::Value as Json;
use std::fs;
use std::path::Path;
use triax_model::gguf::{Metadata, Value};
use triax_serve::ChatTemplate;

/// Of a Hugging Face folder, or a run's: `chat_template.jinja`, or an entry of `tokenizer_config.json`.
pub(crate) fn of_folder(folder: &Path) -> Result<Option<ChatTemplate>, Failure> {
    let read = |name: &str| {
        let file = folder.join(name);
        let text = file.is_file().then(|| fs::read_to_string(&file)).transpose();
        text.context(|| format!("cannot read {}", file.display()))
    };
    let own = read("chat_template.jinja")?;
    let Some(settings) = read("tokenizer_config.json")? else {
        return Ok(own.map(|source| ChatTemplate { source, start: None }));
    };
    let settings: Json = serde_json::from_str(&settings)
        .context(|| format!("cannot read {}", folder.join("tokenizer_config.json").display()))?;
    let start = name_of(&settings["bos_token"]);
    Ok(own.or_else(|| of_settings(&settings)).map(|source| ChatTemplate { source, start }))
}

/// One template, or several with names, of which the hub's programs take `default`.
fn of_settings(settings: &Json) -> Option<String> {
    let entry = &settings["chat_template"];
    let named = || entry.as_array()?.iter().find(|one| one["name"] == "default")?["template"].as_str();
    entry.as_str().or_else(named).map(str::to_owned)
}

/// A special token is written as its text, or as an object with it.
fn name_of(token: &Json) -> Option<String> {
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

/// Of a GGUF file.
pub(crate) fn of_metadata(metadata: &Metadata) -> Option<ChatTemplate> {
    let source = metadata.get("tokenizer.chat_template").and_then(Value::text)?.to_owned();
    let id = metadata.get("tokenizer.ggml.bos_token_id").and_then(Value::whole);
    let start = id.and_then(|id| metadata.texts("tokenizer.ggml.tokens")?.into_iter().nth(id));
    Some(ChatTemplate { source, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_before_the_settings_and_both_forms_of_the_settings_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let found = || of_folder(folder.path()).unwrap().map(|template| (template.source, template.start));
        assert_eq!(found(), None);
        write("tokenizer_config.json", r#"{"chat_template": "one", "bos_token": {"content": "<s>"}}"#);
        assert_eq!(found(), Some(("one".into(), Some("<s>".into()))));
        let several = r#"{"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}],
                          "bos_token": "<b>"}"#;
        write("tokenizer_config.json", several);
        assert_eq!(found(), Some(("b".into(), Some("<b>".into()))));
        write("chat_template.jinja", "own");
        assert_eq!(found(), Some(("own".into(), Some("<b>".into()))));
        write("tokenizer_config.json", "{");
        assert!(of_folder(folder.path()).is_err());
    }
}
