//! The one-way arrow: a crate imports only from crates above it in [`ORDER`], and never what its row
//! forbids. All kinds of dependencies count, those of tests too.

use super::{Metadata, Package};

/// Every crate of the workspace from the ground up, with what else it must never know and why.
/// A name that ends in `*` stands for every crate that begins so.
const ORDER: &[Row] = &[
    row("triax-spec", &[], "is plain data"),
    row("triax-tensor", &["triax-*", "memmap2", "safetensors"], "knows no models, ranks or files"),
    row("triax-comm", &["triax-spec"], "knows no models"),
    row("triax-plan", &["triax-tensor", "triax-comm", "memmap2"], "knows no devices or files"),
    row("triax-model", &["tokenizers"], "knows no training loop and no text"),
    row("triax-data", &["triax-model", "triax-tensor", "triax-comm"], "knows no models"),
    row("triax-train", HTTP, "knows no HTTP"),
    row("triax-infer", HTTP, "knows no HTTP"),
    row("triax-eval", &["triax-model", "triax-tensor"], "knows not how logits are made"),
    row("triax-curate", &["triax-model", "triax-tensor", "triax-train", "triax-infer"], "knows no models"),
    row(
        "triax-serve",
        &["triax-model", "triax-tensor", "triax-comm"],
        "knows only infer's and train's values",
    ),
    row("triax", &[], "is the binary"),
];

const HTTP: &[&str] = &["axum", "hyper*", "http*", "reqwest", "tower*", "ureq"];

/// Workspace members outside the road; they import none of its crates.
const BESIDE: &[&str] = &["xtask"];

struct Row {
    name: &'static str,
    never: &'static [&'static str],
    because: &'static str,
}

const fn row(name: &'static str, never: &'static [&'static str], because: &'static str) -> Row {
    Row { name, never, because }
}

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    metadata.members().flat_map(check_crate).collect()
}

fn check_crate(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let imports = package.dependencies.iter().map(|dependency| dependency.name.as_str());
    if BESIDE.contains(&name) {
        return imports
            .filter(|import| position(import).is_some())
            .map(|import| {
                format!("{name} imports {import}: it stands beside the road and imports none of its crates")
            })
            .collect();
    }
    let Some(own) = position(name) else {
        return vec![format!(
            "crate {name} has no place in the order; give it one in xtask/src/tidy/arrow.rs"
        )];
    };
    let row = &ORDER[own];
    imports
        .filter_map(|import| {
            if position(import).is_some_and(|other| other >= own) {
                Some(format!(
                    "{name} imports {import}: a crate imports only from those above it in the order"
                ))
            } else if row.never.iter().any(|pattern| matches(pattern, import)) {
                Some(format!("{name} imports {import}: {name} {}", row.because))
            } else {
                None
            }
        })
        .collect()
}

fn position(name: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.name == name)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dependency;
    use super::*;

    fn package(name: &str, imports: &[&str]) -> Package {
        Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: String::new(),
            license: None,
            source: None,
            dependencies: imports.iter().map(|name| Dependency { name: (*name).to_owned() }).collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn importing_from_above_is_allowed() {
        assert!(check_crate(&package("triax-train", &["triax-data", "triax-model", "serde"])).is_empty());
    }

    #[test]
    fn importing_from_below_is_refused() {
        assert_eq!(check_crate(&package("triax-model", &["triax-train"])).len(), 1);
    }

    #[test]
    fn importing_what_a_row_forbids_is_refused_with_its_reason() {
        let findings = check_crate(&package("triax-data", &["triax-spec", "triax-model"]));
        assert_eq!(findings, ["triax-data imports triax-model: triax-data knows no models"]);
        assert_eq!(check_crate(&package("triax-tensor", &["triax-spec"])).len(), 1);
        assert_eq!(check_crate(&package("triax-train", &["hyper-util"])).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_refused() {
        assert_eq!(check_crate(&package("triax-more", &[])).len(), 1);
        assert_eq!(check_crate(&package("xtask", &["triax-spec"])).len(), 1);
    }
}
