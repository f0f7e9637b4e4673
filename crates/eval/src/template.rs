//! The text of a prompt with slots for an item's fields: `Question: {question | trim}\nAnswer:`.
//!
//! ```text
//! {path}                 a field; dots go inside: {target.span1_text}, {options.0}
//! {path | filter a b}    filters in a row; arguments are "text", a number or another field's path
//! {{  }}                 a brace
//! ```
//!
//! There are no conditions and no loops but `each`: a template is data, and renders the same everywhere.

use crate::names::nearest;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The fields of one item.
pub type Row = Map<String, Value>;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Slot { path: String, filters: Vec<Filter> },
}

#[derive(Clone, Debug, PartialEq)]
enum Filter {
    /// No white space at the ends.
    Trim,
    /// First letter upper case, the others lower, as Python's `capitalize`.
    Capitalize,
    /// What follows the last space.
    LastWord,
    /// What precedes the last space.
    WithoutLastWord,
    /// Without any `[…]` inside a line.
    WithoutBrackets,
    /// At most so many characters.
    First(Argument),
    /// Characters from the first number up to the second.
    Slice(Argument, Argument),
    /// What precedes the first occurrence; everything where there is none.
    Before(Argument),
    /// What follows the first occurrence; nothing where there is none.
    After(Argument),
    Replace(Argument, Argument),
    /// A list's entries with the text between them.
    Join(Argument),
    /// A list's entries, each rendered by a template that sees the entry's own fields.
    Each(Template),
    /// The place, from 0, among names separated by commas.
    Index(Argument),
}

const FILTERS: [&str; 13] = [
    "trim",
    "capitalize",
    "last-word",
    "without-last-word",
    "without-brackets",
    "first",
    "slice",
    "before",
    "after",
    "replace",
    "join",
    "each",
    "index",
];

#[derive(Clone, Debug, PartialEq)]
enum Argument {
    Text(String),
    Number(usize),
    Path(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("`{template}`: the brace at character {place} has no partner; a plain brace is written twice")]
    Brace { template: String, place: usize },
    #[error("`{template}`: there is no filter `{name}`; did you mean `{nearest}`?")]
    Filter { template: String, name: String, nearest: String },
    #[error("`{template}`: the filter `{name}` takes {takes}")]
    Arguments { template: String, name: &'static str, takes: &'static str },
    #[error("`{template}`: the item has no field `{path}`; it has {fields}")]
    Field { template: String, path: String, fields: String },
    #[error("`{template}`: the field `{path}` is {found}, but {needed} is needed here")]
    Kind { template: String, path: String, found: &'static str, needed: &'static str },
    #[error("`{template}`: `{value}` is none of {names}")]
    NoIndex { template: String, value: String, names: String },
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        let parts = Parser { template: &source, rest: &source }.parts()?;
        Ok(Self { source, parts })
    }
}

