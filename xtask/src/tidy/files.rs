//! Rules on the files of the repository: what a reader meets when opening one, and how large it may be.

use std::fs;

use anyhow::{Context as _, Result};

use super::Metadata;
use crate::command::{output, program, root};

/// Longest Rust file, in lines.
const LONGEST: usize = 800;

/// Rust files that may be longer, each with the reason why cutting them would make them harder to read.
const LONGER: &[(&str, &str)] = &[];

/// Largest file of the repository, in bytes.
const LARGEST: u64 = 1 << 20;

/// Notes to oneself have no place in finished code. Spelled so that this file does not contain them.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

const TEXT: &[&str] = &["rs", "toml", "md", "py", "sh", "yml"];

/// Packages whose crates may contain unsafe code; each block there states why it is sound.
const UNSAFE: &[&str] = &["triax-tensor", "triax-comm"];

pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut findings = check_unsafe(metadata)?;
    let listed = output(&mut program("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    for path in listed.lines() {
        // A file that is deleted but not yet committed is still listed.
        let Ok(file) = fs::metadata(root().join(path)) else { continue };
        if file.len() > LARGEST {
            findings
                .push(format!("{path}: {} bytes; the repository keeps no file over {LARGEST}", file.len()));
        }
        let extension = path.rsplit('.').next().unwrap_or_default();
        // A fuzzing corpus holds bytes that no editor would write.
        if TEXT.contains(&extension) && !path.contains("/corpus/") {
            let text = fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
            findings.extend(check_text(path, &text));
        }
    }
    Ok(findings)
}

fn check_text(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(note) = NOTES.iter().find(|note| line.contains(*note)) {
            findings
                .push(format!("{path}:{}: a {note}; do it, or write it where work is planned", index + 1));
        }
    }
    if path.ends_with(".rs") {
        if !text.starts_with("//! ") {
            findings.push(format!("{path}: the first line must be `//! ` and say what the file is"));
        }
        let lines = text.lines().count();
        if lines > LONGEST && !LONGER.iter().any(|(longer, _)| *longer == path) {
            findings.push(format!(
                "{path}: {lines} lines; over {LONGEST} it needs a reason in xtask/src/tidy/files.rs"
            ));
        }
    }
    findings
}

/// Libraries and binaries outside [`UNSAFE`] forbid unsafe code at their root.
fn check_unsafe(metadata: &Metadata) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.members().filter(|package| !UNSAFE.contains(&package.name.as_str())) {
        let roots = package
            .targets
            .iter()
            .filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin"));
        for target in roots {
            let text = fs::read_to_string(&target.src_path).with_context(|| target.src_path.clone())?;
            if !text.lines().any(|line| line == "#![forbid(unsafe_code)]") {
                findings.push(format!("{}: `#![forbid(unsafe_code)]` is missing", target.src_path));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rust_file_begins_by_saying_what_it_is() {
        assert!(check_text("a.rs", "//! What it is.\nfn main() {}\n").is_empty());
        assert_eq!(check_text("a.rs", "#![forbid(unsafe_code)]\n").len(), 1);
        assert!(check_text("a.toml", "[package]\n").is_empty());
    }

    #[test]
    fn a_long_file_and_a_note_to_oneself_are_refused() {
        assert_eq!(check_text("a.rs", &"//! Long.\n".repeat(LONGEST + 1)).len(), 1);
        assert!(check_text("a.rs", &"//! Long.\n".repeat(LONGEST)).is_empty());
        let findings = check_text("a.md", &format!("fine\n{} later\n", NOTES[0]));
        assert!(findings[0].starts_with("a.md:2: "), "{findings:?}");
    }
}
