//! `cargo xtask tidy`: the rules of this house that no compiler knows. Each rule returns what it found as
//! sentences that name the place and the rule; all of them are shown before the command fails.

mod arrow;
mod files;
mod licences;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::command::{cargo, output, program};

pub(crate) fn run() -> Result<()> {
    let metadata = metadata()?;
    let mut findings = arrow::check(&metadata);
    findings.extend(licences::check(&metadata)?);
    findings.extend(files::check(&metadata)?);
    if findings.is_empty() {
        println!("tidy: all is well");
        return Ok(());
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    bail!("tidy found {} thing(s) to mend", findings.len())
}

/// What we read of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a package of this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: String,
}

impl Metadata {
    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }
}

/// The workspace and everything it is built from on this machine; other platforms' crates are not fetched.
fn metadata() -> Result<Metadata> {
    let version = output(&mut program("rustc", &["-vV"]))?;
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let printed =
        output(&mut cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", host]))?;
    serde_json::from_str(&printed).context("cannot read what `cargo metadata` printed")
}
