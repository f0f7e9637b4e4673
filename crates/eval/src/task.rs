//! A task is a TOML file and no code: where its items lie, how each becomes a prompt, what counts as right.
//!
//! ```toml
//! name = "boolq"
//! version = 1
//! about = "Yes or no questions on a passage"
//! gold = "{label}"                       # a label's `is`, or the number of an option from 0
//! inputs = ["question", "passage"]       # what an empty question replaces
//! prompt = "lm-eval"                     # the prompt set used unless another is asked for
//!
//! [[test]]                               # the first of these that is in the data folder
//! path = "boolq/val.jsonl"
//!
//! [prompts.lm-eval]
//! context = "{passage}\nQuestion: {question}?\nAnswer:"
//! target = " {choice}"                   # what is scored; a context that mentions {choice} differs by choice
//! labels = [{ is = "false", words = ["no"] }, { is = "true", words = ["yes"] }]
//! ```

use crate::calibration::{CalibrationForm, Expansion, Order};
use crate::error::EvalError;
use crate::names::nearest;
use crate::template::{Row, Template};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    pub name: String,
    /// Rises when a change could move a score.
    pub version: u32,
    pub about: String,
    /// Also the folder that may stand between the data folder and a path: `zh/tnews/…`.
    #[serde(default = "english")]
    pub language: String,
    #[serde(default)]
    pub kind: Kind,
    /// The prompt set used unless another is asked for.
    pub prompt: String,
    /// Renders to a label's `is`, or to the number of the right option from 0.
    #[serde(default)]
    pub gold: Option<Template>,
    /// The choices of an item, where each item brings its own.
    #[serde(default)]
    pub options: Vec<Template>,
    /// The fields that hold an item's own words. Calibration replaces them by content-free text.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Fields made of an item's other fields.
    #[serde(default)]
    pub fields: BTreeMap<String, Template>,
    /// Items whose field has one of these values are left out and counted.
    #[serde(default)]
    pub skip: BTreeMap<String, Vec<String>>,
    /// Fields by whose values scores are also given apart.
    #[serde(default)]
    pub groups: Vec<String>,
    pub test: Vec<Source>,
    /// Where shots come from; without it they come from the test items, the scored one left out.
    #[serde(default)]
    pub shots: Vec<Source>,
    pub prompts: BTreeMap<String, Prompt>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The best of several choices.
    #[default]
    Choice,
    /// One continuation, right if each token of it is the likeliest.
    Cloze,
    /// The likelihood of whole documents.
    Rolling,
}

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// From the data folder, or from its subfolder of the task's language.
    pub path: String,
    #[serde(default)]
    pub format: Format,
    /// A file with one value a line for each item.
    #[serde(default)]
    pub labels: Option<String>,
    /// The field those values become.
    #[serde(default = "label")]
    pub labels_field: String,
    /// New name of a field = the file's own name for it.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line; only `\n` ends a line.
    #[default]
    Jsonl,
    /// A first line of names, then values, all separated by tabs; no quoting.
    Tsv,
    /// As RFC 4180, with a first line of names.
    Csv,
    /// The official folder of RACE: one JSON object a file, one item a question.
    Race,
    /// The whole file is the field `text` of one item.
    Text,
}

/// How an item becomes text, and which text is scored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Where it comes from, and how certain that is.
    pub about: String,
    /// Before everything, shots included.
    #[serde(default)]
    pub description: String,
    #[serde(default = "empty")]
    pub context: Template,
    pub target: Template,
    /// The choices where all items share them, in order.
    #[serde(default)]
    pub labels: Vec<Label>,
    #[serde(default)]
    pub score: Score,
    /// The context of the unconditional score; empty for a document's start.
    #[serde(default = "empty")]
    pub lead: Template,
    /// Between shots, and between the last one and the item.
    #[serde(default = "blank_line")]
    pub between: String,
    /// Number of shots unless another is asked for.
    #[serde(default)]
    pub shots: usize,
    /// Only items whose fields have these values.
    #[serde(default)]
    pub only: BTreeMap<String, String>,
    #[serde(default)]
    pub evidence: Evidence,
    #[serde(default)]
    pub expand: Expansion,
    #[serde(default)]
    pub calibrate: Order,
    #[serde(default)]
    pub calibrate_by: CalibrationForm,
    /// What stands for an item without content.
    #[serde(default = "content_free")]
    pub content_free: Vec<String>,
}

