//! A document checked key by key against the table: what was written, where, and what is wrong with it.

use crate::document::{Node, Origin, Value};
use crate::error::Fault;
use crate::keys::{self, KEYS, Key, Kind, Setting};
use crate::run::Amount;
use std::collections::BTreeMap;

/// Every value written, by its concrete path (`data.blend[2].path`).
#[derive(Debug, Default)]
pub(crate) struct Settings {
    found: BTreeMap<String, (Setting, Origin)>,
    /// Places of tables, and lengths of arrays of tables.
    sections: BTreeMap<String, (usize, Origin)>,
    /// Paths with a problem of their own; nothing more is said about them.
    faulty: Vec<String>,
    pub(crate) problems: Vec<(Option<Origin>, Fault)>,
}

impl Settings {
    pub(crate) fn check(root: &Node) -> Self {
        let mut settings = Self::default();
        settings.table(root, "", "");
        settings
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Setting> {
        self.found.get(path).map(|(setting, _)| setting)
    }

    pub(crate) fn has_section(&self, path: &str) -> bool {
        self.sections.contains_key(path)
    }

    /// Number of items of an array of tables.
    pub(crate) fn length(&self, path: &str) -> usize {
        self.sections.get(path).map_or(0, |(length, _)| *length)
    }

    pub(crate) fn any_below(&self, prefix: &str) -> bool {
        self.found.keys().any(|path| path.starts_with(prefix))
    }

    /// Whether a problem with the key, one above it or one below it is already reported.
    pub(crate) fn is_faulty(&self, path: &str) -> bool {
        self.faulty.iter().any(|faulty| within(faulty, path) || within(path, faulty))
    }

    /// Where the first of `paths` that was written stands, or the nearest table around it.
    pub(crate) fn origin(&self, paths: &[&str]) -> Option<Origin> {
        let written = |path: &&str| self.found.get(*path).map(|(_, origin)| origin.clone());
        let around = |path: &str| {
            let mut path = path;
            loop {
                if let Some((_, origin)) = self.sections.get(path) {
                    return Some(origin.clone());
                }
                path = &path[..path.rfind(['.', '['])?];
            }
        };
        paths.iter().find_map(written).or_else(|| paths.iter().find_map(|path| around(path)))
    }

    pub(crate) fn report(&mut self, path: &str, origin: Option<Origin>, fault: Fault) {
        self.problems.push((origin, fault));
        self.faulty.push(path.to_owned());
    }

    fn table(&mut self, node: &Node, path: &str, pattern: &str) {
        let Value::Table(entries) = &node.value else { return };
        for entry in entries {
            let (path, pattern) = (join(path, &entry.key), join(pattern, &entry.key));
            let node = &entry.node;
            match (&node.value, Place::of(&pattern)) {
                (_, Place { section: false, list: false, key: None }) => {
                    let nearest = nearest(&pattern);
                    // The key that was meant is not missing as well; below a list it is meant in this item.
                    let meant = match (nearest.rsplit_once('.'), path.rsplit_once('.')) {
                        (Some((above, last)), Some((here, _)))
                            if pattern.starts_with(&format!("{above}.")) =>
                        {
                            format!("{here}.{last}")
                        }
                        _ => nearest.to_owned(),
                    };
                    let fault = Fault::UnknownKey { key: path, nearest: nearest.to_owned() };
                    self.report(&meant, Some(entry.origin.clone()), fault);
                }
                (Value::Table(_), Place { section: true, .. }) => {
                    self.sections.insert(path.clone(), (0, entry.origin.clone()));
                    self.table(node, &path, &pattern);
                }
                (Value::Array(items), Place { list: true, .. }) => {
                    self.sections.insert(path.clone(), (items.len(), entry.origin.clone()));
                    for (index, item) in items.iter().enumerate() {
                        let path = format!("{path}[{index}]");
                        self.sections.insert(path.clone(), (0, item.origin.clone()));
                        match &item.value {
                            Value::Table(_) => self.table(item, &path, &format!("{pattern}[]")),
                            other => self.mistyped(
                                &path,
                                item,
                                other.kind(),
                                "a table",
                                "{ path = \"tokens/wiki\" }",
                            ),
                        }
                    }
                }
                (value, Place { key: Some(key), .. }) => match read(key, &path, value) {
                    Ok(setting) => {
                        self.found.insert(path, (setting, node.origin.clone()));
                    }
                    Err(fault) => self.report(&path, Some(node.origin.clone()), fault),
                },
                (value, Place { list: true, .. }) => {
                    let works = "[{ path = \"tokens/wiki\", weight = 1.0 }]";
                    self.mistyped(&path, node, value.kind(), "an array of tables", works);
                }
                (value, _) => {
                    let example = KEYS.iter().find(|key| within(key.path, &pattern));
                    let works = example.map_or(String::new(), |key| {
                        format!("{{ {} = {} }}", &key.path[pattern.len() + 1..], key.example)
                    });
                    self.mistyped(&path, node, value.kind(), "a table", &works);
                }
            }
        }
    }

    fn mistyped(&mut self, path: &str, node: &Node, found: &'static str, expected: &str, works: &str) {
        let fault = Fault::WrongType {
            key: path.to_owned(),
            expected: expected.to_owned(),
            found,
            works: works.to_owned(),
        };
        self.report(path, Some(node.origin.clone()), fault);
    }
}

/// What the table of keys has at a path.
struct Place {
    key: Option<&'static Key>,
    /// Keys lie below it.
    section: bool,
    /// It is an array of tables.
    list: bool,
}

impl Place {
    fn of(pattern: &str) -> Self {
        let below = |join: &str| {
            KEYS.iter().any(|key| key.path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(join)))
        };
        Self { key: keys::find(pattern), section: below("."), list: below("[].") }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether `inner` is `outer` or lies below it.
fn within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The known key or section nearest to an unknown one, those of the same table first.
fn nearest(pattern: &str) -> &'static str {
    let split = |path: &str| path.rfind('.').map_or((0, 0), |dot| (dot, dot + 1));
    let (above, last) = split(pattern);
    let mut best = (usize::MAX, KEYS[0].path);
    for key in KEYS {
        // The key itself and every section around it.
        let ends = key.path.match_indices(['.', '[']).map(|(end, _)| end).chain([key.path.len()]);
        for candidate in ends.map(|end| &key.path[..end]).filter(|path| !path.ends_with(']')) {
            let (candidate_above, candidate_last) = split(candidate);
            let elsewhere = candidate[..candidate_above] != pattern[..above];
            let distance = strsim::osa_distance(&candidate[candidate_last..], &pattern[last..]);
            let score = 2 * distance + 3 * usize::from(elsewhere);
            if score < best.0 {
                best = (score, candidate);
            }
        }
    }
    best.1
}

/// The value as the key wants it.
fn read(key: &Key, path: &str, value: &Value) -> Result<Setting, Fault> {
    let works = || if key.example.is_empty() { "(nothing)".to_owned() } else { key.example.to_owned() };
    let wrong_type = || Fault::WrongType {
        key: path.to_owned(),
        expected: key.kind.describe(),
        found: value.kind(),
        works: works(),
    };
    let out_of_range = |found: String, works: String| Fault::OutOfRange {
        key: path.to_owned(),
        found,
        range: key.kind.describe(),
        works,
    };
    let number = |value: &Value, least: f64, most: f64| match value {
        Value::Number(number) if (least..=most).contains(number) => Ok(*number),
        Value::Integer(integer) if (least..=most).contains(&(*integer as f64)) => Ok(*integer as f64),
        Value::Number(number) => Err(out_of_range(format!("{number:?}"), works())),
        Value::Integer(integer) => Err(out_of_range(integer.to_string(), works())),
        _ => Err(wrong_type()),
    };
    match (key.kind, value) {
        (Kind::Integer { least, most }, Value::Integer(integer)) => match u64::try_from(*integer) {
            Ok(integer) if (least..=most).contains(&integer) => Ok(Setting::Integer(integer)),
            _ => Err(out_of_range(integer.to_string(), works())),
        },
        (Kind::Number { least, most }, _) => number(value, least, most).map(Setting::Number),
        (Kind::Pair { least, most }, Value::Array(items)) => match items.as_slice() {
            [first, second] => {
                Ok(Setting::Pair([number(&first.value, least, most)?, number(&second.value, least, most)?]))
            }
            _ => Err(out_of_range(format!("an array of {}", items.len()), works())),
        },
        (Kind::Boolean, Value::Boolean(flag)) => Ok(Setting::Boolean(*flag)),
        (Kind::Off, Value::Boolean(false)) => Ok(Setting::Boolean(false)),
        (Kind::Off, Value::Boolean(true)) => Err(out_of_range("true".to_owned(), works())),
        (Kind::Text, Value::Text(text)) if text.trim().is_empty() => {
            Err(out_of_range("empty".to_owned(), works()))
        }
        (Kind::Text, Value::Text(text)) => Ok(Setting::Text(text.clone())),
        (Kind::Choice(names), Value::Text(text)) => {
            choice(text, names).map_err(|nearest| out_of_range(format!("{text:?}"), nearest))
        }
        (Kind::Preset, Value::Text(text)) => {
            let names: Vec<&str> = crate::presets::PRESETS.iter().map(|preset| preset.name).collect();
            choice(text, &names).map_err(|nearest| out_of_range(format!("{text:?}"), nearest))
        }
        (Kind::Amount { least }, Value::Text(text)) => match text.parse::<Amount>() {
            Ok(amount) if amount.number() >= least => Ok(Setting::Amount(amount)),
            Ok(_) => Err(out_of_range(format!("{text:?}"), works())),
            Err(error) => Err(out_of_range(format!("{text:?} ({error})"), works())),
        },
        _ => Err(wrong_type()),
    }
}

/// The name if it is one, else the nearest as TOML text.
fn choice(text: &str, names: &[&str]) -> Result<Setting, String> {
    if names.contains(&text) {
        return Ok(Setting::Text(text.to_owned()));
    }
    let nearest = names.iter().min_by_key(|name| strsim::osa_distance(name, text));
    Err(format!("{:?}", nearest.copied().unwrap_or_default()))
}
