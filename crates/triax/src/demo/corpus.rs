//! The demo's text: found on the machine, cut into sources, one part of each held out.
//!
//! By default it is what every machine that has just built this program holds: the sources and Markdown of
//! the crates in cargo's registry, and the books beside the compiler. What is taken depends only on the files' contents and names, never on the
//! order in which the file system lists them:
//!
//! ```text
//! files ──recipe──▶ documents of a source ──▶ order by hash ──▶ held out (whole groups) | training text
//! ```
//!
//! A group is a crate under all its versions, so that no held-out text is an older version of a training
//! text; elsewhere it is one file.

use super::curation::{Input, books, curate};
use crate::failure::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use triax_curate::pipeline::Manifest;

/// Bytes of text kept from one source, training and held-out text together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) training: usize,
    pub(crate) held_out: usize,
}

/// With at most this many files, each file is a source of its own and may have any size.
const FILES_AS_SOURCES: usize = 8;

/// The kinds of file, the source they belong to, and their share in the default blend.
const KINDS: [Kind; 3] = [
    Kind { source: "rust", format: "code", extensions: &["rs"], share: 0.35 },
    Kind { source: "prose", format: "text", extensions: &["md", "txt", "rst", "adoc", "tex"], share: 0.20 },
    Kind {
        source: "other",
        format: "code",
        extensions: &["toml", "json", "yml", "yaml", "py", "c", "h", "js", "ts", "sh", "go", "java", "cpp"],
        share: 0.25,
    },
];

/// Pages of books, where they are installed.
const PAGES: &str = "pages";
const PAGES_SHARE: f64 = 0.20;

struct Kind {
    source: &'static str,
    /// Of the recipe's source.
    format: &'static str,
    extensions: &'static [&'static str],
    share: f64,
}

/// One source of the blend.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Share of the samples, relative to the others.
    pub(crate) weight: f64,
    pub(crate) training: Vec<String>,
    pub(crate) held_out: Vec<String>,
}

impl Source {
    pub(crate) fn training_bytes(&self) -> usize {
        self.training.iter().map(String::len).sum()
    }

    /// The held-out documents as one text, as compressors see it.
    pub(crate) fn held_out_text(&self) -> String {
        self.held_out.concat()
    }
}

/// Where text comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The sources of the crates in cargo's registry.
    Registry(Vec<PathBuf>),
    Folder(PathBuf),
    File(PathBuf),
}

impl Origin {
    /// What the user named, or else the registry.
    pub(crate) fn new(input: Option<&Path>) -> Result<Self, Failure> {
        match input {
            None => Ok(Self::Registry(registry()?)),
            Some(path) if path.is_dir() => Ok(Self::Folder(path.to_owned())),
            Some(path) if path.is_file() => Ok(Self::File(path.to_owned())),
            Some(path) => Err(Failure::usage(format!("there is no file or folder {}", path.display()))
                .help("--input takes a text file or a folder of text files; without it the demo reads cargo's registry")),
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Registry(_) => {
                "the crates in cargo's registry and the books beside the compiler, through a recipe"
                    .to_owned()
            }
            Self::Folder(path) | Self::File(path) => path.display().to_string(),
        }
    }
}

/// `$CARGO_HOME/registry/src/*/`.
fn registry() -> Result<Vec<PathBuf>, Failure> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let missing = |place: &str| {
        Failure::run(format!("no crate sources under {place}"))
            .help("give your own text: triax demo --input FILE_OR_FOLDER")
    };
    let Some(home) = home else { return Err(missing("the home folder (there is none)")) };
    let root = home.join("registry").join("src");
    let mut indexes: Vec<PathBuf> = fs::read_dir(&root)
        .map_err(|_| missing(&root.display().to_string()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    indexes.sort();
    if indexes.is_empty() { Err(missing(&root.display().to_string())) } else { Ok(indexes) }
}

struct Document {
    group: String,
    text: String,
    hash: blake3::Hash,
}

/// Reads the sources, each cut to `limits`. What goes through a recipe leaves its run in `out`, and its account here.
pub(crate) fn collect(
    origin: &Origin,
    limits: Limits,
    out: &Path,
) -> Result<(Vec<Source>, Option<Manifest>), Failure> {
    let (sources, manifest) = match origin {
        Origin::File(path) => (vec![split_file(path, limits)?], None),
        Origin::Folder(root) => {
            let files = files(std::slice::from_ref(root))?;
            if files.len() <= FILES_AS_SOURCES {
                (files.iter().map(|file| split_file(file, limits)).collect::<Result<_, _>>()?, None)
            } else {
                by_kind(root, &files, &[], limits, out, str::to_owned)?
            }
        }
        Origin::Registry(indexes) => {
            let root = indexes[0].parent().unwrap_or(&indexes[0]).to_owned();
            by_kind(&root, &files(indexes)?, &books(), limits, out, crate_name)?
        }
    };
    if sources.is_empty() {
        return Err(Failure::run(format!("no usable text in {}", origin.describe())).help(
            "the demo reads UTF-8 files (.txt .md .rs .py .toml .json …); JSONL and Parquet go through `triax tokenize`",
        ));
    }
    Ok((sources, manifest))
}

/// All files under `roots` that the demo reads, sorted by path.
fn files(roots: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = BTreeSet::new();
    let mut open = roots.to_vec();
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder)
            .map_err(|error| Failure::run(format!("cannot read {}: {error}", folder.display())))?;
        for entry in entries.flatten() {
            // `file_type` does not follow links, so a link in a circle ends here.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() && kind_of(&entry.path()).is_some() => {
                    found.insert(entry.path());
                }
                _ => {}
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn kind_of(path: &Path) -> Option<&'static Kind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    KINDS.iter().find(|kind| kind.extensions.contains(&extension.as_str()))
}

