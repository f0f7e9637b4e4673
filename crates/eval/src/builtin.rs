//! The tasks that are part of the program: `crates/eval/tasks/*.toml`.

use crate::error::EvalError;
use crate::names::nearest;
use crate::task::Task;

macro_rules! tasks {
    ($($name:literal),+ $(,)?) => {
        /// Name and text of each, in the order of lists.
        pub const TASKS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../tasks/", $name, ".toml")))),+];
    };
}

tasks![
    "lambada",
    "race-h",
    "boolq",
    "piqa",
    "hellaswag",
    "winogrande",
    "anli-r1",
    "anli-r2",
    "anli-r3",
    "hans",
    "wic",
    "eprstmt",
    "csldcp",
    "tnews",
    "iflytek",
    "ocnli",
    "bustm",
    "chid",
    "csl",
    "cluewsc",
    "wikitext2",
    "perplexity",
];

/// # Errors
/// When there is none of that name.
pub fn task(name: &str) -> Result<Task, EvalError> {
    match TASKS.iter().find(|(known, _)| *known == name) {
        Some((name, text)) => Task::parse(&format!("{name}.toml"), text),
        None => Err(EvalError::NoTask {
            name: name.to_owned(),
            nearest: nearest(name, TASKS.iter().map(|(known, _)| *known)).to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_reads_and_has_the_name_of_its_file() {
        for (name, _) in TASKS {
            assert_eq!(task(name).unwrap().name, *name);
        }
    }

    #[test]
    fn an_unknown_task_names_the_nearest() {
        assert!(task("lambda").unwrap_err().to_string().contains("did you mean `lambada`"));
    }

    #[test]
    fn the_labels_of_the_large_chinese_tasks_are_complete() {
        let labels = |name, set: &str| task(name).unwrap().prompts[set].labels.len();
        assert_eq!(
            (labels("tnews", "yuan"), labels("csldcp", "clue-gpt"), labels("iflytek", "yuan")),
            (15, 67, 119)
        );
        let tnews = task("tnews").unwrap();
        assert!(tnews.prompts["yuan"].labels.iter().all(|label| label.words.len() == 5));
    }
}
