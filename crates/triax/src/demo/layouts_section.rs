//! The report's section on layouts: equal bits as a table, forecast against measured memory, and each schedule as a
//! picture of when its stages computed what.

use super::chart::{escape, open, text};
use super::layouts::{Comparison, Ran};
use crate::console::{bytes, count};
use std::fmt::Write;
use triax_plan::Action;

const WIDTH: f64 = 760.0;
const NAMES: f64 = 62.0;
const ROW: f64 = 26.0;
const STEP: f64 = 32.0;

pub(super) fn section(page: &mut String, comparison: &Comparison) {
    if comparison.rows.is_empty() {
        return;
    }
    table(page, comparison);
    if comparison.schedules.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Pipeline schedules as they ran</h2><p class=soft>One step on two stages, drawn from measured \
         times; the number is the micro-batch. Blue: forward. Green: backward (ZB-H1: gradients of the activations \
         alone). Yellow: gradients of the weights, which ZB-H1 keeps for its gaps.</p>",
    );
    let longest = comparison.schedules.iter().map(|ran| ran.end).fold(f64::MIN_POSITIVE, f64::max);
    for ran in &comparison.schedules {
        let _ = write!(
            page,
            "<p><b>{}</b> <span class=soft>{:.0} ms, {:.1} % idle; {:.1} % by the schedule alone</span></p>{}",
            escape(&ran.name),
            1e3 * ran.end,
            100.0 * ran.idle,
            100.0 * ran.ideal,
            svg(ran, longest)
        );
    }
    page.push_str("</section>\n");
}

fn table(page: &mut String, comparison: &Comparison) {
    let different = comparison.rows.iter().filter(|row| row.difference.is_some()).count();
    let verdict = match different {
        0 => "every loss, weight and moment is one rank's, to the last bit".to_owned(),
        1 => "one layout differs from one rank".to_owned(),
        more => format!("{more} layouts differ from one rank"),
    };
    let left_out = match comparison.left_out {
        0 => String::new(),
        more => format!(" There was no time for {more} more."),
    };
    let _ = write!(
        page,
        "<section><h2>The same bits in every layout</h2><p class=soft>The same network and text for a few steps; \
         ranks are threads: {verdict}. Memory: arenas and scratch of all ranks as planned before the start, and what \
         the process grew by.{left_out}</p><table><tr><th>layout</th><th>ranks</th><th>loss</th><th>bits</th>\
         <th>tokens/s</th><th>forecast</th><th>measured</th></tr>",
    );
    for row in &comparison.rows {
        let same = match &row.difference {
            None => "equal".to_owned(),
            Some(difference) => format!("<b>{}</b>", escape(difference)),
        };
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.9}</td><td>{same}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&row.layout),
            row.ranks,
            row.loss,
            count(row.tokens_per_s),
            bytes(row.forecast_bytes),
            row.measured_bytes.map_or("–".to_owned(), bytes)
        );
    }
    page.push_str("</table></section>\n");
}

/// A row for each stage; all pictures share one scale, `longest` seconds wide.
fn svg(ran: &Ran, longest: f64) -> String {
    let mut svg = open(WIDTH, ran.stages.len() as f64 * STEP, &ran.name);
    let across = |seconds: f64| NAMES + seconds / longest * (WIDTH - NAMES);
    for (stage, spans) in ran.stages.iter().enumerate() {
        let top = stage as f64 * STEP;
        text(&mut svg, "tick", 0.0, top + ROW / 2.0 + 4.0, &format!("stage {stage}"));
        for span in spans {
            let (class, work) = match span.action {
                Action::Forward(work) => ("c2", work),
                Action::BackwardWeight(work) => ("c6", work),
                Action::Backward(work) | Action::BackwardInput(work) => ("c4", work),
                _ => continue,
            };
            let (left, width) = (across(span.start), across(span.end) - across(span.start));
            let _ = write!(
                svg,
                r#"<rect class="bar span {class}" x="{left:.2}" y="{top:.1}" width="{:.2}" height="{ROW}"><title>{}: {:.2} ms</title></rect>"#,
                width.max(0.5),
                span.action,
                1e3 * (span.end - span.start)
            );
            if width > 14.0 {
                let label = work.micro_batch.to_string();
                text(&mut svg, "inside middle", left + width / 2.0, top + ROW / 2.0 + 4.0, &label);
            }
        }
    }
    svg + "</svg>"
}
