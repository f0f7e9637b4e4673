//! Items to text: the choices of an item, each with the context before it and the target that is scored.
//!
//! ```text
//! description  shot ␤␤ shot ␤␤ … context │ target
//! └──────────── not scored ─────────────┘ └scored┘
//! ```

use crate::error::EvalError;
use crate::task::{Kind, Prompt, Task};
use crate::template::{Row, Template, plain};

/// A task with one of its prompt sets.
#[derive(Clone, Copy, Debug)]
pub struct Renderer<'a> {
    pub task: &'a Task,
    pub prompt: &'a Prompt,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Choices of the same label are words for the same thing.
    pub label: usize,
    /// What is chosen: a label's word, or an option.
    pub word: String,
    pub context: String,
    pub target: String,
    /// What stands before the target where its unconditional score is asked.
    pub lead: String,
}

impl Choice {
    /// The text whose length normalises the score: the choice without the space before it.
    pub fn counted(&self) -> &str {
        if !self.word.is_empty() && self.target.ends_with(&self.word) {
            &self.word
        } else {
            self.target.trim_start()
        }
    }
}

impl Renderer<'_> {
    /// All choices of an item: the words of each label, or its options. `before` is all that precedes the item.
    ///
    /// # Errors
    /// When a field is missing or of the wrong kind.
    pub fn choices(&self, row: &Row, before: &str) -> Result<Vec<Choice>, EvalError> {
        let mut row = self.task.complete(row)?;
        self.words(&row)?
            .into_iter()
            .map(|(label, word)| {
                row.insert("choice".to_owned(), word.clone().into());
                Ok(Choice {
                    label,
                    context: format!("{before}{}", self.prompt.context.render(&row)?),
                    target: self.prompt.target.render(&row)?,
                    lead: self.prompt.lead.render(&row)?,
                    word,
                })
            })
            .collect()
    }

    /// The same with every input replaced by `text`.
    ///
    /// # Errors
    /// As [`Renderer::choices`].
    pub fn content_free(&self, row: &Row, text: &str, before: &str) -> Result<Vec<Choice>, EvalError> {
        let mut row = self.task.complete(row)?;
        for input in &self.task.inputs {
            row.insert(input.clone(), text.into());
        }
        // Fields made of others must not put the content back.
        let emptied = Task { fields: Default::default(), ..self.task.clone() };
        Renderer { task: &emptied, prompt: self.prompt }.choices(&row, before)
    }

    /// Number of the right label or option.
    ///
    /// # Errors
    /// When the item does not say, or says what is none of them.
    pub fn gold(&self, row: &Row) -> Result<usize, EvalError> {
        let Some(gold) = &self.task.gold else { return Ok(0) };
        let text = gold.render(&self.task.complete(row)?)?;
        let labels = &self.prompt.labels;
        let found = if labels.is_empty() {
            text.parse().ok().filter(|&place: &usize| place < self.task.options.len())
        } else {
            labels.iter().position(|label| label.is == text)
        };
        found.ok_or_else(|| {
            let known = match labels.is_empty() {
                true => format!("0 to {}", self.task.options.len().saturating_sub(1)),
                false => labels.iter().map(|label| label.is.as_str()).collect::<Vec<_>>().join(", "),
            };
            self.fault(format!("`{gold}` is `{text}` in an item, but the choices are {known}"))
        })
    }

    /// What precedes an item: the description and solved items.
    ///
    /// # Errors
    /// As [`Renderer::choices`].
    pub fn before(&self, shots: &[&Row]) -> Result<String, EvalError> {
        let mut text = self.prompt.description.clone();
        for shot in shots {
            let gold = self.gold(shot)?;
            let right = self.choices(shot, "")?.into_iter().find(|choice| choice.label == gold);
            let right = right.ok_or_else(|| self.fault("a shot has no right choice".to_owned()))?;
            text.push_str(&right.context);
            text.push_str(&right.target);
            text.push_str(&self.prompt.between);
        }
        Ok(text)
    }

    /// Whether the prompt set wants this item.
    pub fn wants(&self, row: &Row) -> bool {
        let only = &self.prompt.only;
        only.iter().all(|(field, wanted)| row.get(field).is_some_and(|value| *wanted == plain(value)))
    }

    /// Words for each label, in the order of [`Renderer::choices`].
    pub fn sizes(&self) -> Vec<usize> {
        match (self.task.kind, self.prompt.is_classification()) {
            (Kind::Choice, true) => self.prompt.labels.iter().map(|label| label.words.len()).collect(),
            (Kind::Choice, false) => vec![1; self.task.options.len()],
            _ => vec![1],
        }
    }

    fn words(&self, row: &Row) -> Result<Vec<(usize, String)>, EvalError> {
        match (self.task.kind, self.prompt.is_classification()) {
            (Kind::Choice, true) => {
                let labels = self.prompt.labels.iter().enumerate();
                Ok(labels
                    .flat_map(|(place, label)| label.words.iter().map(move |word| (place, word.clone())))
                    .collect())
            }
            (Kind::Choice, false) => {
                let render = |(place, option): (usize, &Template)| Ok((place, option.render(row)?));
                self.task.options.iter().enumerate().map(render).collect()
            }
            _ => Ok(vec![(0, String::new())]),
        }
    }

    fn fault(&self, message: String) -> EvalError {
        EvalError::Item { task: self.task.name.clone(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(prompt: &str) -> Task {
        let text = format!(
            r#"
            name = "t"
            version = 1
            about = "of tests"
            prompt = "p"
            gold = "{{label}}"
            inputs = ["text", "word"]
            [fields]
            word = "{{text | first 2}}"
            [[test]]
            path = "t.jsonl"
            [prompts.p]
            about = "ours"
            {prompt}
            "#
        );
        Task::parse("t.toml", &text).unwrap()
    }

    fn row(text: &str, label: &str) -> Row {
        let serde_json::Value::Object(row) = json!({ "text": text, "label": label }) else { panic!() };
        row
    }

    const LABELS: &str = r#"labels = [{ is = "a", words = ["no", "nay"] }, { is = "b", words = ["yes"] }]"#;

    #[test]
    fn every_word_of_every_label_is_a_choice_with_the_same_context() {
        let task = task(&format!("context = \"{{word}}/{{text}}:\"\ntarget = \" {{choice}}\"\n{LABELS}"));
        let renderer = Renderer { task: &task, prompt: &task.prompts["p"] };
        let choices = renderer.choices(&row("hello", "b"), "> ").unwrap();
        let seen: Vec<_> = choices.iter().map(|c| (c.label, c.context.as_str(), c.target.as_str())).collect();
        assert_eq!(seen, [(0, "> he/hello:", " no"), (0, "> he/hello:", " nay"), (1, "> he/hello:", " yes")]);
        assert_eq!(renderer.sizes(), [2, 1]);
        assert_eq!(choices[1].counted(), "nay");
    }

    #[test]
    fn shots_show_the_first_word_of_the_right_label() {
        let task = task(&format!(
            "description = \"Judge.\\n\"\ncontext = \"{{text}}:\"\ntarget = \" {{choice}}\"\n{LABELS}"
        ));
        let renderer = Renderer { task: &task, prompt: &task.prompts["p"] };
        let before = renderer.before(&[&row("hello", "a"), &row("bye", "b")]).unwrap();
        assert_eq!(before, "Judge.\nhello: no\n\nbye: yes\n\n");
    }

    #[test]
    fn a_context_may_hold_the_choice_and_the_target_be_the_rest() {
        let task =
            task(&format!("context = \"{{text | first 3}}，{{choice}}，\"\ntarget = \"{{text}}\"\n{LABELS}"));
        let renderer = Renderer { task: &task, prompt: &task.prompts["p"] };
        let choices = renderer.choices(&row("hello", "a"), "").unwrap();
        assert_eq!((choices[2].context.as_str(), choices[2].target.as_str()), ("hel，yes，", "hello"));
        assert_eq!(choices[2].counted(), "hello");
    }

    #[test]
    fn content_free_text_stands_for_inputs_and_for_fields_made_of_them() {
        let task = task(&format!("context = \"{{word}}/{{text}}:\"\ntarget = \" {{choice}}\"\n{LABELS}"));
        let renderer = Renderer { task: &task, prompt: &task.prompts["p"] };
        let choices = renderer.content_free(&row("hello", "a"), "N/A", "").unwrap();
        assert_eq!(choices[0].context, "N/A/N/A:");
    }

    #[test]
    fn a_gold_that_is_no_choice_is_refused_with_the_choices() {
        let task = task(&format!("context = \"{{text}}\"\ntarget = \" {{choice}}\"\n{LABELS}"));
        let renderer = Renderer { task: &task, prompt: &task.prompts["p"] };
        assert_eq!(renderer.gold(&row("hello", "b")).unwrap(), 1);
        let message = renderer.gold(&row("hello", "c")).unwrap_err().to_string();
        assert_eq!(message, "t: `{label}` is `c` in an item, but the choices are a, b");
    }
}