impl Template {
    /// # Errors
    /// When a brace, a filter or an argument is wrong.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        Self::try_from(source.to_owned())
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a slot reads the field `name` first (arguments of filters do not count).
    pub fn mentions(&self, name: &str) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Text(_) => false,
            Part::Slot { path, filters } => {
                let reads = |path: &str| path == name;
                reads(path)
                    || filters.iter().any(|filter| {
                        filter
                            .arguments()
                            .into_iter()
                            .any(|argument| matches!(argument, Argument::Path(path) if reads(path)))
                    })
            }
        })
    }

    /// # Errors
    /// When a field is missing or of the wrong kind.
    pub fn render(&self, row: &Row) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Slot { path, filters } => text.push_str(&self.slot(row, path, filters)?),
            }
        }
        Ok(text)
    }

    fn slot(&self, row: &Row, path: &str, filters: &[Filter]) -> Result<String, TemplateError> {
        let value = self.find(row, path)?;
        let mut filters = filters.iter();
        let mut text = match (value, filters.clone().next()) {
            (Value::Array(entries), Some(Filter::Join(between))) => {
                filters.next();
                let between = self.text_argument(row, between)?;
                let entries: Result<Vec<_>, _> = entries.iter().map(|entry| self.text(path, entry)).collect();
                entries?.join(&between)
            }
            (Value::Array(entries), Some(Filter::Each(template))) => {
                filters.next();
                let mut all = String::new();
                for entry in entries {
                    let Value::Object(fields) = entry else {
                        return Err(self.kind(path, entry, "a list of items"));
                    };
                    all.push_str(&template.render(fields)?);
                }
                all
            }
            (value, Some(Filter::Join(_) | Filter::Each(_))) => return Err(self.kind(path, value, "a list")),
            (value, _) => self.text(path, value)?.into_owned(),
        };
        for filter in filters {
            text = self.apply(row, filter, text)?;
        }
        Ok(text)
    }

    fn apply(&self, row: &Row, filter: &Filter, text: String) -> Result<String, TemplateError> {
        Ok(match filter {
            Filter::Trim => text.trim().to_owned(),
            Filter::Capitalize => {
                let mut letters = text.chars();
                let first = letters.next().map(char::to_uppercase);
                first.into_iter().flatten().chain(letters.flat_map(char::to_lowercase)).collect()
            }
            Filter::LastWord => text.rsplit_once(' ').map_or(text.as_str(), |(_, last)| last).to_owned(),
            Filter::WithoutLastWord => text.rsplit_once(' ').map_or("", |(before, _)| before).to_owned(),
            Filter::WithoutBrackets => without_brackets(&text),
            Filter::First(most) => text.chars().take(self.number(row, most)?).collect(),
            Filter::Slice(from, to) => {
                let (from, to) = (self.number(row, from)?, self.number(row, to)?);
                text.chars().skip(from).take(to.saturating_sub(from)).collect()
            }
            Filter::Before(mark) => {
                let mark = self.text_argument(row, mark)?;
                text.split_once(&*mark).map_or(text.as_str(), |(before, _)| before).to_owned()
            }
            Filter::After(mark) => {
                let mark = self.text_argument(row, mark)?;
                text.split_once(&*mark).map_or("", |(_, after)| after).to_owned()
            }
            Filter::Replace(from, to) => {
                text.replace(&*self.text_argument(row, from)?, &self.text_argument(row, to)?)
            }
            Filter::Index(names) => {
                let names = self.text_argument(row, names)?;
                let place = names.split(',').position(|name| name == text);
                place
                    .ok_or_else(|| TemplateError::NoIndex {
                        template: self.source.clone(),
                        value: text.clone(),
                        names: names.to_string(),
                    })?
                    .to_string()
            }
            // Lists are joined before anything else; what arrives here is text.
            Filter::Join(_) | Filter::Each(_) => {
                return Err(self.kind("the text so far", &Value::String(text), "a list"));
            }
        })
    }

    fn find<'r>(&self, row: &'r Row, path: &str) -> Result<&'r Value, TemplateError> {
        let mut steps = path.split('.');
        let first = row.get(steps.next().unwrap_or_default());
        let found = steps.try_fold(first, |value, step| match value? {
            Value::Object(fields) => Some(fields.get(step)),
            Value::Array(entries) => Some(step.parse::<usize>().ok().and_then(|place| entries.get(place))),
            _ => None,
        });
        found.flatten().ok_or_else(|| TemplateError::Field {
            template: self.source.clone(),
            path: path.to_owned(),
            fields: row.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    fn text<'v>(&self, path: &str, value: &'v Value) -> Result<Cow<'v, str>, TemplateError> {
        match value {
            Value::String(text) => Ok(Cow::Borrowed(text)),
            Value::Number(number) => Ok(Cow::Owned(number.to_string())),
            Value::Bool(true) => Ok(Cow::Borrowed("true")),
            Value::Bool(false) => Ok(Cow::Borrowed("false")),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(self.kind(path, value, "text")),
        }
    }

    fn text_argument<'a>(&self, row: &'a Row, argument: &'a Argument) -> Result<Cow<'a, str>, TemplateError> {
        match argument {
            Argument::Text(text) => Ok(Cow::Borrowed(text)),
            Argument::Number(number) => Ok(Cow::Owned(number.to_string())),
            Argument::Path(path) => self.text(path, self.find(row, path)?),
        }
    }

    fn number(&self, row: &Row, argument: &Argument) -> Result<usize, TemplateError> {
        match argument {
            Argument::Number(number) => Ok(*number),
            Argument::Text(_) => {
                Err(self.kind("the argument", &Value::String(String::new()), "a whole number"))
            }
            Argument::Path(path) => {
                let value = self.find(row, path)?;
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.ok_or_else(|| self.kind(path, value, "a whole number"))
            }
        }
    }

    fn kind(&self, path: &str, found: &Value, needed: &'static str) -> TemplateError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an item of its own",
        };
        TemplateError::Kind { template: self.source.clone(), path: path.to_owned(), found, needed }
    }
}

