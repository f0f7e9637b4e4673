//! `cargo xtask fuzz`: readers of files from elsewhere on inputs that libFuzzer invents, with AddressSanitizer. Stable
//! Rust has both; only the flag that asks for the sanitizer counts as unstable. What a target finds is kept under
//! target/fuzz; an input that fails stays there and is named.
//!
//! ```text
//! crates/…/corpus (replayed by ordinary tests) ──seeds──▶ target/fuzz/corpus/TARGET ──grows while it runs
//! ```

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, program, root, run, target};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// One of the targets; by default all but the readers of crawls, whose crate takes long to build.
    name: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Add to the target's corpus in the repository what covers more of the code than it does: few, small inputs.
    #[arg(long)]
    keep: bool,
}

/// A target, where its seeds are, and the feature of fuzz/Cargo.toml that brings in the crate it calls.
struct Target {
    name: &'static str,
    corpus: &'static str,
    feature: &'static str,
}

const TARGETS: &[Target] = &[
    Target { name: "gguf", corpus: "crates/model/corpus/gguf", feature: "model" },
    Target { name: "idx", corpus: "crates/data/corpus/idx", feature: "data" },
    Target { name: "manifest", corpus: "crates/train/corpus", feature: "train" },
    Target { name: "run_file", corpus: "crates/spec/corpus", feature: "spec" },
    Target { name: "html", corpus: "crates/curate/corpus/html", feature: CRAWLS },
    Target { name: "jsonl", corpus: "crates/curate/corpus/jsonl", feature: CRAWLS },
    Target { name: "warc", corpus: "crates/curate/corpus/warc", feature: CRAWLS },
];

/// The feature of the readers of crawls.
const CRAWLS: &str = "curate";

/// What cargo-fuzz would set: coverage that libFuzzer reads, AddressSanitizer, checks of overflow.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Zsanitizer=address",
    "--cfg=fuzzing",
];

/// Names the target, so that build scripts and macros are built without instruments.
const MACHINE: &str = "x86_64-unknown-linux-gnu";

/// Largest input that is kept in the repository.
const LARGEST_KEPT: u64 = 4096;

pub(crate) fn run_targets(options: &Options) -> Result<()> {
    let chosen: Vec<&Target> = match &options.name {
        None => TARGETS.iter().filter(|target| target.feature != CRAWLS).collect(),
        Some(name) => TARGETS.iter().filter(|target| target.name == name).collect(),
    };
    if chosen.is_empty() {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("no target `{}`; there are {}", options.name.as_deref().unwrap_or_default(), names.join(", "));
    }
    let folder = target().join("fuzz");
    // The versions that the program itself is built with.
    let lock = root().join("fuzz/Cargo.lock");
    fs::copy(root().join("Cargo.lock"), &lock).with_context(|| lock.display().to_string())?;
    let mut build = cargo(&["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", MACHINE]);
    for target in &chosen {
        build.args(["--bin", target.name, "--features", target.feature]);
    }
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS.join(" ")).env("CARGO_TARGET_DIR", &folder);
    run(&mut build)?;
    for target in chosen {
        let executable = folder.join(MACHINE).join("release").join(target.name);
        let executable = executable.to_string_lossy();
        let grown = folder.join("corpus").join(target.name);
        fs::create_dir_all(&grown).with_context(|| grown.display().to_string())?;
        let seeds = root().join(target.corpus);
        let mut fuzz = program(&executable, &[]);
        fuzz.arg(format!("-max_total_time={}", options.seconds));
        fuzz.arg(format!("-artifact_prefix={}/{}-", folder.display(), target.name));
        fuzz.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]).arg(&grown);
        if seeds.is_dir() {
            fuzz.arg(&seeds);
        }
        run(&mut fuzz)?;
        if options.keep {
            keep(target, &executable, &grown, &seeds)?;
        }
    }
    Ok(())
}

/// Copies to the seeds the smallest set of inputs that covers what they do not.
fn keep(target: &Target, executable: &str, grown: &std::path::Path, seeds: &std::path::Path) -> Result<()> {
    let more = target_folder(target)?;
    fs::create_dir_all(seeds)?;
    for entry in fs::read_dir(seeds)? {
        let entry = entry?;
        fs::copy(entry.path(), more.join(entry.file_name()))?;
    }
    run(program(executable, &["-merge=1", "-timeout=10"]).arg(&more).arg(grown))?;
    for entry in fs::read_dir(&more)? {
        let entry = entry?;
        let kept = seeds.join(format!("found-{}", entry.file_name().to_string_lossy()));
        // Names that libFuzzer gives are the hashes of what is inside.
        let is_new = !seeds.join(entry.file_name()).exists() && !kept.exists();
        if is_new && entry.metadata()?.len() <= LARGEST_KEPT {
            fs::copy(entry.path(), &kept)?;
            println!("kept {}", kept.display());
        }
    }
    Ok(())
}

/// An empty folder to merge in.
fn target_folder(of: &Target) -> Result<std::path::PathBuf> {
    let folder = target().join("fuzz/merge").join(of.name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_in_the_fuzz_crate_and_every_one_there_is_here() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        let there: Vec<&str> =
            manifest.split("[[bin]]").skip(1).map(|section| section.split('"').nth(1).unwrap()).collect();
        let mut here: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        here.sort_unstable();
        assert_eq!(there, here);
        for target in TARGETS {
            let source =
                fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{}.rs", target.name))).unwrap();
            assert!(source.contains(target.corpus), "{} names its seeds", target.name);
        }
    }
}
