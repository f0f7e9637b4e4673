//! A TOML document as a tree in which each key and value knows where it was written, and `--set` laid over it.

use crate::error::Fault;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Bytes of the file.
    File(Range<usize>),
    /// Index of the `--set`.
    Set(usize),
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i128),
    Number(f64),
    Boolean(bool),
    Date,
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Number(_) => "a fractional number",
            Self::Boolean(_) => "true or false",
            Self::Date => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// The document's root table, or every syntax error with its place.
pub(crate) fn read(text: &str) -> Result<Node, Vec<(Range<usize>, String)>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let value = table_of(table.get_ref(), &Origin::File);
        return Ok(Node { value, origin: Origin::File(0..0) });
    }
    let place = |error: &toml::de::Error| (error.span().unwrap_or(0..0), error.message().replace('\n', ", "));
    Err(errors.iter().map(place).collect())
}

fn table_of(table: &DeTable<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            origin: origin(key.span()),
            node: Node { value: value_of(value.get_ref(), origin), origin: origin(value.span()) },
        })
        .collect();
    // In the order of the file, so that problems are reported in it.
    entries.sort_by_key(|entry| match &entry.origin {
        Origin::File(span) => span.start,
        Origin::Set(index) => *index,
    });
    Value::Table(entries)
}

fn value_of(value: &DeValue<'_>, origin: &dyn Fn(Range<usize>) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(float) => Value::Number(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(array) => Value::Array(
            array
                .iter()
                .map(|item| Node { value: value_of(item.get_ref(), origin), origin: origin(item.span()) })
                .collect(),
        ),
        DeValue::Table(table) => table_of(table, origin),
    }
}

/// Lays `argument`, an `a.b=value`, over the document. The value is TOML or else a bare string; a number in the
/// path counts into an array.
pub(crate) fn set(root: &mut Node, index: usize, argument: &str) -> Result<(), Fault> {
    let bad = |reason: &str| Fault::Override {
        reason: reason.to_owned(),
        works: "train.learning_rate.peak=1e-4".to_owned(),
    };
    let (path, text) = argument.split_once('=').ok_or_else(|| bad("an override needs a `=`"))?;
    let parts: Vec<&str> = path.trim().split('.').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(bad("an override needs a key before the `=`"));
    }
    let mut node = root;
    for (depth, part) in parts.iter().enumerate() {
        let above = parts[..depth].join(".");
        node = match &mut node.value {
            Value::Table(entries) => {
                let at = entries.iter().position(|entry| entry.key == *part).unwrap_or_else(|| {
                    let table = Node { value: Value::Table(Vec::new()), origin: Origin::Set(index) };
                    entries.push(Entry { key: (*part).to_owned(), origin: Origin::Set(index), node: table });
                    entries.len() - 1
                });
                &mut entries[at].node
            }
            Value::Array(items) => {
                let length = items.len();
                part.parse().ok().and_then(|at: usize| items.get_mut(at)).ok_or_else(|| Fault::Override {
                    reason: format!("`{above}` is an array of {length}, so `{part}` is none of its items"),
                    works: format!("{above}.0.weight=1.0"),
                })?
            }
            other => {
                return Err(Fault::Override {
                    reason: format!("`{above}` is {} in the run file and has no `{part}`", other.kind()),
                    works: format!("'{above}={{ {part} = {text} }}'"),
                });
            }
        };
    }
    *node = Node {
        value: override_value(text.trim(), index).ok_or_else(|| bad("the value is not TOML"))?,
        origin: Origin::Set(index),
    };
    Ok(())
}

fn override_value(text: &str, index: usize) -> Option<Value> {
    match DeValue::parse(text) {
        Ok(value) => Some(value_of(value.get_ref(), &|_| Origin::Set(index))),
        Err(_) if text.is_empty() || text.starts_with(['"', '\'', '[', '{']) => None,
        Err(_) => Some(Value::Text(text.to_owned())),
    }
}