/// `index/name-1.2.3/src/lib.rs` → `name`.
fn crate_name(relative: &str) -> String {
    let folder = relative.split('/').nth(1).unwrap_or(relative);
    let is_version =
        |(place, _): &(usize, &str)| folder[place + 1..].starts_with(|c: char| c.is_ascii_digit());
    match folder.match_indices('-').find(is_version) {
        Some((place, _)) => folder[..place].to_owned(),
        None => folder.to_owned(),
    }
}

/// All kinds that there are files of, and `books`, through the recipe.
fn by_kind(
    root: &Path,
    files: &[PathBuf],
    books: &[PathBuf],
    limits: Limits,
    out: &Path,
    group_of: impl Fn(&str) -> String,
) -> Result<(Vec<Source>, Option<Manifest>), Failure> {
    let found: BTreeSet<&str> =
        files.iter().filter_map(|path| kind_of(path)).map(|kind| kind.source).collect();
    let kinds = KINDS.iter().filter(|kind| found.contains(kind.source));
    let mut inputs: Vec<Input<'_>> = kinds
        .map(|kind| Input {
            name: kind.source,
            format: kind.format,
            endings: kind.extensions,
            paths: vec![root.to_owned()],
        })
        .collect();
    if !books.is_empty() {
        inputs.push(Input { name: PAGES, format: "html", endings: &[], paths: books.to_vec() });
    }
    if inputs.is_empty() {
        return Ok((Vec::new(), None));
    }
    let (mut kept, manifest) = curate(&inputs, out)?;
    let shares = KINDS.iter().map(|kind| (kind.source, kind.share)).chain([(PAGES, PAGES_SHARE)]);
    let mut sources = Vec::new();
    for (name, share) in shares {
        let documents = kept.remove(name).unwrap_or_default().into_iter().map(|document| {
            // The id is the source's name and the path below the root.
            let path = document.id.split_once('/').map_or("", |(_, path)| path);
            let group = if name == PAGES { path.to_owned() } else { group_of(path) };
            Document { group, hash: blake3::hash(document.text.as_bytes()), text: document.text }
        });
        let source = split_groups(name, share, documents.collect(), limits);
        if !source.training.is_empty() && !source.held_out.is_empty() {
            sources.push(source);
        }
    }
    Ok((sources, Some(manifest)))
}

/// Holds out whole groups in the order of their names' hashes until an eighth of the text or the limit is
/// reached, then fills the training text in the order of the documents' hashes.
fn split_groups(name: &str, weight: f64, mut documents: Vec<Document>, limits: Limits) -> Source {
    documents.sort_by_key(|document| *document.hash.as_bytes());
    let total: usize = documents.iter().map(|document| document.text.len()).sum();
    let held_out_goal = limits.held_out.min(total / 8);
    let mut groups: BTreeMap<[u8; 32], (Vec<Document>, usize)> = BTreeMap::new();
    for document in documents {
        let group = groups.entry(*blake3::hash(document.group.as_bytes()).as_bytes()).or_default();
        group.1 += document.text.len();
        group.0.push(document);
    }
    let mut source = Source { name: name.to_owned(), weight, training: Vec::new(), held_out: Vec::new() };
    let (mut held_out, mut rest) = (0, Vec::new());
    for (group, bytes) in groups.into_values() {
        // One large group must not be the whole held-out text.
        if held_out < held_out_goal && bytes <= held_out_goal / 2 + 1 {
            held_out += bytes;
            source.held_out.extend(group.into_iter().map(|document| document.text));
        } else {
            rest.extend(group);
        }
    }
    rest.sort_by_key(|document| *document.hash.as_bytes());
    let mut training = 0;
    for document in rest {
        if training >= limits.training {
            break;
        }
        training += document.text.len();
        source.training.push(document.text);
    }
    source
}