impl Filter {
    fn arguments(&self) -> Vec<&Argument> {
        match self {
            Self::First(a) | Self::Before(a) | Self::After(a) | Self::Join(a) | Self::Index(a) => vec![a],
            Self::Slice(a, b) | Self::Replace(a, b) => vec![a, b],
            _ => Vec::new(),
        }
    }
}

fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        // A bracket closes on its own line or not at all.
        match rest[open..].find([']', '\n']).filter(|&end| rest.as_bytes()[open + end] == b']') {
            Some(end) => {
                kept.push_str(&rest[..open]);
                rest = &rest[open + end + 1..];
            }
            None => {
                kept.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    kept.push_str(rest);
    kept
}

/// A field as text, whatever it is.
pub(crate) fn plain(value: &Value) -> Cow<'_, str> {
    value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed)
}

struct Parser<'a> {
    template: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn parts(&mut self) -> Result<Vec<Part>, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(brace) = self.rest.find(['{', '}']) {
            text.push_str(&self.rest[..brace]);
            let (braced, kind) = (&self.rest[brace..], self.rest.as_bytes()[brace]);
            if braced.as_bytes().get(1) == Some(&kind) {
                text.push(char::from(kind));
                self.rest = &braced[2..];
                continue;
            }
            let inside = if kind == b'{' { slot_end(&braced[1..]) } else { None };
            let Some(end) = inside else {
                let place = self.template[..self.template.len() - braced.len()].chars().count();
                return Err(TemplateError::Brace { template: self.template.to_owned(), place });
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(self.slot(&braced[1..=end])?);
            self.rest = &braced[end + 2..];
        }
        text.push_str(self.rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(parts)
    }

    fn slot(&self, inside: &'a str) -> Result<Part, TemplateError> {
        let mut stages = split_outside_quotes(inside, '|').into_iter();
        let path = stages.next().unwrap_or_default().trim().to_owned();
        let filters: Result<_, _> = stages.map(|stage| self.filter(stage.trim())).collect();
        Ok(Part::Slot { path, filters: filters? })
    }

    fn filter(&self, stage: &str) -> Result<Filter, TemplateError> {
        let mut words =
            split_outside_quotes(stage, ' ').into_iter().filter(|word| !word.is_empty()).map(str::to_owned);
        let name = words.next().unwrap_or_default();
        let Some(&name) = FILTERS.iter().find(|known| **known == name) else {
            return Err(TemplateError::Filter {
                template: self.template.to_owned(),
                nearest: nearest(&name, FILTERS).to_owned(),
                name,
            });
        };
        let mut arguments: Vec<Argument> = words.map(|word| argument(&word)).collect();
        let takes = match name {
            "slice" | "replace" => 2,
            "first" | "before" | "after" | "join" | "each" | "index" => 1,
            _ => 0,
        };
        let wrong = |takes| TemplateError::Arguments { template: self.template.to_owned(), name, takes };
        if arguments.len() != takes {
            return Err(wrong(["no arguments", "one argument", "two arguments"][takes]));
        }
        let mut next = || arguments.remove(0);
        Ok(match name {
            "trim" => Filter::Trim,
            "capitalize" => Filter::Capitalize,
            "last-word" => Filter::LastWord,
            "without-last-word" => Filter::WithoutLastWord,
            "without-brackets" => Filter::WithoutBrackets,
            "first" => Filter::First(next()),
            "slice" => Filter::Slice(next(), next()),
            "before" => Filter::Before(next()),
            "after" => Filter::After(next()),
            "replace" => Filter::Replace(next(), next()),
            "join" => Filter::Join(next()),
            "each" => match next() {
                Argument::Text(template) => Filter::Each(Template::try_from(template)?),
                _ => return Err(wrong("a template in quotes")),
            },
            _ => Filter::Index(next()),
        })
    }
}

