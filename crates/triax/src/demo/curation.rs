//! The demo's text taken through a recipe: the sources and Markdown of crates, and the pages of Rust's books where
//! rustup has installed them.
//!
//! ```text
//! registry ── rust, prose, other ─┐
//! share/doc/rust/html ── pages ───┴─▶ size ─▶ no copies, no near copies ─▶ paragraphs once ─▶ documents by source
//! ```

use crate::commands::curate::carry_out;
use crate::failure::{Context, Failure, with_causes};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use triax_curate::cluster::Joins;
use triax_curate::pipeline::{Manifest, Place};
use triax_curate::{Document, Recipe};

/// A source of the demo's recipe.
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    /// As a recipe writes it.
    pub(super) format: &'a str,
    pub(super) endings: &'a [&'a str],
    pub(super) paths: Vec<PathBuf>,
}

/// Books that lie beside the compiler, one folder each.
const BOOKS: [&str; 8] =
    ["book", "reference", "nomicon", "cargo", "rustc", "rustdoc", "style-guide", "edition-guide"];

/// What every text of the demo has to pass. The pages that repeat a whole book for printing are the largest.
const STEPS: &str = "
[extract]
max_bytes = 400000

[[step]]
kind = \"size\"
min_bytes = 200
max_bytes = 98304

[[step]]
kind = \"exact_dedup\"

[[step]]
kind = \"minhash_dedup\"

[[step]]
kind = \"line_dedup\"
unit = \"paragraph\"
min_characters = 100
min_document_characters = 200

[output]
level = 1

[run]
shard_mb = 32
";

/// The folders of [`BOOKS`] of the first toolchain that has them.
pub(super) fn books() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    let Some(entries) = home.and_then(|home| home.join("toolchains").read_dir().ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    toolchains.sort();
    let books = |toolchain: &PathBuf| {
        let html = toolchain.join("share/doc/rust/html");
        BOOKS.iter().map(|book| html.join(book)).filter(|book| book.is_dir()).collect::<Vec<_>>()
    };
    toolchains.iter().map(books).find(|books| !books.is_empty()).unwrap_or_default()
}

/// Runs the recipe in `out` and gives the kept documents by source, in the order of the recipe's files.
pub(super) fn curate(
    inputs: &[Input<'_>],
    out: &Path,
) -> Result<(BTreeMap<String, Vec<Document>>, Manifest), Failure> {
    let recipe = recipe(inputs)?;
    let manifest = carry_out(&recipe, out, Place::WHOLE, &Joins::Here, &AtomicBool::new(false))?
        .ok_or_else(|| Failure::run("a run of one process ended without a manifest"))?;
    let mut documents: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for source in &manifest.sources {
        let kept = documents.entry(source.name.clone()).or_default();
        for file in &source.files {
            let path = out.join(&file.path);
            let failed = || format!("cannot read {}", path.display());
            let reader = zstd::Decoder::new(File::open(&path).context(failed)?).context(failed)?;
            for line in BufReader::new(reader).lines() {
                kept.push(serde_json::from_str(&line.context(failed)?).context(failed)?);
            }
        }
    }
    Ok((documents, manifest))
}

fn recipe(inputs: &[Input<'_>]) -> Result<Recipe, Failure> {
    let mut text =
        "name = \"demo\"\nabout = \"what this machine holds: crates, and the books beside the compiler\"\n"
            .to_owned();
    for input in inputs {
        let paths: Vec<String> = input.paths.iter().map(|path| path.display().to_string()).collect();
        text.push_str(&format!(
            "[[source]]\nname = {:?}\nformat = {:?}\nendings = {}\npaths = {}\n",
            input.name,
            input.format,
            toml::Value::from(input.endings.to_vec()),
            toml::Value::from(paths)
        ));
    }
    text.push_str(STEPS);
    Recipe::parse("the demo's recipe", &text, &[]).map_err(|error| Failure::run(with_causes(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_go_through_the_recipe_and_come_back_by_source() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let long = "fn main() { println!(\"a line of a program\"); }\n".repeat(9);
        write("a.rs", &long);
        write("copy.rs", &long);
        write("short.rs", "fn f() {}");
        write("notes.md", &"A note that is long enough to be kept by the demo. ".repeat(9));
        let input =
            |name, format, endings| Input { name, format, endings, paths: vec![folder.path().to_owned()] };
        let inputs = [input("rust", "code", &["rs"]), input("prose", "text", &["md"])];
        let out = tempfile::tempdir().unwrap();
        let (documents, manifest) = curate(&inputs, out.path()).unwrap();
        assert_eq!(documents["rust"].len(), 1);
        assert_eq!(documents["rust"][0].id, "rust/a.rs");
        assert_eq!(documents["prose"].len(), 1);
        assert_eq!((manifest.totals.found, manifest.totals.removed), (4, 2));
    }
}
