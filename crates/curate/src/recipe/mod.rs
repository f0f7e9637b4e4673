//! A recipe: which sources, which steps in which order, which outputs. A value with every default filled in.
//!
//! ```toml
//! [[source]]
//! name = "crawl"
//! paths = ["crawl/*.warc.gz"]
//!
//! [[step]]
//! kind = "size"
//! min_bytes = 200
//! ```

mod keys;
mod ready;
mod registry;

use crate::CurateError;
use crate::extract::Extract;
use crate::objects::Address;
use crate::readers::Limits;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use toml::{Table, Value};

pub use ready::READY;
use registry::Kind;
pub use registry::{Built, kinds};

/// A whole recipe, every default written out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    pub name: String,
    /// One line for a reader.
    pub about: String,
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    pub limits: Limits,
    pub extract: Extract,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
    pub output: Output,
    pub tokens: Tokens,
    pub run: Run,
}

/// Documents of one origin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Letters, digits, `-`, `_` and `.`; names output files.
    pub name: String,
    /// Files, folders, and names with `*`; `s3://`, `gs://` and `az://` where the program is built with them.
    #[serde(default)]
    pub paths: Vec<String>,
    #[serde(default)]
    pub format: Format,
    /// Endings of the files taken from folders; empty for all of the format.
    #[serde(default)]
    pub endings: Vec<String>,
    /// Field of JSON lines and column of Parquet files that holds the text; fields in fields by dots.
    #[serde(default = "text_field")]
    pub text_field: String,
    /// Field or column with the page's address; ignored where it is absent.
    #[serde(default = "url_field")]
    pub url_field: String,
    /// Of duplicates, the document of the source with the highest priority stays.
    #[serde(default)]
    pub priority: u16,
    /// Share in the blend, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
}

fn text_field() -> String {
    "text".into()
}

fn url_field() -> String {
    "url".into()
}

const fn one() -> f64 {
    1.0
}

/// What a source's files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// By each file's ending.
    #[default]
    Auto,
    /// Web archives: HTML of responses is extracted, text of conversions (WET) is taken as it is.
    Warc,
    /// JSON objects, one a line.
    Jsonl,
    Parquet,
    /// A file is a document.
    Text,
    /// A file is a page to extract.
    Html,
    /// A file is a document; folders of programs are passed over that hold what tools made (`target`, `node_modules`).
    Code,
}

/// One step with its settings, defaults written out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Unique in the recipe; names the folder of what it removed.
    pub name: String,
    pub kind: String,
    /// Names of the sources it applies to; empty for all.
    pub sources: Vec<String>,
    /// Of a step over all documents: the metadata field with a number by which, after the priority of its source, the
    /// best of several copies is found; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quality: String,
    #[serde(flatten)]
    pub settings: Table,
}

/// Where kept documents go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    pub format: OutputFormat,
    /// Of zstd, 1 to 19.
    pub level: i32,
    /// Whether removed documents keep their text in `removed/`; without it only identity and reason are kept.
    pub removed_text: bool,
    /// Where a finished output folder is copied to, `s3://bucket/folder` for instance; empty for nowhere.
    pub upload: String,
}

impl Default for Output {
    fn default() -> Self {
        Self { format: OutputFormat::Jsonl, level: 3, removed_text: true, upload: String::new() }
    }
}

/// Token files of the kept documents: one pair a source, and a blend of all by their weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    /// Path of a tokenizer.json; empty for no token files.
    pub tokenizer: String,
    /// Tokens of the whole blend; 0 for as many as the sources have together.
    pub blend_tokens: u64,
    /// Of the order of documents in the blend.
    pub seed: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { tokenizer: String::new(), blend_tokens: 0, seed: 1 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// JSON lines, compressed with zstd.
    Jsonl,
    /// Parquet with the columns id, source, url, text and metadata (JSON).
    Parquet,
}

