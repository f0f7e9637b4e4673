//! Input that lies, explodes or leads out of its folder: a counted reason or a clear error, never more, and nothing
//! outside the output folder. And the replayed fuzz corpora.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use triax_curate::pipeline::{Manifest, Place, run};
use triax_curate::{Recipe, extract, readers};

fn gzip(path: &Path, blocks: usize, block: &[u8]) {
    let mut writer = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::best());
    (0..blocks).for_each(|_| writer.write_all(block).unwrap());
    writer.finish().unwrap();
}

/// A folder of everything that has ever hurt a reader.
fn hostile(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    write("empty.jsonl", b"");
    write("empty.txt", b"");
    write("empty.warc.gz", b"");
    write("empty.parquet", b"");
    write("not.jsonl.gz", b"this is not gzip");
    write("not.jsonl.zst", b"this is not zstd");
    write("not.parquet", b"PAR1 and nothing else PAR1");
    write("invalid.txt", b"caf\xe9 \xff\xfe\x80 text in no encoding at all");
    write("binary.txt", b"\x7fELF\x02\x01\0\0\0\0");
    write("deep.html", format!("<html><body>{}", "<div>".repeat(100_000)).as_bytes());
    write("unclosed.html", format!("<html><body>{}", "<b><i><font>".repeat(30_000)).as_bytes());
    write("tables.html", "<table><tr><td>".repeat(20_000).as_bytes());
    write("nodes.html", "<p>x</p>".repeat(200_000).as_bytes());
    write("attribute.html", format!("<p class=\"{}\">x", "a".repeat(1 << 20)).as_bytes());
    write("invalid.html", b"<html><body><p>\xff\xfe\xfd text \x00\x01 \xc3");
    write(
        "nested.jsonl",
        format!("{}\n{{\"text\":\"fine, and long enough\"}}\n", "[".repeat(1 << 20)).as_bytes(),
    );
    write(
        "names.jsonl",
        b"{\"text\":\"a text\",\"url\":\"../../../etc/passwd\",\"id\":\"../../escape\",\"../x\":\"../y\"}\n",
    );
    write(
        "lies.warc",
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: 99999999999\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    );
    // 64 MB in one line, in about 64 kB.
    gzip(&folder.join("line.jsonl.gz"), 64, &vec![b'x'; 1 << 20]);
    // And a bomb that has lines, so that no line is too long.
    gzip(&folder.join("bomb.jsonl.gz"), 64, &b"{\"text\":\"\"}      \n".repeat(1 << 16));
    let zeros = vec![0; 64 << 20];
    fs::write(folder.join("bomb.txt.zst"), zstd::bulk::compress(&zeros, 1).unwrap()).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder, folder.join("circle")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("passwd.txt")).unwrap();
        std::os::unix::fs::symlink("/does/not/exist", folder.join("gone.txt")).unwrap();
    }
}

fn recipe(folder: &Path) -> Recipe {
    let paths = toml::Value::from(vec![folder.display().to_string()]);
    let text = format!(
        "[[source]]\nname = \"hostile\"\npaths = {paths}\n[limits]\nrecord_bytes = 4000000\n[extract]\nmax_seconds = 300.0\n\
         [[step]]\nkind = \"size\"\nmin_bytes = 1\n[[step]]\nkind = \"exact_dedup\"\n"
    );
    Recipe::parse("hostile.toml", &text, &[]).unwrap()
}

fn curate(folder: &Path, out: &Path) -> Manifest {
    run(&recipe(folder), out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap().unwrap()
}

/// Name and bytes of everything below.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            files.extend(tree(&path))
        } else {
            drop(files.insert(path.clone(), fs::read(&path).unwrap()))
        }
    }
    files
}

#[test]
fn hostile_files_are_counted_and_stay_in_their_place() {
    let root = tempfile::tempdir().unwrap();
    let (input, out) = (root.path().join("input"), root.path().join("out"));
    fs::create_dir(&input).unwrap();
    hostile(&input);
    let before = tree(&input);
    let manifest = curate(&input, &out);
    assert_eq!(tree(&input), before, "the input is as it was");
    let beside: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "nothing was written beside input and output: {beside:?}");

    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for step in &manifest.steps {
        for (reason, removed) in &step.count.removed {
            *reasons.entry(format!("{} {reason}", step.name)).or_default() += removed.tally.documents;
        }
    }
    for expected in [
        "read binary",
        "read damaged_file",
        "read decompression_bomb",
        "read record_too_large",
        "read bad_json",
        "read damaged_record",
        "extract too_deep",
        "extract too_many_nodes",
        "size too_short",
    ] {
        assert!(reasons.contains_key(expected), "{expected} is not among {reasons:?}");
    }
    let totals = manifest.totals;
    assert_eq!(totals.found + totals.made, totals.kept + totals.removed);
    assert!(totals.kept >= 2, "the good lines among them are kept: {reasons:?}");

    // The same again, elsewhere: the same bytes, the output of hostile input included.
    let again = root.path().join("again");
    curate(&input, &again);
    let below = |out: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        tree(out)
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(out).unwrap().to_owned(), bytes))
            .collect()
    };
    assert_eq!(below(&out), below(&again));
}

/// Every file of a fuzz corpus whole, cut, and with bytes changed.
fn replay(corpus: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(corpus);
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = fs::read(entry.unwrap().path()).unwrap();
        target(&entry);
        seen += 1;
        for seed in 0..24usize {
            let mut changed = entry.clone();
            if changed.is_empty() {
                continue;
            }
            let place = (seed * 7919 + 31) % changed.len();
            match seed % 4 {
                0 => changed.truncate(place),
                1 => changed[place] ^= 1 << (seed % 8),
                2 => drop(changed.drain(place..(place + 13).min(changed.len()))),
                _ => changed.splice(place..place, *b"<\xff&\">\n{").for_each(drop),
            }
            target(&changed);
        }
    }
    assert!(seen >= 10, "{seen} files");
}

#[test]
fn the_corpus_of_json_lines_is_replayed() {
    replay("jsonl", readers::fuzz_jsonl);
}

#[test]
fn the_corpus_of_pages_is_replayed() {
    replay("html", extract::fuzz_html);
}

#[test]
fn the_corpus_of_archives_is_replayed() {
    replay("warc", readers::fuzz_warc);
}
