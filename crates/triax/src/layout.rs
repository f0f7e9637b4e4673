//! Layouts in one word of a command line: `tp=2,pp=2,dp=2,zero=1,sp=1,schedule=zb-h1,chunks=1,recompute=full`.

use crate::failure::Failure;
use triax_plan::InferenceLayout;
use triax_spec::Model;
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

/// Reads the layout of ranks that generate and score with `model`: `tp` and `pp` alone, one rank where nothing is said.
pub(crate) fn of_inference(text: Option<&str>, model: &Model) -> Result<InferenceLayout, Failure> {
    let Some(text) = text else { return Ok(InferenceLayout::SINGLE) };
    let asked = parse(text, 1)?;
    let Layout { tensor, pipeline, .. } = asked;
    if asked != (Layout { tensor, pipeline, ..Layout::single(1) }) {
        return Err(Failure::usage(format!(
            "the layout `{text}` says more than how a network is shared out"
        ))
        .help("generating and scoring take tp and pp, such as tp=2,pp=1; the other keys are for training"));
    }
    InferenceLayout::new(model, tensor, pipeline)
        .map_err(|error| Failure::usage(format!("the layout `{text}`: {error}")))
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
    fn a_layout_that_generates_shares_the_network_alone() {
        let model = &triax_spec::presets::find("gpt2-124m").unwrap().model;
        let layout = |text| of_inference(Some(text), model);
        assert_eq!(layout("tp=2,pp=3").unwrap().world(), 6);
        assert_eq!(of_inference(None, model).unwrap(), InferenceLayout::SINGLE);
        for (text, says) in [
            ("dp=2", "more than how a network is shared out"),
            ("pp=2,schedule=zb-h1", "more than how"),
            ("tp=5", "heads 12 cannot be split by tensor 5"),
            ("tp=3", "use 1, 2 or 4"),
            ("pp=13", "use at most 12"),
        ] {
            let message = layout(text).unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
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