/// A class, and the words that stand for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    pub is: String,
    /// The first is shown in shots; the others count by label expansion.
    pub words: Vec<String>,
}

/// What is compared between the choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// `ln p` of the target.
    #[default]
    Sum,
    /// … over its tokens.
    Token,
    /// … over the characters of the choice.
    Character,
    /// … over its UTF-8 bytes.
    Byte,
    /// … less `ln p` of the target after the lead alone.
    Unconditional,
}

/// What of a word speaks for its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// All its tokens.
    #[default]
    Word,
    /// Its first token alone: one look at the distribution behind the prompt.
    FirstToken,
}

impl Score {
    pub const ALL: [Self; 5] = [Self::Sum, Self::Token, Self::Character, Self::Byte, Self::Unconditional];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Token => "token",
            Self::Character => "character",
            Self::Byte => "byte",
            Self::Unconditional => "unconditional",
        }
    }
}

fn english() -> String {
    "en".to_owned()
}

fn label() -> String {
    "label".to_owned()
}

fn empty() -> Template {
    Template::parse("").expect("an empty template has nothing to be wrong")
}

fn blank_line() -> String {
    "\n\n".to_owned()
}

/// The three of Zhao et al. 2021.
fn content_free() -> Vec<String> {
    ["N/A", "", "[MASK]"].map(str::to_owned).to_vec()
}

impl Task {
    /// `file` is for messages.
    ///
    /// # Errors
    /// When the text is no TOML, has an unknown key, or says something impossible.
    pub fn parse(file: &str, text: &str) -> Result<Self, EvalError> {
        let task: Self = toml::from_str(text).map_err(|error| EvalError::Task {
            file: file.to_owned(),
            line: error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: explain(error.message()),
        })?;
        task.check().map_err(|message| EvalError::Task { file: file.to_owned(), line: 0, message })?;
        Ok(task)
    }

