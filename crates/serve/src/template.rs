//! Chat templates: Jinja as models on the Hugging Face hub have it.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// A template, and what it calls `bos_token`; where that is not known, the token that ends a document.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    pub source: String,
    pub start: Option<String>,
}

pub(crate) struct Template {
    environment: Environment<'static>,
    start: Option<String>,
    end: Option<String>,
}

const NAME: &str = "chat";

impl Template {
    /// # Errors
    /// When the source is no template.
    pub(crate) fn new(template: ChatTemplate, end: Option<String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As the hub's own renderer is set: a block's line does not show.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, template.source)?;
        Ok(Self { environment, start: template.start.or_else(|| end.clone()), end })
    }

    /// The text of a chat, up to where the next message begins.
    ///
    /// # Errors
    /// What the template says against the messages.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| error.to_string())?;
        let values = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            bos_token => self.start.clone(),
            eos_token => self.end.clone(),
        };
        template.render(values).map_err(|error| format!("the chat template: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ChatML with a default message, as small chat models have it.
    const SOURCE: &str = "{% for message in messages %}\n\
        {% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}\n\
        {% endif %}\n\
        {% if message['role'] == 'assistant' and not message.content.strip() %}\n\
        {{ raise_exception('an empty answer') }}\n{% endif %}\n\
        {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n\
        {% endfor %}\n\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn template(source: &str, start: Option<&str>) -> Result<Template, Error> {
        let start = start.map(str::to_owned);
        Template::new(ChatTemplate { source: source.to_owned(), start }, Some("<end>".to_owned()))
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_chat_becomes_one_text_and_the_template_may_object() {
        let chat = template(SOURCE, None).unwrap();
        let text = chat.render(&[message("user", " 你好 ")]).unwrap();
        let compact: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            compact,
            "<|im_start|>system Be helpful.<|im_end|> <|im_start|>user 你好<|im_end|> <|im_start|>assistant"
        );
        let error = chat.render(&[message("user", "a"), message("assistant", " ")]).unwrap_err();
        assert!(error.contains("an empty answer"), "{error}");
        assert!(template("{% if %}", None).is_err());
    }

    #[test]
    fn a_text_starts_with_what_the_model_says_or_with_the_end_of_a_document() {
        let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
        let render = |start| template(source, start).unwrap().render(&[message("user", "a")]).unwrap();
        assert_eq!(render(Some("<start>")), "<start>a<end>");
        assert_eq!(render(None), "<end>a<end>");
    }
}
