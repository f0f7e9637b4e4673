//! Which files a recipe's sources mean, and how they are cut into shards: a pure function of recipe and file names
//! and sizes, never of threads or of the order in which a file system lists.

use super::names::{below_root, fixed, last, name_of_object, tell_apart};
use crate::CurateError;
use crate::objects::{Address, Object, Stores, is_url};
use crate::recipe::{Format, Recipe, Source};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The unit of work: files of one source, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its place in the list of shards.
    pub number: u32,
    /// Index into the recipe's sources.
    pub source: usize,
    pub parts: Vec<Part>,
}

/// A file, or a range of bytes of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// On this machine; of an object in a store, its URL until it has been fetched.
    pub path: PathBuf,
    /// Below the part of the source's path that has no `*`, with `/`; part of the documents' ids. Each file of a source has
    /// its own.
    pub name: String,
    pub format: Format,
    /// On disk, of this part.
    pub bytes: u64,
    /// Lines that start in it, where a file was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// In a store, not on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
}

/// Most files in one shard.
const FILES: usize = 10_000;

impl Shard {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// All shards of a recipe, and how many files in folders were left out for their ending or because they are links.
///
/// # Errors
/// When a source has no paths, a path does not exist, or nothing of the source's format is there.
pub fn shards(recipe: &Recipe) -> Result<(Vec<Shard>, u64), CurateError> {
    let limit = recipe.run.shard_mb as u64 * 1_000_000;
    let (mut shards, mut ignored) = (Vec::new(), 0);
    for (number, source) in recipe.sources.iter().enumerate() {
        let parts = files(source, &mut ignored)?.into_iter().flat_map(|part| cut(part, limit));
        let mut open: Vec<Part> = Vec::new();
        let mut close = |open: &mut Vec<Part>| {
            if !open.is_empty() {
                shards.push(Shard {
                    number: shards.len() as u32,
                    source: number,
                    parts: std::mem::take(open),
                });
            }
        };
        for part in parts {
            let bytes: u64 = open.iter().map(|part| part.bytes).sum();
            if bytes + part.bytes > limit || open.len() == FILES {
                close(&mut open);
            }
            open.push(part);
        }
        close(&mut open);
    }
    Ok((shards, ignored))
}

/// Plain JSON lines are cut into ranges of about `limit` bytes; objects are not, since each is fetched whole.
fn cut(part: Part, limit: u64) -> Vec<Part> {
    let is_plain = part.path.extension().is_none_or(|ending| ending != "gz" && ending != "zst");
    if part.format != Format::Jsonl || !is_plain || part.bytes <= limit || part.object.is_some() {
        return vec![part];
    }
    let pieces = part.bytes.div_ceil(limit);
    let border = |piece: u64| part.bytes * piece / pieces;
    (0..pieces)
        .map(|piece| Part {
            range: Some((border(piece), border(piece + 1))),
            bytes: border(piece + 1) - border(piece),
            ..part.clone()
        })
        .collect()
}

fn files(source: &Source, ignored: &mut u64) -> Result<Vec<Part>, CurateError> {
    let fault = |message: String| CurateError::Source { name: source.name.clone(), message };
    if source.paths.is_empty() {
        return Err(fault(format!(
            "it has no paths; give them: --set source.{}.paths='[\"…\"]'",
            source.name
        )));
    }
    let mut parts = Vec::new();
    for written in &source.paths {
        if is_url(written) {
            objects(written, source, &mut parts, ignored)?;
            continue;
        }
        let matches =
            expand(Path::new(written)).map_err(|error| CurateError::io("read", Path::new(written), error))?;
        if matches.is_empty() {
            return Err(fault(format!("nothing is called {written}")));
        }
        for path in matches {
            let metadata = path.metadata().map_err(|error| CurateError::io("read", &path, error))?;
            let before = parts.len();
            let root: PathBuf = path.iter().take(fixed(Path::new(written).iter())).collect();
            if metadata.is_dir() {
                walk(&root, &path, source, &mut parts, ignored)?;
                if parts.len() == before {
                    return Err(fault(format!("no file in {} is of this source's format", path.display())));
                }
            } else {
                let name = if path == root { last(&path, 1) } else { below_root(&path, &root) };
                let format = match source.format {
                    Format::Auto => by_ending(&name).unwrap_or(Format::Text),
                    format => format,
                };
                parts.push(Part { name, format, bytes: metadata.len(), range: None, path, object: None });
            }
        }
    }
    tell_apart(&mut parts).map_err(fault)?;
    Ok(parts)
}

/// The objects that a URL means.
fn objects(
    written: &str,
    source: &Source,
    parts: &mut Vec<Part>,
    ignored: &mut u64,
) -> Result<(), CurateError> {
    let fault = |message: String| CurateError::Source { name: source.name.clone(), message };
    let address = Address::parse(written).map_err(fault)?;
    let listed = Stores::open("list", &address, std::env::vars())?.list(&address)?;
    let before = parts.len();
    for object in listed {
        let key = Address::parse(&object.url).map_err(fault)?.key;
        let Some(below) = below(&address.key, &key) else { continue };
        let format = if let Some(name) = below.last() {
            let is_made = |part: &&str| source.format == Format::Code && MADE.contains(part);
            if below.iter().any(|part| part.starts_with('.')) || below.iter().any(is_made) {
                None
            } else {
                wanted(source, name)
            }
        } else {
            Some(match source.format {
                Format::Auto => by_ending(&key).unwrap_or(Format::Text),
                format => format,
            })
        };
        let Some(format) = format else {
            *ignored += 1;
            continue;
        };
        let name = name_of_object(&address.key, &key);
        let path = PathBuf::from(&object.url);
        parts.push(Part { path, name, format, bytes: object.bytes, range: None, object: Some(object) });
    }
    if parts.len() == before {
        return Err(fault(format!(
            "no object of this source's format is called {written}, or lies below it"
        )));
    }
    Ok(())
}

/// What comes of a key behind the parts that a pattern names: nothing for an object that the pattern means itself, none
/// for one that it does not mean.
fn below<'a>(pattern: &str, key: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = key.split('/');
    for wanted in pattern.split('/').filter(|part| !part.is_empty()) {
        let part = parts.next()?;
        if !matches(wanted, part) || wanted.contains('*') && part.starts_with('.') {
            return None;
        }
    }
    Some(parts.collect())
}

