//! Layouts in one word of a command line: `tp=2,pp=2,dp=2,zero=1,sp=1,schedule=zb-h1,chunks=1,recompute=full`.

use crate::failure::Failure;
use triax_spec::run::{Layout, Recompute, ScheduleKind};

const KEYS: &str = "tp, pp, dp, zero, sp, schedule, chunks, recompute, mb";

/// Reads a layout; what is not named is one rank's, with micro-batches of `micro_batch` sequences.
pub(crate) fn parse(text: &str, micro_batch: usize) -> Result<Layout, Failure> {
    let mut layout = Layout::single(micro_batch);
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Failure::usage(format!("`{part}` in the layout `{text}` has no value"))
                .help("write key=value, such as tp=2"));
        };
        let (key, value) = (key.trim(), value.trim());
        let number = || {
            value.parse::<usize>().map_err(|_| {
                Failure::usage(format!("`{value}` for {key} in the layout `{text}` is not a whole number"))
            })
        };
        let count = || match number()? {
            0 => Err(Failure::usage(format!("{key} in the layout `{text}` must be at least 1"))),
            count => Ok(count),
        };
        let named =
            |error: &dyn std::fmt::Display| Failure::usage(format!("{key} in the layout `{text}`: {error}"));
        match key {
            "tp" => layout.tensor = count()?,
            "pp" => layout.pipeline = count()?,
            "dp" => layout.data = count()?,
            "mb" => layout.micro_batch = count()?,
            "zero" => layout.zero = number()?,
            "sp" => layout.sequence_parallel = matches!(value, "1" | "true"),
            "schedule" => layout.schedule = value.parse::<ScheduleKind>().map_err(|error| named(&error))?,
            "chunks" => layout.chunks = count()?,
            "recompute" => layout.recompute = value.parse::<Recompute>().map_err(|error| named(&error))?,
            _ => {
                return Err(Failure::usage(format!("`{key}` is no part of a layout"))
                    .help(format!("a layout has {KEYS}")));
            }
        }
    }
    Ok(layout)
}

/// The layout in the same form.
pub(crate) fn show(layout: &Layout) -> String {
    let Layout { tensor, pipeline, data, zero, schedule, chunks, recompute, .. } = layout;
    let mut text = format!("tp={tensor},pp={pipeline},dp={}", data.max(&1));
    let mut add = |word: String| {
        text.push(',');
        text.push_str(&word);
    };
    if *zero > 0 {
        add(format!("zero={zero}"));
    }
    if layout.sequence_parallel {
        add("sp=1".into());
    }
    if *pipeline > 1 {
        add(format!("schedule={schedule}"));
    }
    if *chunks > 1 {
        add(format!("chunks={chunks}"));
    }
    if *recompute != Recompute::None {
        add(format!("recompute={recompute}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in
            ["tp=1,pp=1,dp=1", "tp=2,pp=4,dp=2,zero=1,sp=1,schedule=interleaved,chunks=2,recompute=full"]
        {
            assert_eq!(show(&parse(text, 1).unwrap()), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [("tp=x", "`x`"), ("tp", "no value"), ("ep=2", "`ep`"), ("pp=0", "at least 1")] {
            let message = parse(text, 1).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