/// How the work is done. Only `shard_mb` has any influence on the output, and that only on how it is cut into files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// 0 for all cores.
    pub threads: usize,
    /// Megabytes (10⁶ bytes) that comparing documents may hold in memory.
    pub memory_mb: usize,
    /// Small files are put together, and large files of JSON lines cut, into shards of about this many megabytes.
    pub shard_mb: usize,
    /// Keeps documents between global steps, which a finished run has no use for.
    pub keep_intermediate: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self { threads: 0, memory_mb: 1000, shard_mb: 256, keep_intermediate: false }
    }
}

/// The recipe's file, before steps are checked.
const SECTIONS: [&str; 9] =
    ["name", "about", "source", "limits", "extract", "step", "output", "tokens", "run"];

impl Recipe {
    /// Reads a recipe file, or a ready recipe by its name, and lays `overrides` (`a.b=c`) over it.
    ///
    /// # Errors
    /// When it cannot be read, or names something that does not exist; the message names the nearest that does.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, CurateError> {
        let place = path.display().to_string();
        if let Some((_, text)) = READY.iter().find(|(name, _)| *name == place) {
            return Self::parse(&place, text, overrides);
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            let names: Vec<&str> = READY.iter().map(|(name, _)| *name).collect();
            CurateError::Recipe {
                place: place.clone(),
                message: format!("cannot be read ({error}); ready recipes are {}", names.join(", ")),
            }
        })?;
        Self::parse(&place, &text, overrides)
    }

    /// As [`Recipe::load`], from text; `file` names it in messages.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Self, CurateError> {
        let fault = |message: String| CurateError::Recipe { place: file.to_owned(), message };
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            fault(format!("line {line}: {}", error.message()))
        })?;
        for argument in overrides {
            keys::set(&mut table, argument)
                .map_err(|message| CurateError::Recipe { place: format!("--set {argument}"), message })?;
        }
        let recipe = Self::from_table(&mut table).map_err(fault)?;
        recipe.check().map_err(fault)?;
        Ok(recipe)
    }

    fn from_table(table: &mut Table) -> Result<Self, String> {
        if let Some(unknown) = table.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
            let nearest = keys::nearest(unknown, SECTIONS.into_iter()).unwrap_or("step");
            return Err(format!("unknown key `{unknown}`; did you mean `{nearest}`?"));
        }
        let mut word = |key: &str| match table.remove(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(format!("`{key}` must be a string, not {}", other.type_str())),
        };
        let (name, about) = (word("name")?, word("about")?);
        let mut sources = Vec::new();
        for (place, item) in list(table, "source")?.into_iter().enumerate() {
            let called = label(&item, "name", place);
            sources.push(section(&format!("source.{called}."), item)?);
        }
        let mut steps: Vec<Step> = Vec::new();
        for (place, item) in list(table, "step")?.into_iter().enumerate() {
            steps.push(step(item, place, &steps)?);
        }
        Ok(Self {
            name: if name.is_empty() { "curate".into() } else { name },
            about,
            sources,
            limits: one_section(table, "limits")?,
            extract: one_section(table, "extract")?,
            steps,
            output: one_section(table, "output")?,
            tokens: one_section(table, "tokens")?,
            run: one_section(table, "run")?,
        })
    }

    /// Rules over more than one key.
    fn check(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("there is no [[source]]; a recipe needs at least one".into());
        }
        for (place, source) in self.sources.iter().enumerate() {
            check_name("source", &source.name)?;
            if self.sources[..place].iter().any(|other| other.name == source.name) {
                return Err(format!("two sources are called {:?}", source.name));
            }
            if !(source.weight.is_finite() && source.weight >= 0.0) {
                let name = &source.name;
                return Err(format!("`source.{name}.weight` is {}; it must be 0 or more", source.weight));
            }
        }
        for step in &self.steps {
            check_name("step", &step.name)?;
            for name in &step.sources {
                if !self.sources.iter().any(|source| source.name == *name) {
                    let names = self.sources.iter().map(|source| source.name.as_str());
                    let nearest = keys::nearest(name, names).unwrap_or_default();
                    return Err(format!(
                        "`step.{}.sources` names {name:?}; did you mean {nearest:?}?",
                        step.name
                    ));
                }
            }
        }
        if !(1..=19).contains(&self.output.level) {
            return Err(format!("`output.level` is {}; zstd has the levels 1 to 19", self.output.level));
        }
        if !self.output.upload.is_empty() {
            let address = Address::parse(&self.output.upload)
                .map_err(|message| format!("`output.upload`: {message}"))?;
            if address.key.contains('*') {
                return Err(
                    "`output.upload` has a `*`; it must name one folder, as s3://bucket/folder".into()
                );
            }
        }
        if self.run.shard_mb == 0 || self.run.memory_mb == 0 {
            return Err("`run.shard_mb` and `run.memory_mb` must be at least 1".into());
        }
        self.extract.check()?;
        self.limits.check()
    }

    /// The steps, ready to run, in the order of the recipe.
    ///
    /// # Errors
    /// When settings contradict each other, or a file they name cannot be used.
    pub fn build(&self) -> Result<Vec<Built>, CurateError> {
        self.steps
            .iter()
            .map(|step| {
                let kind =
                    Kind::find(&step.kind).map_err(|message| CurateError::step(&step.name, message))?;
                kind.build(step.settings.clone()).map_err(|error| match error {
                    CurateError::Step { message, .. } => CurateError::step(&step.name, message),
                    other => other,
                })
            })
            .collect()
    }

    /// As a file that gives exactly this recipe, nothing left to defaults.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds tables, strings, numbers and booleans only")
    }

    /// Hash of all that has an influence on the output; threads, memory and where it is copied to have none.
    pub fn hash(&self) -> String {
        let mut relevant = self.clone();
        relevant.run = Run { shard_mb: self.run.shard_mb, ..Run::default() };
        relevant.output.upload.clear();
        let json = serde_json::to_vec(&relevant).expect("a recipe is JSON too");
        blake3::hash(&json).to_hex()[..32].to_owned()
    }
}