/// Names are those below `root`. Hidden files and folders are passed over, as are links, which may lead in circles or out of the folder.
fn walk(
    root: &Path,
    folder: &Path,
    source: &Source,
    parts: &mut Vec<Part>,
    ignored: &mut u64,
) -> Result<(), CurateError> {
    let fault = |error| CurateError::io("read", folder, error);
    let mut entries =
        std::fs::read_dir(folder).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind, name) = (entry.path(), entry.file_type().map_err(fault)?, entry.file_name());
        let is_made = source.format == Format::Code && kind.is_dir() && MADE.iter().any(|made| *made == name);
        if name.as_encoded_bytes().starts_with(b".") || kind.is_symlink() || is_made {
            *ignored += 1;
        } else if kind.is_dir() {
            walk(root, &path, source, parts, ignored)?;
        } else if let Some(format) = wanted(source, &name.to_string_lossy()).filter(|_| kind.is_file()) {
            let name = below_root(&path, root);
            let bytes = entry.metadata().map_err(fault)?.len();
            parts.push(Part { path, name, format, bytes, range: None, object: None });
        } else {
            *ignored += 1;
        }
    }
    Ok(())
}

/// The format to read a folder's file in, if the source wants it.
fn wanted(source: &Source, name: &str) -> Option<Format> {
    let plain = plain_name(name);
    let ending = plain.rsplit_once('.').map(|(_, ending)| ending.to_owned());
    if !source.endings.is_empty() {
        let ending = ending?;
        let listed =
            source.endings.iter().any(|wanted| wanted.trim_start_matches('.').eq_ignore_ascii_case(&ending));
        let format = if source.format == Format::Auto { by_ending(name) } else { Some(source.format) };
        return listed.then(|| format.unwrap_or(Format::Text));
    }
    let found = by_ending(name)?;
    match source.format {
        Format::Auto => Some(found),
        format => (format == found).then_some(found),
    }
}

