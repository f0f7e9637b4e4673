//! What a workload needs before it can start: a text every machine has, and PyTorch's flags for the model of a run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use super::Options;
use crate::command::{program, run, target};

/// Size of the text for tokenizing.
const TEXT_BYTES: usize = 64 << 20;

/// Where prepared files go, made if need be.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The text to tokenize: `--input`, or Rust and Markdown files of cargo's registry joined in the order of their paths.
pub(super) fn text(options: &Options) -> Result<PathBuf> {
    if let Some(input) = &options.input {
        return std::path::absolute(input).with_context(|| input.display().to_string());
    }
    let most = if options.smoke { 1 << 20 } else { TEXT_BYTES };
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let registry = home.context("neither CARGO_HOME nor a home folder is set")?.join("registry/src");
    let path = folder()?.join("text.txt");
    let mut text = fs::File::create(&path).with_context(|| path.display().to_string())?;
    let (mut waiting, mut written) = (vec![registry.clone()], 0);
    while let Some(next) = waiting.pop() {
        if next.is_dir() {
            let entries =
                fs::read_dir(&next)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
            let mut entries = entries.with_context(|| next.display().to_string())?;
            entries.sort_by(|a, b| b.cmp(a));
            waiting.extend(entries);
        } else if next.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            // Some crates test their readers with files that are not UTF-8.
            let Ok(content) = fs::read_to_string(&next) else { continue };
            text.write_all(content.as_bytes())?;
            written += content.len();
            if written >= most {
                break;
            }
        }
    }
    if written == 0 {
        bail!("no text under {}; give some with --input", registry.display());
    }
    Ok(path)
}

/// Bytes of the archive to read.
const ARCHIVE_BYTES: u64 = 48 << 20;

/// What a step of curation works on: `--input`, or real files of the folder that `TRIAX_TEST_DATA` names. For `read` that
/// is one archive, made of a small one again and again as crawls are made of members.
pub(super) fn crawl(step: &str, options: &Options) -> Result<PathBuf> {
    if let Some(input) = &options.input {
        return std::path::absolute(input).with_context(|| input.display().to_string());
    }
    let data = std::env::var_os("TRIAX_TEST_DATA").map(PathBuf::from);
    let data =
        data.context("TRIAX_TEST_DATA is not set; it names the folder of real files, or give --input")?;
    if step != "read" {
        return Ok(data.join("extraction/articles/html"));
    }
    let source = data.join("warc/sample-0000.warc.gz");
    let member = fs::read(&source).with_context(|| source.display().to_string())?;
    let most = if options.smoke { 1 << 20 } else { ARCHIVE_BYTES };
    let path = folder()?.join("crawl.warc.gz");
    let mut file = fs::File::create(&path).with_context(|| path.display().to_string())?;
    for _ in 0..most.div_ceil(member.len() as u64) {
        file.write_all(&member)?;
    }
    Ok(path)
}

/// Bytes of documents for filters: half a minute of the slower side.
const DOCUMENT_BYTES: usize = 4 << 20;

