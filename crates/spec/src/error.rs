//! What is wrong with a run file: every problem at once, each with its place, the rule and what would work.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// All problems of one run file and its overrides; never empty.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Errors {
    /// Name of the file, as given.
    pub file: String,
    /// Its text, for showing the places; empty if it could not be read.
    pub text: Arc<str>,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub fault: Fault,
}

/// Where a problem lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bytes `span` of the file; line and column from 1, the column in characters.
    File { span: Range<usize>, line: usize, column: usize },
    /// The value of a `--set`, as given.
    Set { argument: String },
    /// The file as a whole.
    Whole,
}

/// What is wrong; every message names a value or key that would work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("cannot be read: {reason}; give the path of a run file such as recipes/demo.toml")]
    Unreadable { reason: String },
    #[error("byte {offset} is not UTF-8 text; save the run file as UTF-8")]
    NotText { offset: usize },
    #[error("not valid TOML: {message}")]
    Syntax { message: String },
    #[error("{reason}; write it as --set {works}")]
    Override { reason: String, works: String },
    #[error("unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey { key: String, nearest: String },
    #[error("`{key}` must be {expected}, not {found}; `{key} = {works}` would work")]
    WrongType { key: String, expected: String, found: &'static str, works: String },
    #[error("`{key}` is {found} but must be {range}; `{key} = {works}` would work")]
    OutOfRange { key: String, found: String, range: String, works: String },
    #[error("`{key}` is missing: {about}; `{key} = {works}` would work")]
    Missing { key: String, about: &'static str, works: String },
    #[error("`{key}`: {rule}; `{works}` would work")]
    Rule { key: String, rule: String, works: String },
}

impl Place {
    pub(crate) fn in_file(text: &str, span: Range<usize>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::File {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
        }
    }
}

impl Errors {
    /// One line per problem's place, as `file:line:column` or `--set a.b=c`.
    pub fn location(&self, problem: &Problem) -> String {
        match &problem.place {
            Place::File { line, column, .. } => format!("{}:{line}:{column}", self.file),
            Place::Set { argument } => format!("--set {argument}"),
            Place::Whole => self.file.clone(),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(out, "{newline}{}: {}", self.location(problem), problem.fault)?;
        }
        Ok(())
    }
}