/// Folders that tools fill.
const MADE: [&str; 5] = ["target", "node_modules", "__pycache__", "dist", "build"];

const TEXT: [&str; 8] = ["txt", "text", "md", "markdown", "rst", "tex", "adoc", "org"];
const CODE: [&str; 38] = [
    "rs", "py", "c", "h", "cc", "cpp", "hpp", "cu", "cuh", "go", "js", "ts", "jsx", "tsx", "java", "kt",
    "swift", "rb", "php", "sh", "sql", "toml", "yaml", "yml", "scala", "lua", "jl", "r", "pl", "hs", "ml",
    "cs", "f90", "zig", "css", "proto", "cmake", "nix",
];

fn by_ending(name: &str) -> Option<Format> {
    let name = plain_name(name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "warc" | "wet" => Some(Format::Warc),
        "parquet" => Some(Format::Parquet),
        "html" | "htm" | "xhtml" => Some(Format::Html),
        ending if TEXT.contains(&ending) => Some(Format::Text),
        ending if CODE.contains(&ending) => Some(Format::Code),
        _ => None,
    }
}

/// In lower case, without the ending of a compression.
fn plain_name(name: &str) -> String {
    let name = name.to_lowercase();
    name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name).to_owned()
}

/// What a path with `*` in its parts means, sorted; a path without is itself, where it exists.
fn expand(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in path.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains('*') {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut next = Vec::new();
        for folder in found {
            let open = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            if !open.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(open)? {
                let name = entry?.file_name();
                let text_name = name.to_string_lossy();
                if matches(&text, &text_name) && !text_name.starts_with('.') {
                    next.push(folder.join(&name));
                }
            }
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

/// `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
    }
    rest.is_empty()
}

impl Part {
    /// For tests and fuzzing of one reader.
    pub(super) fn example(name: &str) -> Self {
        Self {
            path: PathBuf::new(),
            name: name.into(),
            format: Format::Auto,
            bytes: 0,
            range: None,
            object: None,
        }
    }
}

/// As [`Part::example`].
pub(super) fn example(name: &str) -> Source {
    Source {
        name: name.into(),
        paths: Vec::new(),
        format: Format::Auto,
        endings: Vec::new(),
        text_field: "text".into(),
        url_field: "url".into(),
        priority: 0,
        weight: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(paths: &[String], more: &str) -> Recipe {
        let paths = toml::Value::from(paths.to_vec());
        Recipe::parse("r.toml", &format!("[[source]]\nname = \"s\"\npaths = {paths}\n{more}"), &[]).unwrap()
    }

    fn folder(files: &[(&str, usize)]) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; *bytes]).unwrap();
        }
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("a*", "abc", true),
            ("*.gz", "a.warc.gz", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("a", "a", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn small_files_share_a_shard_and_large_line_files_are_cut() {
        let (_folder, path) = folder(&[
            ("a/1.txt", 400_000),
            ("a/2.txt", 400_000),
            ("a/3.md", 400_000),
            ("b.jsonl", 2_500_000),
        ]);
        let recipe = recipe(&[path], "[run]\nshard_mb = 1\n");
        let (shards, _) = shards(&recipe).unwrap();
        let names: Vec<Vec<&str>> =
            shards.iter().map(|shard| shard.parts.iter().map(|part| part.name.as_str()).collect()).collect();
        assert_eq!(names[0], ["a/1.txt", "a/2.txt"]);
        assert_eq!(names[1], ["a/3.md"]);
        assert_eq!(names.len(), 5);
        let ranges: Vec<_> = shards[2..].iter().map(|shard| shard.parts[0].range.unwrap()).collect();
        assert_eq!((ranges[0].0, ranges[2].1), (0, 2_500_000));
        assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }

    #[test]
    fn files_of_one_name_in_several_folders_have_names_of_their_own() {
        let files = ["x/a/1.txt", "x/b/1.txt", "y/b/1.txt", "z/b/1.txt"].map(|name| (name, 10));
        let (_folder, path) = folder(&files);
        let names = |paths: &[&str]| -> Vec<String> {
            let paths: Vec<String> = paths.iter().map(|below| format!("{path}/{below}")).collect();
            let (shards, _) = shards(&recipe(&paths, "")).unwrap();
            shards.into_iter().flat_map(|shard| shard.parts).map(|part| part.name).collect()
        };
        assert_eq!(names(&["x/*/1.txt"]), ["a/1.txt", "b/1.txt"]);
        assert_eq!(names(&["*/b"]), ["x/b/1.txt", "y/b/1.txt", "z/b/1.txt"]);
        assert_eq!(names(&["x/a/*.txt"]), ["1.txt"]);
        // Through folders and files that are named one by one, only what is needed is added.
        assert_eq!(names(&["x/a/1.txt", "x/b/1.txt"]), ["a/1.txt", "b/1.txt"]);
        assert_eq!(names(&["x/a", "y/b", "z/b"]), ["a/1.txt", "y/b/1.txt", "z/b/1.txt"]);
        let twice = recipe(&[format!("{path}/x/a"), format!("{path}/x/a/1.txt")], "");
        let error = shards(&twice).unwrap_err().to_string();
        assert!(error.contains("twice") && error.contains("x/a/1.txt"), "{error}");
    }

    #[test]
    fn a_source_tree_has_programs_only_and_nothing_that_tools_made() {
        let (_folder, path) =
            folder(&[("src/a.rs", 10), ("target/b.rs", 10), (".git/c.rs", 10), ("d.md", 10), ("e.png", 10)]);
        let (shards, ignored) = shards(&recipe(&[path], "format = \"code\"\n")).unwrap();
        assert_eq!(shards[0].parts.len(), 1);
        assert_eq!(shards[0].parts[0].name, "src/a.rs");
        assert_eq!(ignored, 4);
    }

    #[cfg(unix)]
    #[test]
    fn links_in_circles_are_not_followed() {
        let (folder, path) = folder(&[("a/1.txt", 10)]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/circle")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out.txt")).unwrap();
        let (shards, ignored) = shards(&recipe(&[path], "")).unwrap();
        assert_eq!(shards[0].parts.len(), 1);
        assert_eq!(ignored, 2);
    }

    #[test]
    fn what_is_missing_is_said_with_what_would_work() {
        let fault = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
            shards(&recipe(&paths, "")).unwrap_err().to_string()
        };
        assert!(fault(&[]).contains("--set source.s.paths"));
        assert!(fault(&["no/such/*.warc.gz"]).contains("nothing is called"));
        assert!(fault(&["ftp://bucket/key"]).contains("s3://, gs:// and az://"));
        #[cfg(not(feature = "cloud"))]
        assert!(fault(&["s3://bucket/key"]).contains("s3://bucket/key: this program was built without"));
    }

    #[test]
    fn a_pattern_means_objects_and_what_lies_below_folders() {
        for (pattern, key, expected) in [
            ("a/b.gz", "a/b.gz", Some("")),
            ("a", "a/b/c.gz", Some("b/c.gz")),
            ("a", "ab/c.gz", None),
            ("", "a/b.gz", Some("a/b.gz")),
            ("a/*.gz", "a/b.gz", Some("")),
            ("a/*.gz", "a/b.txt", None),
            ("a/*", "a/b/c.gz", Some("c.gz")),
            ("a/*", "a/.b", None),
            ("*/x/*.gz", "a/x/b.gz", Some("")),
            ("*/x/*.gz", "a/y/b.gz", None),
            ("a/b/c", "a/b", None),
        ] {
            assert_eq!(
                below(pattern, key).map(|parts| parts.join("/")).as_deref(),
                expected,
                "{pattern} {key}"
            );
        }
    }
}
