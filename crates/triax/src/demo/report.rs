//! The demo's report: one HTML page that needs nothing beside itself, readable in light and dark.

use super::chart::{Bar, BarGroup, Bars, Lines, Series, escape};
use super::layouts_section;
use super::summary::Summary;
use crate::console::{bytes, count, duration};
use std::fmt::Write;
use triax_curate::pipeline::Manifest;

/// What the page shows beside the summary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Where the text came from.
    pub(crate) origin: String,
    /// What the recipe kept and removed, where there was one.
    pub(crate) curation: Option<Manifest>,
    /// The network in a few words.
    pub(crate) network: String,
    /// The machine and device in a few words.
    pub(crate) machine: String,
    /// (step, training loss in nats per token).
    pub(crate) loss: Vec<(f64, f64)>,
    /// (step, held-out loss in nats per token).
    pub(crate) held_out_loss: Vec<(f64, f64)>,
    /// (step, tokens per second).
    pub(crate) speed: Vec<(f64, f64)>,
    /// (class, bytes).
    pub(crate) memory: Vec<(String, usize)>,
    pub(crate) completions: Vec<Completion>,
    /// The run file as resolved.
    pub(crate) run_file: String,
}

/// A prompt and what the network made of it.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    pub(crate) prompt: String,
    pub(crate) text: String,
}

/// The whole page.
pub(crate) fn html(summary: &Summary, findings: &Findings) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.push_str("<title>Triax demo report</title><style>\n");
    page.push_str(include_str!("report.css"));
    page.push_str("</style></head><body><main>\n");
    header(&mut page, summary, findings);
    key_figures(&mut page, summary);
    compression(&mut page, summary);
    curation(&mut page, findings);
    loss(&mut page, findings);
    completions(&mut page, findings);
    speed(&mut page, summary, findings);
    memory(&mut page, summary, findings);
    layouts_section::section(&mut page, &summary.comparison);
    run_file(&mut page, findings);
    page.push_str("</main></body></html>\n");
    page
}

fn header(page: &mut String, summary: &Summary, findings: &Findings) {
    let verdict = match summary.ratio_to_xz() {
        ratio if ratio < 1.0 => format!("{:.0} % fewer bits than xz -9", 100.0 * (1.0 - ratio)),
        ratio => format!("{:.0} % more bits than xz -9", 100.0 * (ratio - 1.0)),
    };
    let _ = writeln!(
        page,
        "<header><div class=name>Triax demo</div><h1>From raw text to a language model in {}</h1>\
         <p class=soft>A tokenizer and a network of {} parameters were trained from nothing on {}. \
         Text that neither has ever seen costs them, with a memory of what they read, {verdict}.</p></header>",
        duration(summary.seconds),
        count(summary.parameters as f64),
        escape(&findings.origin),
    );
}

fn key_figures(page: &mut String, summary: &Summary) {
    let figures = [
        ("held-out text", format!("{:.3}", summary.bits_per_byte), "bits per byte, the network alone"),
        ("against xz -9", format!("{:.2} ×", summary.ratio_to_xz()), "of its size"),
        ("speed", count(summary.tokens_per_s), "tokens/s"),
        ("trained on", count(summary.tokens as f64), "tokens"),
    ];
    page.push_str("<dl class=figures>");
    for (name, value, unit) in figures {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>");
    }
    page.push_str("</dl>\n");
}

fn compression(page: &mut String, summary: &Summary) {
    page.push_str(
        "<section><h2>Bits per byte of held-out text</h2><p class=soft>How many bits each byte of unseen text \
         costs: the network's loss in bits, and general compressors given the same text as one stream. With memory: \
         the network's prediction mixed with what followed the same tokens in the training text and in the unseen \
         text already read, as the compressors remember the latter. Windows overlap by half. Lower is better.</p>",
    );
    let bar = |name, class, value: f64| Bar { name, class, value, label: format!("{value:.3}") };
    let groups = summary
        .sources
        .iter()
        .map(|source| BarGroup {
            name: &source.name,
            bars: vec![
                bar("network", "c2", source.bits_per_byte),
                bar("+ memory", "c1", source.bits_per_byte_with_memory),
                bar("xz -9", "c3", source.xz_bits_per_byte),
                bar("zstd -19", "c3", source.zstd_bits_per_byte),
            ],
        })
        .collect();
    page.push_str(&Bars { title: "Bits per byte by source", groups }.svg());
    page.push_str(
        "<table><tr><th>source</th><th>share</th><th>trained on</th><th>held out</th><th>network</th><th>+ memory</th><th>xz -9</th>\
         <th>zstd -19</th><th>+ memory / xz</th></tr>",
    );
    let total_weight: f64 = summary.sources.iter().map(|source| source.weight).sum();
    for source in &summary.sources {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{:.0} %</td><td>{}</td><td>{}</td>{}</tr>",
            escape(&source.name),
            100.0 * source.weight / total_weight,
            bytes(source.training_bytes),
            bytes(source.held_out_bytes),
            cells(
                source.bits_per_byte,
                source.bits_per_byte_with_memory,
                source.xz_bits_per_byte,
                source.zstd_bits_per_byte
            ),
        );
    }
    let sum = |part: fn(&super::summary::SourceSummary) -> usize| summary.sources.iter().map(part).sum();
    let _ = writeln!(
        page,
        "<tr class=total><td>together</td><td></td><td>{}</td><td>{}</td>{}</tr></table></section>",
        bytes(sum(|source| source.training_bytes)),
        bytes(sum(|source| source.held_out_bytes)),
        cells(
            summary.bits_per_byte,
            summary.bits_per_byte_with_memory,
            summary.xz_bits_per_byte,
            summary.zstd_bits_per_byte
        ),
    );
}

