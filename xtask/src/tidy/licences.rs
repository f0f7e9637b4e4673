//! The licence and source rules of deny.toml, checked on `cargo metadata` so that they hold on every machine,
//! with cargo-deny or without. One file states the rules; this reads the part of it named in [`Deny`].

use std::fs;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Metadata, Package};
use crate::command::root;

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    /// SPDX identifiers, with `<licence> WITH <exception>` as one string.
    allow: Vec<String>,
    /// Further licences that single crates may be under.
    #[serde(default)]
    exceptions: Vec<Exemption>,
}

#[derive(Deserialize)]
struct Exemption {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
    let rules: Deny = toml::from_str(&text).context("deny.toml")?;
    Ok(metadata.packages.iter().flat_map(|package| check_package(package, &rules)).collect())
}

fn check_package(package: &Package, rules: &Deny) -> Vec<String> {
    let name = format!("{} {}", package.name, package.version);
    let mut findings = Vec::new();
    let exempt = rules.licenses.exceptions.iter().filter(|exemption| exemption.name == package.name);
    let mut allow = rules.licenses.allow.clone();
    allow.extend(exempt.flat_map(|exemption| exemption.allow.iter().cloned()));
    match &package.license {
        Some(expression) if satisfied(expression, &allow) => {}
        Some(expression) => {
            findings.push(format!("{name} is under `{expression}`, which deny.toml does not allow"))
        }
        None => findings.push(format!("{name} names no licence")),
    }
    let allowed = |source: &str| {
        let registry = source.strip_prefix("registry+").unwrap_or(source);
        rules.sources.allow_registry.iter().any(|allowed| allowed == registry)
    };
    if let Some(source) = package.source.as_deref().filter(|source| !allowed(source)) {
        findings.push(format!("{name} comes from {source}, which deny.toml does not allow"));
    }
    findings
}

/// Whether an SPDX expression leaves a way to use the crate under allowed licences only. `/` is the old
/// spelling of `OR`; `AND` binds tighter than `OR`, `WITH` tighter than both.
fn satisfied(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let satisfied = any_of(&mut words, allow);
    satisfied && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allow: &[String]) -> bool {
    let mut satisfied = all_of(words, allow);
    while words.next_if_eq(&"OR").is_some() {
        satisfied |= all_of(words, allow);
    }
    satisfied
}

fn all_of(words: &mut Words<'_>, allow: &[String]) -> bool {
    let mut satisfied = one(words, allow);
    while words.next_if_eq(&"AND").is_some() {
        satisfied &= one(words, allow);
    }
    satisfied
}

fn one(words: &mut Words<'_>, allow: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let satisfied = any_of(words, allow);
        return words.next() == Some(")") && satisfied;
    }
    let Some(licence) = words.next() else { return false };
    let licence = match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => format!("{licence} WITH {exception}"),
        None => licence.to_owned(),
    };
    allow.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(expression: &str) -> bool {
        satisfied(
            expression,
            &["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned),
        )
    }

    #[test]
    fn a_choice_needs_one_allowed_licence() {
        assert!(allowed("MIT OR GPL-3.0"));
        assert!(allowed("Unlicense/MIT"));
        assert!(!allowed("GPL-3.0 OR LGPL-2.1"));
    }

    #[test]
    fn a_conjunction_needs_all_of_them() {
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!allowed("(MIT OR Apache-2.0) AND NCSA"));
        assert!(allowed("MIT OR Apache-2.0 AND NCSA"));
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        assert!(allowed("Apache-2.0 WITH LLVM-exception"));
        assert!(!allowed("MIT WITH LLVM-exception"));
    }

    #[test]
    fn a_damaged_expression_is_not_a_licence() {
        assert!(!allowed("(MIT"));
        assert!(!allowed("MIT)"));
        assert!(!allowed(""));
    }
}
