//! Object stores, each against a server of its own on this machine: `cargo xtask test --cloud` starts them and names them in
//! the environment. Every test is run for each of the three stores.
#![allow(clippy::unwrap_used)]

mod services;

use services::Service;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use triax_curate::objects::{Address, Object, Stores};
use triax_curate::pipeline::{Place, run, upload};
use triax_curate::{CurateError, Recipe};

/// Names the tests of every store.
macro_rules! of_each_store {
    ($($test:ident),* $(,)?) => {
        of_each_store!(s3 S3 $($test)*);
        of_each_store!(gs GS $($test)*);
        of_each_store!(az AZ $($test)*);
    };
    ($name:ident $service:ident $($test:ident)*) => {
        mod $name {
            $(#[test]
            fn $test() {
                if super::services::$service.is_there() {
                    super::$test(&super::services::$service);
                }
            })*
        }
    };
}

of_each_store!(
    objects_are_listed_written_and_read_whole,
    an_object_that_has_changed_is_not_read,
    a_missing_bucket_and_a_missing_object_are_named,
    a_run_on_objects_gives_the_bytes_of_a_run_on_files_also_when_it_was_stopped,
    an_upload_to_a_missing_bucket_ends_the_run_before_it_begins,
);

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn urls(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| object.url.as_str()).collect()
}