fn cells(network: f64, model: f64, xz: f64, zstd: f64) -> String {
    let least = network.min(model).min(xz).min(zstd);
    let best = |value: f64| if value <= least { " class=best" } else { "" };
    format!(
        "<td{}>{network:.3}</td><td{}>{model:.3}</td><td{}>{xz:.3}</td><td{}>{zstd:.3}</td><td>{:.2}</td>",
        best(network),
        best(model),
        best(xz),
        best(zstd),
        model / xz
    )
}

/// What the recipe removed, and an example of each reason.
fn curation(page: &mut String, findings: &Findings) {
    let Some(manifest) = &findings.curation else { return };
    let totals = manifest.totals;
    let _ = write!(
        page,
        "<section><h2>What was kept of the text, and why</h2><p class=soft>{} of {} files came through the recipe; \
         all that was removed, with its reasons, is in <a href=\"curated/report.html\">the recipe's own report</a>.</p>\
         <table><tr><th>step · reason</th><th>removed</th><th>for example</th></tr>",
        totals.kept, totals.found
    );
    for step in &manifest.steps {
        for (reason, removed) in &step.count.removed {
            let example = removed.samples.first().map_or("", |sample| &sample.id);
            // The end of a long path says more than its start.
            let skipped = example.chars().count().saturating_sub(48);
            let shown: String = example.chars().skip(skipped).collect();
            let dots = if skipped > 0 { "…" } else { "" };
            let _ = write!(
                page,
                "<tr><td>{} · {}</td><td>{}</td><td>{dots}{}</td></tr>",
                escape(&step.name),
                escape(reason),
                removed.tally.documents,
                escape(&shown)
            );
        }
    }
    page.push_str("</table></section>\n");
}

fn loss(page: &mut String, findings: &Findings) {
    let series = [
        Series { name: "training", class: "c2", points: &findings.loss, dots: false },
        Series { name: "held-out", class: "c1", points: &findings.held_out_loss, dots: true },
    ];
    let shown: Vec<Series<'_>> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
    let chart = Lines {
        title: "Loss by step",
        x_label: "optimizer step",
        y_label: "nats per token",
        from_zero: false,
        series: &shown,
    };
    let _ = writeln!(
        page,
        "<section><h2>Loss</h2><p class=soft>{}</p>{}</section>",
        escape(&findings.network),
        chart.svg()
    );
}

fn completions(page: &mut String, findings: &Findings) {
    if findings.completions.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Completions</h2><p class=soft>Prompts in bold; the rest is the network's.</p>",
    );
    for completion in &findings.completions {
        let _ = write!(page, "<pre><b>{}</b>{}</pre>", escape(&completion.prompt), escape(&completion.text));
    }
    page.push_str("</section>\n");
}

fn speed(page: &mut String, summary: &Summary, findings: &Findings) {
    let series = [Series { name: "tokens/s", class: "c4", points: &findings.speed, dots: false }];
    let chart = Lines {
        title: "Training speed by step",
        x_label: "optimizer step",
        y_label: "tokens per second",
        from_zero: true,
        series: &series,
    };
    let share = if summary.flops_share.is_finite() {
        format!(" · {:.0} % of the peak its registers allow", 100.0 * summary.flops_share)
    } else {
        String::new()
    };
    let _ = writeln!(
        page,
        "<section><h2>Speed</h2><p class=soft>{}{share} · {} of training</p>{}</section>",
        escape(&findings.machine),
        duration(summary.training_seconds),
        chart.svg()
    );
}

fn memory(page: &mut String, summary: &Summary, findings: &Findings) {
    const CLASSES: [&str; 6] = ["c1", "c6", "c2", "c5", "c4", "c3"];
    let total: usize = findings.memory.iter().map(|class| class.1).sum();
    let bars = findings
        .memory
        .iter()
        .zip(CLASSES.iter().cycle())
        .map(|((name, size), class)| Bar { name, class, value: *size as f64, label: bytes(*size) })
        .collect();
    let chart = Bars { title: "Memory by class", groups: vec![BarGroup { name: "", bars }] };
    let most = summary
        .peak_rss_mb
        .map_or(String::new(), |mb| format!("; the whole process never held more than {mb:.0} MB"));
    let _ = writeln!(
        page,
        "<section><h2>Memory</h2><p class=soft>{} planned before the first step and allocated once{most}.</p>{}\
         </section>",
        bytes(total),
        chart.svg()
    );
}

