//! What the user sees: JSON lines on standard output for scripts, everything else on standard error, and
//! progress as a bar on a terminal or as an occasional line elsewhere.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Writes `value` as one line on standard output.
///
/// A reader that has gone away (`triax … | head`) ends the command like any full disk would.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).map_err(|error| Failure::run(format!("JSON: {error}")))?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::run(format!("cannot write to standard output: {error}")))
}

/// Between two progress lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one long piece of work.
pub(crate) struct Progress {
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Progress {
    /// `total` is in any unit; the message says what is interesting about the position.
    pub(crate) fn new(what: impl Into<String>, total: u64) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let template = "  {prefix} {bar:28.cyan/black.bright} {percent:>3}%  {msg}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━━─"));
            bar.set_prefix(what.clone());
            bar
        });
        Self { what, total, bar, next_line: Instant::now() + LINE_EVERY }
    }

    pub(crate) fn set(&mut self, position: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(message());
            }
            None if Instant::now() >= self.next_line => {
                self.next_line = Instant::now() + LINE_EVERY;
                let percent = 100 * position / self.total.max(1);
                eprintln!("  {} {percent:>3}%  {}", self.what, message());
            }
            None => {}
        }
    }

    /// A line that stays, above the bar.
    pub(crate) fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bar and leaves `message`.
    pub(crate) fn finish(self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{message}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `1234567` → `1.23 M`.
pub(crate) fn count(value: f64) -> String {
    for (unit, scale) in [("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)] {
        if value >= scale {
            let digits = if value >= 100.0 * scale {
                0
            } else if value >= 10.0 * scale {
                1
            } else {
                2
            };
            return format!("{:.digits$} {unit}", value / scale);
        }
    }
    format!("{value:.0}")
}

/// `1234567` → `1.18 MiB`.
pub(crate) fn bytes(value: usize) -> String {
    let value = value as f64;
    for (unit, scale) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let scale = (1u64 << scale) as f64;
        if value >= scale {
            let digits = if value >= 100.0 * scale {
                0
            } else if value >= 10.0 * scale {
                1
            } else {
                2
            };
            return format!("{:.digits$} {unit}", value / scale);
        }
    }
    format!("{value:.0} B")
}

/// `3725 s` → `1 h 02 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole % 3600 / 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(count(950.0), "950");
        assert_eq!(count(1_234_567.0), "1.23 M");
        assert_eq!(count(530e9), "530 B");
        assert_eq!(bytes(1_234_567), "1.18 MiB");
        assert_eq!(duration(3725.0), "1 h 02 min");
        assert_eq!(duration(75.4), "1 min 15 s");
    }
}
