//! Every key of a run file misspelled, mistyped and out of range: one message each, with place, rule and a way out.

use crate::error::{Fault, Place};
use crate::keys::{KEYS, Key, Kind};
use crate::run::Run;

/// What must stand beside a key's example for it to have an effect.
fn context(key: &Key) -> Vec<(&'static str, &'static str)> {
    let mut lines = vec![("data.blend", "[{ path = \"tokens/a\" }]")];
    if key.path == "model.heads" {
        lines.extend([("model.positions", "\"rotary\""), ("model.head_dim", "32")]);
    }
    if key.path == "model.head_dim" {
        lines.push(("model.positions", "\"rotary\""));
    }
    if key.path.starts_with("train.global_batch.") {
        lines.extend([
            ("train.global_batch.start", "64"),
            ("train.global_batch.step", "16"),
            ("train.global_batch.end", "128"),
            ("train.global_batch.over", "\"640 samples\""),
        ]);
    }
    if key.path == "train.evaluate_every" {
        lines.push(("data.validation", "[{ path = \"tokens/v\" }]"));
    }
    if let Some(only) = &key.only {
        let (path, value) = only.setting.split_once(" = ").unwrap();
        lines.push((path, value));
    }
    if key.path != "model.preset" {
        lines.push(("model.preset", "\"tiny-gpt\""));
    }
    lines
}

/// A run file of the context and one more line for `key`, and the number of that line.
fn file(key: &Key, name: &str, value: &str) -> (String, usize) {
    let mut context = context(key);
    context.retain(|(path, _)| *path != key.path);
    let line = match key.path.split_once("[].") {
        Some((list, item)) => {
            context.retain(|(path, _)| *path != list);
            let name = name.rsplit('.').next().unwrap();
            let path = if item == "path" { "" } else { "path = \"tokens/b\", " };
            format!("{list} = [{{ {path}{name} = {value} }}]")
        }
        None => format!("{name} = {value}"),
    };
    let mut lines: Vec<String> = context.iter().map(|(path, value)| format!("{path} = {value}")).collect();
    if key.path.starts_with("data.validation") {
        lines.retain(|line| !line.starts_with("data.validation"));
    }
    lines.push(line);
    (lines.join("\n"), lines.len())
}

/// The only problem of the file, which must lie in its last line.
fn only_problem(key: &Key, name: &str, value: &str) -> Fault {
    let (text, last) = file(key, name, value);
    let errors = Run::parse("run.toml", &text, &[]).expect_err(&text);
    assert_eq!(errors.problems.len(), 1, "{text}\n--\n{errors}");
    let problem = &errors.problems[0];
    let Place::File { line, .. } = problem.place else { panic!("{text}\n--\n{errors}") };
    assert_eq!(line, last, "{text}\n--\n{errors}");
    problem.fault.clone()
}

fn wrong_type(key: &Key) -> &'static str {
    match key.kind {
        Kind::Integer { .. } | Kind::Number { .. } | Kind::Pair { .. } => "\"many\"",
        Kind::Boolean | Kind::Off => "3",
        Kind::Text | Kind::Choice(_) | Kind::Preset | Kind::Amount { .. } => "true",
    }
}

fn out_of_range(key: &Key) -> Vec<String> {
    match key.kind {
        Kind::Integer { most, .. } => vec!["-1".to_owned(), (u128::from(most) + 1).to_string()],
        Kind::Number { least, most } => {
            vec![
                format!("{:?}", least - 1.0),
                format!("{:?}", most * 10.0),
                "nan".to_owned(),
                "inf".to_owned(),
            ]
        }
        Kind::Pair { .. } => vec!["[0.9, 1.5]".to_owned(), "[0.9]".to_owned()],
        Kind::Boolean => vec![],
        Kind::Off => vec!["true".to_owned()],
        Kind::Text => vec!["\"\"".to_owned()],
        Kind::Choice(_) | Kind::Preset => vec!["\"nothing-like-it\"".to_owned()],
        Kind::Amount { least } => {
            let mut values = vec!["\"12B\"".to_owned(), "\"1.5 steps\"".to_owned()];
            if least > 0 {
                values.push("\"0 steps\"".to_owned());
            }
            values
        }
    }
}

#[test]
fn every_key_misspelled_names_the_key_that_was_meant() {
    for key in KEYS.iter() {
        for name in [format!("{}_", key.path), key.path[..key.path.len() - 1].to_owned()] {
            let value = if key.example.is_empty() { "1" } else { key.example };
            match only_problem(key, &name, value) {
                Fault::UnknownKey { nearest, .. } => assert_eq!(nearest, key.path, "{name}"),
                other => panic!("{name}: {other}"),
            }
        }
    }
}

#[test]
fn every_key_mistyped_says_which_type() {
    for key in KEYS.iter() {
        let value = wrong_type(key);
        match only_problem(key, key.path, value) {
            Fault::WrongType { expected, .. } => assert_eq!(expected, key.kind.describe()),
            other => panic!("{}: {other}", key.path),
        }
    }
}

#[test]
fn every_key_out_of_range_says_the_range_and_a_value_that_works() {
    for key in KEYS.iter() {
        for value in out_of_range(key) {
            match only_problem(key, key.path, &value) {
                Fault::OutOfRange { works, .. } => {
                    let (text, _) = file(key, key.path, &works);
                    Run::parse("run.toml", &text, &[])
                        .unwrap_or_else(|errors| panic!("{text}\n--\n{errors}"));
                }
                other => panic!("{} = {value}: {other}", key.path),
            }
        }
    }
}

#[test]
fn every_key_changes_the_run_and_is_written_back() {
    let inert = ["train.on_spike"];
    let single = ["train.optimizer.kind"];
    for key in KEYS.iter().filter(|key| !inert.contains(&key.path)) {
        let (with, _) = file(key, key.path, key.example);
        let mut without: Vec<(&str, &str)> = context(key);
        if key.path == "model.preset" {
            without.push(("model.preset", "\"tiny-gpt\""));
        }
        let without: Vec<String> = without.iter().map(|(path, value)| format!("{path} = {value}")).collect();
        let run = Run::parse("with.toml", &with, &[]).unwrap_or_else(|errors| panic!("{with}\n--\n{errors}"));
        let plain = Run::parse("without.toml", &without.join("\n"), &[])
            .unwrap_or_else(|errors| panic!("{}: {errors}", key.path));
        assert!(run != plain || single.contains(&key.path), "{} has no effect", key.path);
        let again = Run::parse("again.toml", &run.to_toml(), &[]).unwrap();
        assert_eq!(run, again, "{}", key.path);
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
        let lines: Vec<String> = context(key)
            .iter()
            .filter(|(path, _)| *path != key.path)
            .map(|(path, value)| format!("{path} = {value}"))
            .collect();
        let argument = format!("{}={}", key.path, wrong_type(key));
        let errors =
            Run::parse("run.toml", &lines.join("\n"), std::slice::from_ref(&argument)).expect_err(&argument);
        assert_eq!(errors.problems.len(), 1, "{errors}");
        assert_eq!(errors.problems[0].place, Place::Set { argument });
    }
}