/// Bytes before the brace that closes a slot; braces inside quotes belong to the quoted text.
fn slot_end(text: &str) -> Option<usize> {
    outside_quotes(text).find(|&(_, letter)| letter == '}').map(|(place, _)| place)
}

fn split_outside_quotes(text: &str, at: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    for (place, _) in outside_quotes(text).filter(|&(_, letter)| letter == at) {
        parts.push(&text[begin..place]);
        begin = place + at.len_utf8();
    }
    parts.push(&text[begin..]);
    parts
}

fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().filter(move |&(_, letter)| {
        let was_quoted = quoted;
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        !was_quoted && !quoted
    })
}

fn argument(word: &str) -> Argument {
    if let Some(inside) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        let mut text = String::new();
        let mut letters = inside.chars();
        while let Some(letter) = letters.next() {
            match (letter, letter == '\\') {
                (_, true) => match letters.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(other) => text.push(other),
                    None => {}
                },
                (letter, false) => text.push(letter),
            }
        }
        return Argument::Text(text);
    }
    match word.parse() {
        Ok(number) => Argument::Number(number),
        Err(_) => Argument::Path(word.to_owned()),
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.source)
    }
}

impl serde::Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, row: Value) -> Result<String, TemplateError> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        Template::parse(template)?.render(&row)
    }

    #[test]
    fn slots_take_fields_at_any_depth_and_braces_are_doubled() {
        let row = json!({ "a": "x", "n": 3, "t": true, "inner": { "list": ["p", "q"] } });
        assert_eq!(render("{{{a}}} {n} {t} {inner.list.1}", row).unwrap(), "{x} 3 true q");
    }

    #[test]
    fn filters_apply_in_a_row() {
        let row =
            json!({ "text": "He said  hello there", "s": 3, "e": 7, "ks": ["a", "b"], "ctx": "then He" });
        let cases = [
            ("{text | without-last-word}", "He said  hello"),
            ("{text | last-word}", "there"),
            ("{text | slice s e}", "said"),
            ("{text | first 2}", "He"),
            ("{text | replace \"  \" \" \" | before \"hello\" | trim}", "He said"),
            ("{text | after \"said  \"}", "hello there"),
            ("{text | replace \"hello\" ctx}", "He said  then He there"),
            ("{ks | join \"，\"}", "a，b"),
            ("{ctx | capitalize}", "Then he"),
            ("{s | index \"1,2,3\"}", "2"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template, row.clone()).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn each_renders_the_entries_of_a_list_by_their_own_fields() {
        let row = json!({ "earlier": [{ "q": "Who?", "a": "Ann" }, { "q": "When?", "a": "now" }] });
        let text = render(r#"{earlier | each "Q: {q}\nA: {a}\n"}End"#, row).unwrap();
        assert_eq!(text, "Q: Who?\nA: Ann\nQ: When?\nA: now\nEnd");
    }

    #[test]
    fn slices_past_the_end_are_cut_and_not_an_error() {
        let row = json!({ "text": "春天来了", "s": 2, "e": 9 });
        assert_eq!(render("{text | slice s e}", row.clone()).unwrap(), "来了");
        assert_eq!(render("{text | slice e s}", row).unwrap(), "");
    }

    #[test]
    fn brackets_go_but_only_within_a_line() {
        assert_eq!(without_brackets("a [b] c [d\n] [e"), "a  c [d\n] [e");
    }

    #[test]
    fn mistakes_are_named_with_what_would_work() {
        let message = |template| render(template, json!({ "text": "x", "l": [1] })).unwrap_err().to_string();
        assert!(message("{text").contains("character 0"));
        assert!(message("ab } c").contains("character 3"));
        assert!(message("{text | trimm}").contains("did you mean `trim`"));
        assert!(message("{text | first}").contains("takes one argument"));
        assert!(message("{txt}").contains("it has l, text"), "{}", message("{txt}"));
        assert!(message("{l}").contains("is a list, but text is needed"));
        assert!(message("{text | index \"a,b\"}").contains("none of a,b"));
    }
}
