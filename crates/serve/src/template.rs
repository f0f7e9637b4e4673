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

pub(crate) struct Template {
    environment: Environment<'static>,
    end_name: Option<String>,
}

const NAME: &str = "chat";

impl Template {
    /// # Errors
    /// When `source` is no template.
    pub(crate) fn new(source: String, end_name: Option<String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As the hub's own renderer is set: a block's line does not show.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source)?;
        Ok(Self { environment, end_name })
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
            bos_token => self.end_name.clone(),
            eos_token => self.end_name.clone(),
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

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_chat_becomes_one_text_and_the_template_may_object() {
        let template = Template::new(SOURCE.to_owned(), None).unwrap();
        let text = template.render(&[message("user", " 你好 ")]).unwrap();
        let compact: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            compact,
            "<|im_start|>system Be helpful.<|im_end|> <|im_start|>user 你好<|im_end|> <|im_start|>assistant"
        );
        let error = template.render(&[message("user", "a"), message("assistant", " ")]).unwrap_err();
        assert!(error.contains("an empty answer"), "{error}");
        assert!(Template::new("{% if %}".to_owned(), None).is_err());
    }
}
