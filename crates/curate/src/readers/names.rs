//! Names of files, which are parts of documents' ids: each file of a source has its own, and keeps it where it can when others
//! come and go beside it.
//!
//! ```text
//! crawl/*/a.warc.gz      2024/a.warc.gz, 2025/a.warc.gz      below what has no `*`
//! [x/a.gz, y/a.gz]       x/a.gz, y/a.gz                      alike, so with the folders that tell them apart
//! ```

use super::sources::Part;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;

/// How many parts of a path stand before the first with `*`.
pub(super) fn fixed<P: AsRef<OsStr>>(parts: impl Iterator<Item = P>) -> usize {
    parts.take_while(|part| !part.as_ref().to_string_lossy().contains('*')).count()
}

pub(super) fn below_root(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
}

/// The last so many parts of a path, fewer where it has no more.
pub(super) fn last(path: &Path, count: usize) -> String {
    let parts: Vec<_> = path.iter().map(OsStr::to_string_lossy).filter(|part| part != "/").collect();
    parts[parts.len().saturating_sub(count)..].join("/")
}

/// Files of one name, which different paths of a source mean, get as many of the folders above them as tell them apart.
pub(super) fn tell_apart(parts: &mut [Part]) -> Result<(), String> {
    loop {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, part) in parts.iter().enumerate() {
            places.entry(&part.name).or_default().push(place);
        }
        let mut alike: Vec<Vec<usize>> = places.into_values().filter(|places| places.len() > 1).collect();
        if alike.is_empty() {
            return Ok(());
        }
        alike.sort_unstable();
        for places in alike {
            let longer = |part: &Part| last(&part.path, part.name.split('/').count() + 1);
            if places.iter().all(|&place| longer(&parts[place]) == parts[place].name) {
                return Err(format!("its paths mean {} twice", parts[places[0]].path.display()));
            }
            for place in places {
                parts[place].name = longer(&parts[place]);
            }
        }
    }
}

/// As of a file: what of the key lies below the part of the pattern without `*`.
pub(super) fn name_of_object(pattern: &str, key: &str) -> String {
    let names: Vec<&str> = key.split('/').collect();
    let fixed = fixed(pattern.split('/').filter(|part| !part.is_empty()));
    names[fixed.min(names.len() - 1)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_one_name_in_several_folders_have_names_of_their_own() {
        for (pattern, key, expected) in [
            ("a/b.gz", "a/b.gz", "b.gz"),
            ("a", "a/b/c.gz", "b/c.gz"),
            ("a/", "a/b/c.gz", "b/c.gz"),
            ("", "a/b.gz", "a/b.gz"),
            ("a/*.gz", "a/b.gz", "b.gz"),
            ("a/*/c.gz", "a/b/c.gz", "b/c.gz"),
            ("*/x", "a/x/b/c.gz", "a/x/b/c.gz"),
        ] {
            assert_eq!(name_of_object(pattern, key), expected, "{pattern} {key}");
        }
    }
}