fn run_file(page: &mut String, findings: &Findings) {
    let _ = writeln!(
        page,
        "<section><details><summary>The run file, with every default filled in</summary><pre>{}</pre></details>\
         </section>",
        escape(&findings.run_file)
    );
}

#[cfg(test)]
mod tests {
    use super::super::layouts::{Comparison, Ran, Row};
    use super::super::summary::SourceSummary;
    use super::*;
    use triax_plan::{Action, Span, Work};

    fn summary() -> Summary {
        let source = |name: &str, model, xz, zstd| SourceSummary {
            name: name.to_owned(),
            weight: 0.5,
            training_bytes: 5 << 20,
            training_tokens: 1_300_000,
            held_out_bytes: 250_000,
            held_out_tokens: 70_000,
            bits_per_byte_with_memory: model,
            bits_per_byte: model + 0.4,
            xz_bits_per_byte: xz,
            zstd_bits_per_byte: zstd,
        };
        Summary {
            seconds: 238.0,
            training_seconds: 180.0,
            tokens_per_s: 12_345.0,
            flops_share: 0.61,
            parameters: 6_500_000,
            vocabulary: 8192,
            steps: 1500,
            tokens: 3_000_000,
            loss_first: 9.0,
            loss_last: 3.1,
            peak_rss_mb: Some(420.0),
            bits_per_byte_with_memory: 1.6,
            bits_per_byte: 2.0,
            xz_bits_per_byte: 2.0,
            zstd_bits_per_byte: 2.1,
            comparison: comparison(),
            sources: vec![source("rust", 1.3, 1.7, 1.8), source("prose", 1.9, 2.4, 2.5)],
        }
    }

    fn manifest() -> Manifest {
        let removed = serde_json::json!({ "documents": 3, "bytes": 9, "samples": [{ "id": "a/<b>.rs", "text": "<T>" }] });
        let tally = |documents: u64| serde_json::json!({ "documents": documents, "bytes": 0 });
        let step = serde_json::json!({ "name": "size", "kind": "size", "entered": tally(5), "kept": tally(2),
                                       "removed": { "too_short": removed } });
        let totals = serde_json::json!({ "found": 5, "made": 0, "kept": 2, "removed": 3, "kept_bytes": 90 });
        let manifest = serde_json::json!({ "version": 1, "name": "demo", "run": "", "recipe": {}, "totals": totals,
                                           "steps": [step], "sources": [], "ignored_files": 0 });
        serde_json::from_value(manifest).unwrap()
    }

    fn comparison() -> Comparison {
        let row = |difference: Option<&str>| Row {
            layout: "tp=2,pp=2,dp=1".to_owned(),
            ranks: 4,
            loss: 8.25,
            difference: difference.map(str::to_owned),
            tokens_per_s: 4000.0,
            forecast_bytes: 90 << 20,
            measured_bytes: None,
        };
        let work = Work { micro_batch: 0, chunk: 0 };
        let span = |action, start| Span { action, start, end: start + 0.02 };
        let stages = vec![vec![span(Action::Forward(work), 0.0)], vec![span(Action::Backward(work), 0.02)]];
        let ran = Ran { name: "pp=2".to_owned(), stages, end: 0.04, idle: 0.5, ideal: 0.5 };
        Comparison { rows: vec![row(None), row(Some("step <1>"))], left_out: 1, schedules: vec![ran] }
    }

    fn findings() -> Findings {
        Findings {
            origin: "text & <tags>".to_owned(),
            curation: Some(manifest()),
            network: "4 layers × 256".to_owned(),
            machine: "2 threads".to_owned(),
            loss: (0..200).map(|i| (f64::from(i), 3.0 + 6.0 / (1.0 + f64::from(i)))).collect(),
            held_out_loss: vec![(0.0, 9.0), (199.0, 3.2)],
            speed: (0..200).map(|i| (f64::from(i), 12_000.0 + f64::from(i % 7) * 90.0)).collect(),
            memory: vec![("weights".to_owned(), 30 << 20), ("activations".to_owned(), 90 << 20)],
            completions: vec![Completion { prompt: "fn main<T>()".to_owned(), text: " {\n}".to_owned() }],
            run_file: "[model]\nlayers = 4\n".to_owned(),
        }
    }

    #[test]
    fn the_page_needs_nothing_beside_itself() {
        let page = html(&summary(), &findings());
        for outside in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
    }

    #[test]
    fn text_of_the_corpus_cannot_become_markup() {
        let page = html(&summary(), &findings());
        assert!(page.contains("fn main&lt;T&gt;()") && !page.contains("<T>"));
        assert!(page.contains("text &amp; &lt;tags&gt;"));
    }

    #[test]
    fn every_element_is_closed() {
        let page = html(&summary(), &findings());
        for element in ["main", "section", "svg", "table", "pre", "details", "dl", "style"] {
            let (opened, closed) = (
                page.matches(&format!("<{element}")).count(),
                page.matches(&format!("</{element}>")).count(),
            );
            assert_eq!(opened, closed, "{element}");
        }
    }
}
