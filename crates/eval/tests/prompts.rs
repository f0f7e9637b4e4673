//! Every built-in task with every prompt set, rendered from small files in the official formats (texts are ours) and
//! compared with `golden/prompts.txt`. After a wanted change: `TRIAX_UPDATE=1 cargo test -p triax-eval`, and raise
//! the task's version.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is to panic")]

use std::fmt::Write;
use std::path::Path;
use triax_eval::{Choice, Renderer, Row, Rows, Task, builtin, read};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn rows(task: &Task) -> Rows {
    read(task, &task.test, folder()).unwrap()
}

/// The shared context once, then the choices; contexts that differ by choice stand before their targets.
fn show(out: &mut String, choices: &[Choice]) {
    let shared = choices.iter().all(|choice| choice.context == choices[0].context);
    if shared {
        writeln!(out, "    {:?}", choices[0].context).unwrap();
    }
    // Large label sets are told by their ends.
    let shown = choices.len().min(10);
    for choice in &choices[..shown] {
        let context = if shared { String::new() } else { format!("{:?} ", choice.context) };
        writeln!(out, "    {} {context}│ {:?}", choice.label, choice.target).unwrap();
    }
    if shown < choices.len() {
        let last = &choices[choices.len() - 1];
        writeln!(out, "    … {} │ {:?}", last.label, last.target).unwrap();
    }
}

fn rendered() -> String {
    let mut out = String::new();
    for (name, _) in builtin::TASKS {
        let task = builtin::task(name).unwrap();
        let Rows { rows, file, skipped } = rows(&task);
        writeln!(out, "{name} v{} {} {} items {skipped} skipped", task.version, file.path, file.items)
            .unwrap();
        for (set, prompt) in &task.prompts {
            let renderer = Renderer { task: &task, prompt };
            let wanted: Vec<&Row> = rows.iter().filter(|row| renderer.wants(row)).collect();
            let last = wanted[wanted.len() - 1];
            let before = renderer.before(&wanted[..wanted.len().min(2) - 1]).unwrap();
            writeln!(out, "  {set}: {} items, gold {}", wanted.len(), renderer.gold(last).unwrap()).unwrap();
            show(&mut out, &renderer.choices(last, &before).unwrap());
            if prompt.is_classification() {
                let empty = &renderer.content_free(last, "N/A", "").unwrap()[0];
                writeln!(out, "    content-free {:?} │ {:?}", empty.context, empty.target).unwrap();
            }
        }
    }
    out
}

#[test]
fn prompts_are_the_golden_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prompts.txt");
    let found = rendered();
    if std::env::var_os("TRIAX_UPDATE").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (line, (found, golden)) in found.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, golden, "line {}", line + 1);
    }
    assert_eq!(found.lines().count(), golden.lines().count());
}

#[test]
fn real_files_read_and_every_item_renders() {
    let Some(data) = std::env::var_os("TRIAX_TEST_DATA").map(|data| Path::new(&data).join("eval")) else {
        println!("skipped: TRIAX_TEST_DATA is not set");
        return;
    };
    let expected = [
        ("lambada", 5153),
        ("boolq", 3270),
        ("piqa", 1838),
        ("wic", 500),
        ("eprstmt", 610),
        ("tnews", 2010),
        ("chid", 2002),
        ("cluewsc", 976),
    ];
    for (name, items) in expected {
        let task = builtin::task(name).unwrap();
        let rows = read(&task, &task.test, &data).unwrap();
        assert_eq!(rows.rows.len(), items, "{name}");
        for prompt in task.prompts.values() {
            let renderer = Renderer { task: &task, prompt };
            for row in &rows.rows {
                renderer.gold(row).unwrap();
                assert!(renderer.choices(row, "").unwrap().iter().all(|choice| !choice.target.is_empty()));
            }
        }
    }
}

#[test]
fn a_folder_without_the_files_names_what_was_tried() {
    let empty = tempfile::tempdir().unwrap();
    let task = builtin::task("boolq").unwrap();
    let message = read(&task, &task.test, empty.path()).unwrap_err().to_string();
    assert!(message.contains("boolq/val.jsonl") && message.contains("en/boolq/val.jsonl"), "{message}");
}

#[test]
fn a_damaged_line_is_named_by_file_and_number() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("boolq")).unwrap();
    std::fs::write(folder.path().join("boolq/val.jsonl"), "{\"question\": \"q\"}\n{\"question\"\n").unwrap();
    let task = builtin::task("boolq").unwrap();
    let message = read(&task, &task.test, folder.path()).unwrap_err().to_string();
    assert!(message.contains("val.jsonl:2: not a JSON object"), "{message}");
    std::fs::write(folder.path().join("boolq/val.jsonl"), b"{}\n\xff\n").unwrap();
    let message = read(&task, &task.test, folder.path()).unwrap_err().to_string();
    assert!(message.contains("val.jsonl:2: not UTF-8"), "{message}");
}
