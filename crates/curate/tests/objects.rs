//! Object stores, against a server of the S3 protocol: `cargo xtask test --cloud` starts one and names it by
//! AWS_ENDPOINT_URL. Everything else about it is in the environment, too, as users give it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use triax_curate::objects::{Address, Object, Stores};
use triax_curate::pipeline::{Place, run, upload};
use triax_curate::{CurateError, Recipe};

fn address(url: &str) -> Address {
    Address::parse(url).unwrap()
}

fn stores() -> Stores {
    Stores::open("test", &address("s3://any"), std::env::vars()).unwrap()
}

/// A bucket of its own for each test; none where there is no server.
fn bucket(name: &str) -> Option<String> {
    let Ok(endpoint) = std::env::var("AWS_ENDPOINT_URL") else {
        eprintln!("skipped: no server; cargo xtask test --cloud starts one");
        return None;
    };
    let host = endpoint.trim_start_matches("http://");
    let mut connection = TcpStream::connect(host).unwrap();
    // The store's crate makes no buckets.
    write!(
        connection,
        "PUT /{name} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Some(name.to_owned())
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn urls(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| object.url.as_str()).collect()
}

#[test]
fn objects_are_listed_written_and_read_whole() {
    let Some(bucket) = bucket("whole") else { return };
    let (stores, folder) = (stores(), tempfile::tempdir().unwrap());
    // More than one part, and none of them the same.
    let large: Vec<u8> =
        (0..40u32 << 20 >> 2).flat_map(|word| word.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
    for (name, content) in [("a/large.bin", &*large), ("a/b/small.txt", b"small"), ("c.txt", b"")] {
        let object = stores
            .put(&file(folder.path(), name, content), &address(&format!("s3://{bucket}/{name}")))
            .unwrap();
        assert_eq!(object.bytes, content.len() as u64);
        assert!(!object.tag.is_empty());
        let back = folder.path().join("back");
        stores.fetch(&object, &back).unwrap();
        assert!(std::fs::read(&back).unwrap() == content, "{name} came back changed");
    }
    let list = |key: &str| stores.list(&address(&format!("s3://{bucket}/{key}"))).unwrap();
    assert_eq!(urls(&list("")), ["s3://whole/a/b/small.txt", "s3://whole/a/large.bin", "s3://whole/c.txt"]);
    assert_eq!(urls(&list("a")), ["s3://whole/a/b/small.txt", "s3://whole/a/large.bin"]);
    assert_eq!(urls(&list("c.txt")), ["s3://whole/c.txt"]);
    assert_eq!(urls(&list("a/*/small.txt")).len(), 2, "what is below the stem; the pattern is applied later");
    assert!(list("nothing").is_empty());
}

#[test]
fn an_object_that_has_changed_is_not_read() {
    let Some(bucket) = bucket("changed") else { return };
    let (stores, folder) = (stores(), tempfile::tempdir().unwrap());
    let to = address(&format!("s3://{bucket}/a.txt"));
    let before = stores.put(&file(folder.path(), "a", b"one text"), &to).unwrap();
    stores.put(&file(folder.path(), "a", b"an other"), &to).unwrap();
    let message = stores.fetch(&before, &folder.path().join("back")).unwrap_err().to_string();
    assert!(message.contains("s3://changed/a.txt") && message.contains("has changed since"), "{message}");
    assert!(!folder.path().join("back").exists());
}

#[test]
fn a_missing_bucket_and_a_missing_object_are_named() {
    if bucket("named").is_none() {
        return;
    }
    let stores = stores();
    let message = stores.list(&address("s3://no-such-bucket/a")).unwrap_err().to_string();
    assert_eq!(message, "cannot list s3://no-such-bucket/a: there is no such bucket or object");
    let object = Object { url: "s3://named/no/such".into(), bytes: 1, tag: String::new() };
    let folder = tempfile::tempdir().unwrap();
    let message = stores.fetch(&object, &folder.path().join("back")).unwrap_err().to_string();
    assert_eq!(message, "cannot read s3://named/no/such: there is no such bucket or object");
    assert_eq!(stores.find(&address("s3://named/no/such")).unwrap(), None);
    let recipe = recipe(&["s3://named/*.jsonl".into()], "");
    let error = run(&recipe, &folder.path().join("out"), Place::WHOLE, &AtomicBool::new(false), &mut |_| ());
    assert!(error.unwrap_err().to_string().contains("s3://named/*.jsonl"));
}

#[test]
fn a_server_that_is_not_there_is_given_up_in_bounded_time() {
    let variables = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let begin = Instant::now();
    let stores = Stores::open("test", &address("s3://any"), variables).unwrap();
    let message = stores.list(&address("s3://any/a/*")).unwrap_err().to_string();
    assert!(message.contains("s3://any/a/*") && message.contains("AWS_"), "{message}");
    assert!(begin.elapsed() < Duration::from_secs(90), "{:?}", begin.elapsed());
}

fn recipe(paths: &[String], more: &str) -> Recipe {
    let paths = toml::Value::from(paths.to_vec());
    let steps =
        "[[step]]\nkind = \"size\"\nmin_bytes = 40\n[[step]]\nkind = \"exact_dedup\"\nby = \"text\"\n";
    let text = format!(
        "[[source]]\nname = \"s\"\npaths = {paths}\n{steps}[run]\nthreads = 1\nshard_mb = 1\n[output]\nremoved_text = true\n{more}"
    );
    Recipe::parse("recipe", &text, &[]).unwrap()
}

/// Kept and removed documents by file.
fn outputs(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![out.join("documents"), out.join("removed")];
    while let Some(folder) = waiting.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path.strip_prefix(out).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn documents(seed: usize) -> Vec<u8> {
    let line = |number: usize| {
        let words: Vec<String> =
            (0..number % 40).map(|word| format!("word{}", (number / 3 + word * seed) % 997)).collect();
        format!("{{\"text\":\"{}\"}}\n", words.join(" "))
    };
    (0..4000).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_run_on_objects_gives_the_bytes_of_a_run_on_files_also_when_it_was_stopped() {
    let Some(bucket) = bucket("runs") else { return };
    let (stores, folder) = (stores(), tempfile::tempdir().unwrap());
    for seed in 1..=6 {
        let name = format!("in/{}/part-{seed}.jsonl", seed % 2);
        let path = file(folder.path(), &name, &documents(seed));
        stores.put(&path, &address(&format!("s3://{bucket}/{name}"))).unwrap();
    }
    stores
        .put(
            &file(folder.path(), "in/other.png", b"no text"),
            &address(&format!("s3://{bucket}/in/other.png")),
        )
        .unwrap();
    let never = AtomicBool::new(false);
    let local = folder.path().join("local");
    let files = recipe(&[folder.path().join("in").display().to_string()], "");
    let of_files = run(&files, &local, Place::WHOLE, &never, &mut |_| ()).unwrap().unwrap();

    let objects = recipe(&[format!("s3://{bucket}/in/")], &format!("upload = \"s3://{bucket}/out\"\n"));
    let out = folder.path().join("out");
    let stop = AtomicBool::new(false);
    let stopped = run(&objects, &out, Place::WHOLE, &stop, &mut |progress| {
        stop.store(progress.bytes > 0, Ordering::Relaxed);
    });
    // A machine that is done before its progress is asked for has nothing to go on with.
    assert!(matches!(stopped, Err(CurateError::Interrupted) | Ok(_)));
    let of_objects = run(&objects, &out, Place::WHOLE, &never, &mut |_| ()).unwrap().unwrap();
    assert_eq!(of_objects.totals, of_files.totals);
    assert_eq!(outputs(&out), outputs(&local));
    assert!(of_objects.totals.removed > 0 && of_objects.totals.kept > 0);
    let left: Vec<_> = std::fs::read_dir(out.join("work/fetched")).map_or(Vec::new(), Iterator::collect);
    assert!(left.is_empty(), "{left:?}");

    let mut sent = Vec::new();
    let first = upload(&objects, &out, &mut |url| sent.push(url.to_owned())).unwrap();
    assert_eq!((first.files, first.skipped), (sent.len() as u64, 0));
    assert_eq!(sent.last().unwrap(), "s3://runs/out/manifest.json");
    for (name, content) in outputs(&out) {
        let found = stores.find(&address(&format!("s3://runs/out/{}", name.display()))).unwrap().unwrap();
        let back = folder.path().join("back");
        stores.fetch(&found, &back).unwrap();
        assert_eq!(std::fs::read(&back).unwrap(), content, "{}", name.display());
    }
    // Again: nothing is sent; when one was lost on the way, that one.
    let again = upload(&objects, &out, &mut |url| panic!("{url} is there already")).unwrap();
    assert_eq!((again.files, again.skipped), (0, first.files));
    stores.put(&file(folder.path(), "x", b"broken"), &address("s3://runs/out/recipe.toml")).unwrap();
    let third = upload(&objects, &out, &mut |_| ()).unwrap();
    assert_eq!((third.files, third.skipped), (1, first.files - 1));
}

#[test]
fn an_upload_to_a_missing_bucket_ends_the_run_before_it_begins() {
    if bucket("begins").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a.jsonl", &documents(1));
    let recipe = recipe(&[path.display().to_string()], "upload = \"s3://no-such-bucket/out\"\n");
    let out = folder.path().join("out");
    let error = run(&recipe, &out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("s3://no-such-bucket/out/manifest.json"), "{error}");
    assert!(!out.exists());
}