fn objects_are_listed_written_and_read_whole(service: &Service) {
    service.make("whole");
    let (stores, folder) = (service.stores(), tempfile::tempdir().unwrap());
    // More than one part, and none of them the same.
    let large: Vec<u8> =
        (0..40u32 << 20 >> 2).flat_map(|word| word.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
    for (name, content) in [("a/large.bin", &*large), ("a/b/small.txt", b"small"), ("c.txt", b"")] {
        let object = stores
            .put(&file(folder.path(), name, content), &service.address(&format!("whole/{name}")))
            .unwrap();
        assert_eq!(object.bytes, content.len() as u64);
        assert!(object.tag.starts_with('"') && object.tag.ends_with('"'), "{object:?}");
        let back = folder.path().join("back");
        stores.fetch(&object, &back).unwrap();
        assert!(std::fs::read(&back).unwrap() == content, "{name} came back changed");
    }
    let list = |key: &str| stores.list(&service.address(&format!("whole/{key}"))).unwrap();
    let named = |names: &[&str]| names.iter().map(|name| service.url(name)).collect::<Vec<_>>();
    assert_eq!(urls(&list("")), named(&["whole/a/b/small.txt", "whole/a/large.bin", "whole/c.txt"]));
    assert_eq!(urls(&list("a")), named(&["whole/a/b/small.txt", "whole/a/large.bin"]));
    assert_eq!(urls(&list("c.txt")), named(&["whole/c.txt"]));
    assert_eq!(urls(&list("a/*/small.txt")).len(), 2, "what is below the stem; the pattern is applied later");
    assert!(list("nothing").is_empty());
    for object in list("") {
        let alone = stores.find(&Address::parse(&object.url).unwrap()).unwrap();
        assert_eq!(alone.as_ref(), Some(&object), "a listing says what the object itself says");
        stores.fetch(&object, &folder.path().join("back")).unwrap();
    }
}

fn an_object_that_has_changed_is_not_read(service: &Service) {
    service.make("changed");
    let (stores, folder) = (service.stores(), tempfile::tempdir().unwrap());
    let to = service.address("changed/a.txt");
    let before = stores.put(&file(folder.path(), "a", b"one text"), &to).unwrap();
    stores.put(&file(folder.path(), "a", b"an other"), &to).unwrap();
    let message = stores.fetch(&before, &folder.path().join("back")).unwrap_err().to_string();
    assert!(
        message.contains(&service.url("changed/a.txt")) && message.contains("has changed since"),
        "{message}"
    );
    assert!(!folder.path().join("back").exists());
}

fn a_missing_bucket_and_a_missing_object_are_named(service: &Service) {
    service.make("named");
    let stores = service.stores();
    let (bucket, key) = (service.address("no-such-bucket/a"), service.address("named/no/such"));
    let message = stores.list(&bucket).unwrap_err().to_string();
    assert_eq!(message, format!("cannot list {bucket}: there is no such bucket or object"));
    let folder = tempfile::tempdir().unwrap();
    let message = stores.put(&file(folder.path(), "a", b"text"), &bucket).unwrap_err().to_string();
    assert_eq!(message, format!("cannot write {bucket}: there is no such bucket or object"));
    let object = Object { url: key.to_string(), bytes: 1, tag: String::new() };
    let message = stores.fetch(&object, &folder.path().join("back")).unwrap_err().to_string();
    assert_eq!(message, format!("cannot read {key}: there is no such bucket or object"));
    assert_eq!(stores.find(&key).unwrap(), None);
    let pattern = service.url("named/*.jsonl");
    let recipe = recipe(std::slice::from_ref(&pattern), "");
    let error = run(&recipe, &folder.path().join("out"), Place::WHOLE, &AtomicBool::new(false), &mut |_| ());
    assert!(error.unwrap_err().to_string().contains(&pattern));
}

/// A server that is not there is given up in bounded time, and the error names the variables of its store.
fn is_given_up(scheme: &str, prefix: &str, variables: &[(&str, &str)]) {
    let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let (begin, url) = (Instant::now(), format!("{scheme}://any/a/*"));
    let address = Address::parse(&url).unwrap();
    let stores = Stores::open("test", &address, variables).unwrap();
    let message = stores.list(&address).unwrap_err().to_string();
    assert!(message.contains(&url) && message.contains(prefix), "{message}");
    assert!(begin.elapsed() < Duration::from_secs(90), "{:?}", begin.elapsed());
}

#[test]
fn a_server_of_s3_that_is_not_there_is_given_up_in_bounded_time() {
    let (endpoint, http) = (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ALLOW_HTTP", "true"));
    is_given_up(
        "s3",
        "AWS_",
        &[endpoint, http, ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")],
    );
}

#[test]
fn a_server_of_google_that_is_not_there_is_given_up_in_bounded_time() {
    let endpoint = ("GOOGLE_BASE_URL", "http://127.0.0.1:9");
    is_given_up("gs", "GOOGLE_", &[endpoint, ("GOOGLE_SKIP_SIGNATURE", "true")]);
}

#[test]
fn a_server_of_azure_that_is_not_there_is_given_up_in_bounded_time() {
    let (endpoint, http) =
        (("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/any"), ("AZURE_ALLOW_HTTP", "true"));
    let account = ("AZURE_STORAGE_ACCOUNT_NAME", "any");
    is_given_up("az", "AZURE_", &[endpoint, http, account, ("AZURE_STORAGE_ACCOUNT_KEY", "YW55")]);
}

/// A store that is reached with another value of this variable refuses, and that is no missing bucket.
fn refuses(service: &Service, variable: &str, value: &str) {
    if !service.is_there() {
        return;
    }
    let address = service.address("any/a");
    let variables = std::env::vars().chain([(variable.to_owned(), value.to_owned())]);
    let stores = Stores::open("test", &address, variables).unwrap();
    let message = stores.list(&address).unwrap_err().to_string();
    let prefix = variable.split_inclusive('_').next().unwrap();
    assert!(
        message.contains(&format!("refuses access with the credentials of the variables {prefix}…")),
        "{message}"
    );
}

// moto takes every key for S3.

#[test]
fn a_wrong_token_for_google_is_told_from_a_missing_bucket() {
    refuses(&services::GS, "GOOGLE_BEARER_TOKEN", "wrong");
}

#[test]
fn a_wrong_key_for_azure_is_told_from_a_missing_container() {
    refuses(&services::AZ, "AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=");
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

fn a_run_on_objects_gives_the_bytes_of_a_run_on_files_also_when_it_was_stopped(service: &Service) {
    service.make("runs");
    let (stores, folder) = (service.stores(), tempfile::tempdir().unwrap());
    for seed in 1..=6 {
        let name = format!("in/{}/part-{seed}.jsonl", seed % 2);
        let path = file(folder.path(), &name, &documents(seed));
        stores.put(&path, &service.address(&format!("runs/{name}"))).unwrap();
    }
    let other = file(folder.path(), "in/other.png", b"no text");
    stores.put(&other, &service.address("runs/in/other.png")).unwrap();
    let never = AtomicBool::new(false);
    let local = folder.path().join("local");
    let files = recipe(&[folder.path().join("in").display().to_string()], "");
    let of_files = run(&files, &local, Place::WHOLE, &never, &mut |_| ()).unwrap().unwrap();

    let objects = recipe(&[service.url("runs/in/")], &format!("upload = \"{}\"\n", service.url("runs/out")));
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
    assert_eq!(*sent.last().unwrap(), service.url("runs/out/manifest.json"));
    for (name, content) in outputs(&out) {
        let found = stores.find(&service.address(&format!("runs/out/{}", name.display()))).unwrap().unwrap();
        let back = folder.path().join("back");
        stores.fetch(&found, &back).unwrap();
        assert_eq!(std::fs::read(&back).unwrap(), content, "{}", name.display());
    }
    // Again: nothing is sent; when one was lost on the way, that one.
    let again = upload(&objects, &out, &mut |url| panic!("{url} is there already")).unwrap();
    assert_eq!((again.files, again.skipped), (0, first.files));
    stores.put(&file(folder.path(), "x", b"broken"), &service.address("runs/out/recipe.toml")).unwrap();
    let third = upload(&objects, &out, &mut |_| ()).unwrap();
    assert_eq!((third.files, third.skipped), (1, first.files - 1));
}

fn an_upload_to_a_missing_bucket_ends_the_run_before_it_begins(service: &Service) {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a.jsonl", &documents(1));
    let recipe = recipe(
        &[path.display().to_string()],
        &format!("upload = \"{}\"\n", service.url("no-such-bucket/out")),
    );
    let out = folder.path().join("out");
    let error = run(&recipe, &out, Place::WHOLE, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains(&service.url("no-such-bucket/out/manifest.json")), "{error}");
    assert!(!out.exists());
}