/// Names become names of files.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || name.len() > 100 || !name.chars().all(plain) {
        return Err(format!(
            "{what} {name:?}: a name has 1 to 100 letters, digits, `-`, `_` or `.`, and no `.` at its start"
        ));
    }
    Ok(())
}

fn list(table: &mut Table, key: &str) -> Result<Vec<Table>, String> {
    let wrong = || format!("`{key}` must be a list of tables, written as [[{key}]]");
    match table.remove(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| if let Value::Table(table) = item { Ok(table) } else { Err(wrong()) })
            .collect(),
        Some(_) => Err(wrong()),
    }
}

fn label(item: &Table, key: &str, place: usize) -> String {
    item.get(key).and_then(Value::as_str).map_or_else(|| place.to_string(), str::to_owned)
}

fn section<T: DeserializeOwned>(place: &str, table: Table) -> Result<T, String> {
    table.try_into().map_err(|error| {
        let message = keys::explain(place, &error);
        if message.starts_with("unknown key") {
            message
        } else {
            format!("`{}`: {message}", place.trim_end_matches('.'))
        }
    })
}

fn one_section<T: DeserializeOwned + Default>(table: &mut Table, key: &str) -> Result<T, String> {
    match table.remove(key) {
        None => Ok(T::default()),
        Some(Value::Table(inner)) => section(&format!("{key}."), inner),
        Some(other) => Err(format!("`{key}` must be a table, written as [{key}], not {}", other.type_str())),
    }
}