/// One file as one source: its end is held out, both parts cut at line ends.
fn split_file(path: &Path, limits: Limits) -> Result<Source, Failure> {
    let bytes =
        fs::read(path).map_err(|error| Failure::run(format!("cannot read {}: {error}", path.display())))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::run(format!("{} is not UTF-8: {}", path.display(), error.utf8_error()))
            .help("convert it, for example with `iconv -t utf-8`")
    })?;
    let held_out_bytes = limits.held_out.min(text.len() / 10);
    let border = line_start(&text, text.len() - held_out_bytes);
    let (training, held_out) = text.split_at(border);
    let training = &training[..line_start(training, limits.training.min(training.len()))];
    if training.is_empty() || held_out.is_empty() {
        return Err(Failure::run(format!("{} has only {} bytes of text", path.display(), text.len()))
            .help("the demo needs a few hundred kilobytes to learn from; it takes any UTF-8 text"));
    }
    let name = path.file_stem().map_or_else(|| "text".to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(Source {
        name,
        weight: training.len() as f64,
        training: blocks(training),
        held_out: vec![held_out.to_owned()],
    })
}

/// Documents of about 64 KiB, so that one long text is tokenized on all cores.
fn blocks(text: &str) -> Vec<String> {
    const BLOCK: usize = 64 * 1024;
    let (mut blocks, mut rest) = (Vec::new(), text);
    while rest.len() > BLOCK {
        let cut = line_start(rest, BLOCK);
        let (block, tail) = rest.split_at(cut);
        blocks.push(block.to_owned());
        rest = tail;
    }
    blocks.push(rest.to_owned());
    blocks
}

/// The start of the first line at or after `place`; in a text without further lines, the next character.
fn line_start(text: &str, place: usize) -> usize {
    if place >= text.len() {
        return text.len();
    }
    if place == 0 {
        return 0;
    }
    match text.as_bytes()[place - 1..].iter().position(|&byte| byte == b'\n') {
        Some(offset) if place + offset < text.len() => place + offset,
        _ => (place..=text.len()).find(|&p| text.is_char_boundary(p)).unwrap_or(text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { training: 1 << 20, held_out: 4000 };

    fn gather(folder: &Path) -> Result<Vec<Source>, Failure> {
        let out = tempfile::tempdir().unwrap();
        collect(&Origin::Folder(folder.to_owned()), LIMITS, &out.path().join("curated")).map(|found| found.0)
    }

    fn folder(count: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..count {
            // No two of them are near copies, to which all numbers are the same.
            let name = |line| -> String {
                let hash = blake3::hash(format!("{i} {line}").as_bytes());
                hash.as_bytes()[..8].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
            };
            let text = (0..60).map(|line| format!("let {} = {};\n", name(line), name(line + 60)));
            let text = text.collect::<String>();
            fs::write(folder.path().join(format!("file{i}.rs")), text).unwrap();
        }
        folder
    }

    #[test]
    fn whole_files_are_held_out_and_never_trained_on() {
        let folder = folder(40);
        let sources = gather(folder.path()).unwrap();
        assert_eq!(sources.len(), 1);
        let training: BTreeSet<&String> = sources[0].training.iter().collect();
        assert!(!sources[0].held_out.is_empty());
        assert!(sources[0].held_out.iter().all(|text| !training.contains(text)));
        assert_eq!(sources[0].training.len() + sources[0].held_out.len(), 40);
    }

    #[test]
    fn the_same_text_twice_is_taken_once() {
        let folder = folder(20);
        fs::copy(folder.path().join("file3.rs"), folder.path().join("copy.rs")).unwrap();
        let source = &gather(folder.path()).unwrap()[0];
        assert_eq!(source.training.len() + source.held_out.len(), 20);
    }

    #[test]
    fn a_few_files_are_a_source_each() {
        let folder = folder(3);
        let sources = gather(folder.path()).unwrap();
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, ["file0", "file1", "file2"]);
    }

    #[test]
    fn a_folder_without_text_is_refused_with_what_would_work() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("picture.png"), [0u8; 999]).unwrap();
        let error = gather(folder.path()).unwrap_err();
        assert!(error.to_string().contains("no usable text"));
    }

    #[test]
    fn versions_of_one_crate_are_one_group() {
        assert_eq!(crate_name("index/hashbrown-0.15.2/src/lib.rs"), "hashbrown");
        assert_eq!(crate_name("index/icu-locale-2.0.0-beta1/README.md"), "icu-locale");
        assert_eq!(crate_name("index/x86_64-unknown/README.md"), "x86_64-unknown");
    }

    proptest! {
        #[test]
        fn blocks_are_the_text(text in "[a-zé\n]{0,300}", repeat in 1usize..2000) {
            let text = text.repeat(repeat);
            prop_assert_eq!(blocks(&text).concat(), text);
        }

        #[test]
        fn line_starts_are_character_borders(text in "[a-zé\n]{1,80}", place in 0usize..200) {
            let start = line_start(&text, place.min(text.len()));
            prop_assert!(text.is_char_boundary(start) && start >= place.min(text.len()));
        }
    }
}
