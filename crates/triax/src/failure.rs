//! How the program fails: one message, what would help, and an exit code that scripts can read.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | something failed while running |
//! | 2 | wrong use: flags, run file, configuration; nothing was started |
//! | 130 | interrupted a second time (the first interrupt saves and ends with 0) |

use std::process::ExitCode;

/// Ends a command.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    #[help]
    help: Option<String>,
    code: u8,
    /// People know already.
    told: bool,
}

impl Failure {
    /// The user asked for something impossible; nothing was started.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, code: 2, told: false }
    }

    /// Something failed while running.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, code: 1, told: false }
    }

    /// Only the exit code is left to say: another process, or another thread of this one, has told the rest.
    pub(crate) fn told(code: u8) -> Self {
        Self { message: String::new(), help: None, code, told: true }
    }

    /// Says which rank failed.
    pub(crate) fn of_rank(mut self, rank: usize) -> Self {
        self.message = format!("rank {rank}: {}", self.message);
        self
    }

    /// What would work.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Shows the failure on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let code = ExitCode::from(self.code);
        if self.told {
            return code;
        }
        // Whole lines, so that paths and values can be searched for and copied; the terminal wraps them.
        // Fails only where a hook is set already, and this is the only place that sets one.
        let _ = miette::set_hook(Box::new(|_| {
            Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build())
        }));
        eprintln!("{:?}", miette::Report::new(self));
        code
    }
}

/// Adds the place where an error arose and makes it a failure of the run.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::run(format!("{}: {}", what(), with_causes(&error))))
    }
}

/// The error and what caused it, in one line; causes already named by the message are not repeated.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