fn step(mut item: Table, place: usize, earlier: &[Step]) -> Result<Step, String> {
    let kind = match item.remove("kind") {
        Some(Value::String(kind)) => kind,
        _ => return Err(format!("step {place} needs a `kind = \"…\"`; there are {}", kinds_list())),
    };
    let name = match item.remove("name") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("`step.{kind}.name` must be a string, not {}", other.type_str())),
        None => {
            let same = earlier.iter().filter(|step| step.kind == kind).count();
            if same == 0 { kind.clone() } else { format!("{kind}-{}", same + 1) }
        }
    };
    if ["read", "extract"].contains(&name.as_str()) || earlier.iter().any(|step| step.name == name) {
        return Err(format!("step {place}: the name {name:?} is taken; give it another `name = \"…\"`"));
    }
    let sources = match item.remove("sources") {
        None => Vec::new(),
        Some(value) => value
            .try_into()
            .map_err(|_| format!("`step.{name}.sources` must be a list of names of sources"))?,
    };
    let known = Kind::find(&kind).map_err(|message| format!("step {place}: {message}"))?;
    let quality = match if known.is_global { item.remove("quality") } else { None } {
        None => String::new(),
        Some(Value::String(field)) => field,
        Some(other) => {
            return Err(format!("`step.{name}.quality` must be a string, not {}", other.type_str()));
        }
    };
    let settings = (known.complete)(item).map_err(|error| {
        let message = keys::explain(&format!("step.{name}."), &error);
        if message.starts_with("unknown key") { message } else { format!("`step.{name}`: {message}") }
    })?;
    Ok(Step { name, kind, sources, quality, settings })
}

fn kinds_list() -> String {
    kinds().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "[[source]]\nname = \"web\"\npaths = [\"a.jsonl\"]\n[[step]]\nkind = \"size\"\nmin_bytes = 5\n";

    fn message(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|&argument| argument.to_owned()).collect();
        Recipe::parse("r.toml", text, &overrides).unwrap_err().to_string()
    }

    #[test]
    fn a_recipe_written_out_whole_reads_back_the_same() {
        let recipe = Recipe::parse("r.toml", SMALL, &["step.size.max_bytes=77".into()]).unwrap();
        assert_eq!(recipe.steps[0].settings["max_bytes"].as_integer(), Some(77));
        assert_eq!(Recipe::parse("again.toml", &recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[test]
    fn ready_recipes_are_whole_once_their_paths_are_given() {
        for (name, text) in READY {
            let recipe = Recipe::parse(name, text, &[]).unwrap();
            assert_eq!(recipe.name, *name);
            assert!(!recipe.about.is_empty(), "{name}");
            assert_eq!(Recipe::parse(name, &recipe.to_toml(), &[]).unwrap(), recipe);
            recipe.build().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn the_hash_follows_what_the_output_follows() {
        let hash = |argument: &str| Recipe::parse("r.toml", SMALL, &[argument.to_owned()]).unwrap().hash();
        let plain = hash("run.threads=1");
        assert_eq!(plain, hash("run.threads=2"));
        assert_eq!(plain, hash("run.memory_mb=7"));
        assert_ne!(plain, hash("step.size.min_bytes=6"));
        assert_ne!(plain, hash("run.shard_mb=9"));
        assert_ne!(plain, hash("limits.record_bytes=12345"));
    }

    #[test]
    fn what_is_wrong_names_place_and_nearest() {
        for (text, overrides, part) in [
            ("[[sources]]\nname = \"a\"", &[][..], "unknown key `sources`; did you mean `source`?"),
            (
                SMALL,
                &["step.size.min_byte=1"],
                "unknown key `step.size.min_byte`; did you mean `step.size.min_bytes`?",
            ),
            (
                SMALL,
                &["source.web.pahts=1"],
                "unknown key `source.web.pahts`; did you mean `source.web.paths`?",
            ),
            (SMALL, &["run.treads=1"], "unknown key `run.treads`; did you mean `run.threads`?"),
            (SMALL, &["step.size.kind=sise"], "did you mean \"size\"?"),
            (SMALL, &["step.size.sources=[\"wep\"]"], "did you mean \"web\"?"),
            (SMALL, &["source.web.name=\"../x\""], "a name has 1 to 100"),
            (SMALL, &["step.size.min_bytes=\"many\""], "step.size"),
            (SMALL, &["output.level=40"], "levels 1 to 19"),
            ("", &[], "at least one"),
            ("[[source]]\nname = ", &[], "line 2"),
        ] {
            let message = message(text, overrides);
            assert!(message.contains(part), "{message}");
        }
    }
}