/// Documents for a chain of filters: `--input`, or a sample spread over the real English or Chinese ones that
/// golden/curation/corpus.py finds.
pub(super) fn documents(chain: &str, python: &str, options: &Options) -> Result<PathBuf> {
    if let Some(input) = &options.input {
        return std::path::absolute(input).with_context(|| input.display().to_string());
    }
    let folder = folder()?.join("corpus");
    let mut corpus = program(python, &["golden/curation/corpus.py"]);
    run(corpus.arg(&folder))?;
    let language = if chain == "crawl-zh" { "zh" } else { "en" };
    let all = folder.join(format!("{language}.jsonl"));
    let all = fs::read_to_string(&all).with_context(|| all.display().to_string())?;
    let most = if options.smoke { 1 << 18 } else { DOCUMENT_BYTES };
    let every = all.len().div_ceil(most).max(1);
    let sample: Vec<_> = all.split_inclusive('\n').step_by(every).collect();
    if sample.is_empty() {
        bail!("no {language} documents; set TRIAX_TEST_DATA, or give some with --input");
    }
    let path = folder.join(format!("{language}-sample.jsonl"));
    fs::write(&path, sample.concat()).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Documents with planted near copies, made on first use.
pub(super) fn corpus(python: &str, language: &str, megabytes: u32, options: &Options) -> Result<PathBuf> {
    let path = folder()?.join(format!("corpus-{language}-{megabytes}.jsonl"));
    if path.exists() {
        return Ok(path);
    }
    let part = path.with_extension("part");
    let mut command = program(python, &["bench/peers/curate_corpus.py", "--language", language]);
    command
        .args(["--megabytes", &megabytes.to_string(), "--out"])
        .arg(&part)
        .arg("--text")
        .arg(text(options)?);
    run(&mut command)?;
    fs::rename(&part, &path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Flags for bench/peers/torch_gpt.py so that it trains the model of the run file somewhere under `folder`.
pub(super) fn peer_of_run(folder: &Path, smoke: bool) -> Result<Vec<String>> {
    let path =
        find(folder, "run.toml")?.with_context(|| format!("no run.toml under {}", folder.display()))?;
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let run: Table = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let mut flags = flags_of_run(&run).with_context(|| path.display().to_string())?;
    let steps = if smoke { "2" } else { "10" };
    flags.extend(["--steps".to_owned(), steps.to_owned()]);
    Ok(flags)
}

fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|found| found == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn flags_of_run(run: &Table) -> Result<Vec<String>> {
    let of = |section: &str, key: &str| run.get(section).and_then(|section| section.get(key));
    let count = |section: &str, key: &str| {
        of(section, key).and_then(Value::as_integer).with_context(|| format!("no number {section}.{key}"))
    };
    let micro_batch = count("layout", "micro_batch")?;
    let global_batch = count("train", "global_batch")?;
    let mut flags = Vec::new();
    let heads = count("model", "heads")?;
    let numbers = [
        ("--layers", count("model", "layers")?),
        ("--hidden", count("model", "hidden")?),
        ("--heads", heads),
        ("--kv-heads", of("model", "kv_heads").and_then(Value::as_integer).unwrap_or(heads)),
        ("--ffn", count("model", "ffn")?),
        ("--vocab", count("model", "vocab")?),
        ("--seq", count("model", "sequence")?),
        ("--batch", micro_batch),
        ("--accumulate", (global_batch / micro_batch.max(1)).max(1)),
    ];
    for (flag, number) in numbers {
        flags.extend([flag.to_owned(), number.to_string()]);
    }
    if of("model", "activation").and_then(Value::as_str) == Some("swiglu") {
        flags.extend(["--style".to_owned(), "llama".to_owned()]);
    }
    if of("model", "tied").and_then(Value::as_bool) == Some(false) {
        flags.push("--untied".to_owned());
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "[model]\nlayers = 4\nhidden = 256\nheads = 4\nkv_heads = 2\nffn = 700\nvocab = 4096\nsequence = 256\n\
                       activation = \"swiglu\"\ntied = false\n[train]\nglobal_batch = 32\n[layout]\nmicro_batch = 8\n";

    #[test]
    fn the_peer_gets_the_shape_of_the_run() {
        let flags = flags_of_run(&toml::from_str(RUN).unwrap()).unwrap().join(" ");
        assert!(
            flags.contains("--kv-heads 2 --ffn 700 --vocab 4096 --seq 256 --batch 8 --accumulate 4"),
            "{flags}"
        );
        assert!(flags.ends_with("--style llama --untied"), "{flags}");
    }

    #[test]
    fn a_missing_number_is_named() {
        let run = toml::from_str(&RUN.replace("hidden = 256\n", "")).unwrap();
        assert!(flags_of_run(&run).unwrap_err().to_string().contains("model.hidden"));
    }
}