    /// # Errors
    /// As [`Task::parse`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, EvalError> {
        let text = std::fs::read_to_string(path).map_err(|error| EvalError::io("read", path, error))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The prompt set of that name, or the task's own.
    ///
    /// # Errors
    /// When the task has no such set.
    pub fn prompt(&self, name: Option<&str>) -> Result<(&str, &Prompt), EvalError> {
        let name = name.unwrap_or(&self.prompt);
        self.prompts.get_key_value(name).map(|(name, prompt)| (name.as_str(), prompt)).ok_or_else(|| {
            EvalError::NoPrompt {
                task: self.name.clone(),
                prompt: name.to_owned(),
                known: self.prompts.keys().cloned().collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// The item's fields with those made of them.
    ///
    /// # Errors
    /// When a field is missing.
    pub fn complete(&self, row: &Row) -> Result<Row, EvalError> {
        let mut complete = row.clone();
        for (name, template) in &self.fields {
            complete.insert(name.clone(), template.render(row)?.into());
        }
        Ok(complete)
    }

    fn check(&self) -> Result<(), String> {
        if self.test.is_empty() {
            return Err("`test` has no entry: name a data file".to_owned());
        }
        if self.kind != Kind::Rolling && self.kind != Kind::Cloze && self.gold.is_none() {
            return Err("`gold` is missing: which choice is right? gold = \"{label}\" would work".to_owned());
        }
        if !self.prompts.contains_key(&self.prompt) {
            let known = self.prompts.keys().map(String::as_str);
            return Err(match self.prompts.is_empty() {
                true => "`prompts` is empty: write a section [prompts.NAME]".to_owned(),
                false => format!(
                    "`prompt` is `{}`, but there is no section [prompts.{}]; did you mean `{}`?",
                    self.prompt,
                    self.prompt,
                    nearest(&self.prompt, known)
                ),
            });
        }
        self.prompts.iter().try_for_each(|(name, prompt)| {
            prompt.check(self).map_err(|rule| format!("prompts.{name}: {rule}"))
        })
    }
}

impl Prompt {
    /// Whether items share their choices.
    pub fn is_classification(&self) -> bool {
        !self.labels.is_empty()
    }

    fn check(&self, task: &Task) -> Result<(), String> {
        let choices = task.kind == Kind::Choice;
        match (choices, self.labels.is_empty(), task.options.is_empty()) {
            (true, true, true) => {
                Err("neither `labels` here nor the task's `options` say what to choose from")
            }
            (true, false, false) => {
                Err("`labels` and the task's `options` both say what to choose from; keep one")
            }
            (false, false, _) => Err("`labels` are for tasks of kind \"choice\""),
            _ => Ok(()),
        }?;
        if self.labels.iter().any(|label| label.words.is_empty()) {
            return Err("a label has no words; words = [\"yes\"] would work".to_owned());
        }
        if let Some(label) = self.labels.iter().enumerate().find_map(|(place, label)| {
            self.labels[..place].iter().any(|other| other.is == label.is).then_some(label)
        }) {
            return Err(format!("the label `{}` is there twice", label.is));
        }
        let calibrates = self.calibrate != Order::None || self.evidence == Evidence::FirstToken;
        if calibrates && self.labels.is_empty() {
            return Err("calibration and first-token evidence need `labels` that all items share".to_owned());
        }
        if self.calibrate != Order::None && (self.content_free.is_empty() || task.inputs.is_empty()) {
            return Err(
                "calibration needs `content_free` texts and the task's `inputs` to put them in".to_owned()
            );
        }
        if self.evidence == Evidence::FirstToken && self.context.mentions("choice") {
            return Err("first-token evidence needs a context that is the same for every choice".to_owned());
        }
        Ok(())
    }
}

/// The message with the nearest known name, where it is about an unknown one.
fn explain(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match (message.starts_with("unknown "), names.next()) {
        (true, Some(unknown)) => {
            let what = if message.starts_with("unknown field") { "key" } else { "value" };
            let known: Vec<&str> = names.collect();
            match known.is_empty() {
                true => format!("unknown {what} `{unknown}`"),
                false => format!("unknown {what} `{unknown}`; did you mean `{}`?", nearest(unknown, known)),
            }
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "small"
        version = 1
        about = "of tests"
        prompt = "p"
        gold = "{label}"
        inputs = ["text"]
        [[test]]
        path = "small.jsonl"
        [prompts.p]
        about = "ours"
        context = "{text}"
        target = " {choice}"
        labels = [{ is = "0", words = ["no"] }, { is = "1", words = ["yes"] }]
    "#;

    fn refused(from: &str, to: &str) -> String {
        let text = SMALL.replace(from, to);
        assert_ne!(text, SMALL);
        Task::parse("small.toml", &text).unwrap_err().to_string()
    }

    #[test]
    fn a_task_is_read_with_its_defaults() {
        let task = Task::parse("small.toml", SMALL).unwrap();
        let (name, prompt) = task.prompt(None).unwrap();
        assert_eq!((name, prompt.score, prompt.calibrate), ("p", Score::Sum, Order::None));
        assert_eq!(
            (task.kind, task.language.as_str(), prompt.between.as_str()),
            (Kind::Choice, "en", "\n\n")
        );
        assert_eq!(prompt.content_free, ["N/A", "", "[MASK]"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let message = refused("inputs = ", "input = ");
        assert!(message.contains("small.toml:7") && message.contains("did you mean `inputs`"), "{message}");
        let message = refused("context = ", "contexts = ");
        assert!(message.contains("did you mean `context`"), "{message}");
        let message = refused("about = \"ours\"", "about = \"ours\"\nscore = \"bytes\"");
        assert!(message.contains("unknown value `bytes`; did you mean `byte`"), "{message}");
    }

    #[test]
    fn an_unknown_filter_in_a_template_is_refused_with_its_line() {
        let message = refused("\"{text}\"", "\"{text | trimm}\"");
        assert!(message.contains("small.toml:12") && message.contains("`trim`"), "{message}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(refused("prompt = \"p\"", "prompt = \"q\"").contains("did you mean `p`"));
        assert!(refused("gold = \"{label}\"", "").contains("gold"));
        assert!(refused("is = \"1\"", "is = \"0\"").contains("twice"));
        assert!(refused("words = [\"no\"]", "words = []").contains("no words"));
        assert!(refused("labels", "calibrate = \"after\"\n#").contains("what to choose from"));
        assert!(refused("inputs = [\"text\"]", "options = [\"a\"]").contains("keep one"));
        let first = "evidence = \"first-token\"\ntarget";
        assert!(
            refused("context = \"{text}\"\n        target", &format!("context = \"{{choice}}\"\n{first}"))
                .contains("same for every choice")
        );
    }

    #[test]
    fn a_missing_prompt_set_names_those_there_are() {
        let task = Task::parse("small.toml", SMALL).unwrap();
        assert!(task.prompt(Some("yuan")).unwrap_err().to_string().contains("it has p"));
    }
}
