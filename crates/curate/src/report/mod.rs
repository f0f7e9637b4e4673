//! The report of a run: one page that needs nothing beside itself. What each step removed, by source and reason, with
//! samples; lengths, languages, domains and duplicates.

mod plot;

use crate::pipeline::{Manifest, Profile, Sample, StepCount, StepSummary};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Rows of a table of frequencies.
const ROWS: usize = 15;

/// The page. Writing into a string cannot fail, so outcomes of `write!` are let go.
pub fn html(manifest: &Manifest) -> String {
    let (before, after) = profiles(manifest);
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{name}: what was kept</title><style>{css}</style><main>",
        name = escape(&manifest.name),
        css = include_str!("report.css")
    );
    head(&mut page, manifest);
    funnel(&mut page, manifest);
    by_source(&mut page, manifest);
    samples(&mut page, manifest);
    shape(&mut page, &before, &after);
    frequencies(&mut page, &before, &after);
    compared(&mut page, manifest, &after);
    let recipe = serde_json::to_string_pretty(&manifest.recipe).unwrap_or_default();
    let _ = write!(
        page,
        "<section><details><summary>The recipe, every parameter written out</summary><pre>{}</pre></details></section>\
         </main></html>",
        escape(&recipe)
    );
    page
}

fn profiles(manifest: &Manifest) -> (Profile, Profile) {
    let (mut before, mut after) = (Profile::default(), Profile::default());
    for source in &manifest.sources {
        before.merge(&source.statistics.before);
        after.merge(&source.statistics.after);
    }
    (before, after)
}

fn head(page: &mut String, manifest: &Manifest) {
    let totals = manifest.totals;
    let about = manifest.recipe.get("about").and_then(|about| about.as_str()).unwrap_or_default();
    let _ = write!(
        page,
        "<header><div class=name>Triax · curation</div><h1>{} of {} documents kept</h1><p class=soft>{}: {}</p></header>",
        grouped(totals.kept),
        grouped(totals.found + totals.made),
        escape(&manifest.name),
        escape(about)
    );
    let share = percent(totals.kept, totals.found + totals.made);
    let split = if totals.made > 0 {
        format!("and {} by splitting", grouped(totals.made))
    } else {
        "documents".into()
    };
    let figures = [
        ("found", grouped(totals.found), split),
        ("removed", grouped(totals.removed), "documents".into()),
        ("kept", grouped(totals.kept), share),
        ("text kept", bytes(totals.kept_bytes), format!("{} sources", manifest.sources.len())),
    ];
    page.push_str("<dl class=figures>");
    for (name, value, unit) in figures {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>");
    }
    page.push_str("</dl>");
}

fn funnel(page: &mut String, manifest: &Manifest) {
    let most =
        manifest.steps.iter().map(|step| step.count.entered.documents + step.count.made).max().unwrap_or(0);
    page.push_str(
        "<section><h2>Step by step</h2><p class=soft>Documents that entered each step; the share it removed, and \
         its commonest reasons.</p><p class=key><span><i style=\"background:var(--kept)\"></i>kept</span>\
         <span><i style=\"background:var(--gone)\"></i>removed</span></p>\
         <table><tr><th>step</th><th></th><th>entered</th><th>removed</th><th></th><th>reasons</th></tr>",
    );
    for step in manifest.steps.iter().filter(|step| step.count.entered.documents > 0) {
        let count = &step.count;
        let removed = count.removed_total().documents;
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=text>{}</td></tr>",
            escape(&step.name),
            bar(&[("kept", count.kept.documents), ("gone", removed)], most),
            grouped(count.entered.documents),
            grouped(removed),
            percent(removed, count.entered.documents + count.made),
            reasons(count)
        );
    }
    page.push_str("</table></section>");
}

fn reasons(count: &StepCount) -> String {
    let mut reasons: Vec<(&String, u64)> =
        count.removed.iter().map(|(reason, removed)| (reason, removed.tally.documents)).collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let shown =
        reasons.iter().take(3).map(|(reason, count)| format!("{} {}", escape(reason), grouped(*count)));
    let more = if reasons.len() > 3 { format!(", {} more", reasons.len() - 3) } else { String::new() };
    shown.collect::<Vec<_>>().join(", ") + &more
}

fn by_source(page: &mut String, manifest: &Manifest) {
    page.push_str(
        "<section><h2>By source</h2><table><tr><th>source</th><th></th><th>found</th><th>removed</th><th>kept</th>\
         <th></th><th>text</th></tr>",
    );
    let most = manifest.sources.iter().map(|source| source.found).max().unwrap_or(0);
    for source in &manifest.sources {
        let removed: u64 = source.statistics.steps.values().map(|step| step.removed_total().documents).sum();
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&source.name),
            bar(&[("kept", source.kept.documents), ("gone", removed)], most),
            grouped(source.found),
            grouped(removed),
            grouped(source.kept.documents),
            percent(source.kept.documents, source.kept.documents + removed),
            bytes(source.kept.bytes)
        );
    }
    page.push_str("</table>");
    if manifest.sources.len() > 1 {
        page.push_str("<details><summary class=soft>Every reason by source</summary>");
        reasons_by_source(page, manifest);
        page.push_str("</details>");
    }
    page.push_str("</section>");
}

fn reasons_by_source(page: &mut String, manifest: &Manifest) {
    page.push_str("<table><tr><th>step · reason</th>");
    for source in &manifest.sources {
        let _ = write!(page, "<th>{}</th>", escape(&source.name));
    }
    page.push_str("</tr>");
    for step in &manifest.steps {
        for reason in step.count.removed.keys() {
            let _ = write!(page, "<tr><td>{} · {}</td>", escape(&step.name), escape(reason));
            for source in &manifest.sources {
                let removed =
                    source.statistics.steps.get(&step.name).and_then(|step| step.removed.get(reason));
                let _ = write!(
                    page,
                    "<td>{}</td>",
                    grouped(removed.map_or(0, |removed| removed.tally.documents))
                );
            }
            page.push_str("</tr>");
        }
    }
    page.push_str("</table>");
}

fn samples(page: &mut String, manifest: &Manifest) {
    if manifest.totals.removed == 0 {
        return;
    }
    page.push_str(
        "<section><h2>What was removed</h2><p class=soft>The first documents of each reason; all of them are in \
         <code>removed/</code>, and <code>triax curate inspect</code> shows them.</p>",
    );
    for step in manifest.steps.iter().filter(|step| !step.count.removed.is_empty()) {
        let _ = write!(page, "<h3>{}</h3>", escape(&step.name));
        for (reason, removed) in &step.count.removed {
            let _ = write!(
                page,
                "<details><summary>{} <span class=soft>{}</span></summary>",
                escape(reason),
                grouped(removed.tally.documents)
            );
            removed.samples.iter().for_each(|sample| quote(page, sample));
            page.push_str("</details>");
        }
    }
    page.push_str("</section>");
}

fn quote(page: &mut String, sample: &Sample) {
    let detail = sample.detail.as_ref().map_or(String::new(), |detail| format!(" · {}", escape(detail)));
    let name = sample.url.as_ref().unwrap_or(&sample.id);
    let text = sample.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = if text.is_empty() { "(no text)" } else { &text };
    let _ = write!(page, "<blockquote><b>{}{detail}</b>{}</blockquote>", escape(name), escape(text));
}

fn shape(page: &mut String, before: &Profile, after: &Profile) {
    let Some(svg) = plot::lengths(&before.lengths, &after.lengths) else { return };
    let _ = write!(
        page,
        "<section><h2>Lengths</h2><p class=key><span><i style=\"background:var(--gone)\"></i>texts before the first step\
         </span><span><i style=\"background:var(--kept)\"></i>texts kept</span></p>{svg}</section>"
    );
}

fn frequencies(page: &mut String, before: &Profile, after: &Profile) {
    if before.domains.is_empty() && after.languages.is_empty() {
        return;
    }
    page.push_str("<section class=pair>");
    table(page, "Languages", "of the texts kept, as a step has set them", &after.languages, &after.languages);
    table(page, "Domains", "texts before the first step, and kept", &before.domains, &after.domains);
    page.push_str("</section>");
}

/// The most frequent names of `before`, with their counts in `after`.
fn table(
    page: &mut String,
    title: &str,
    about: &str,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) {
    if before.is_empty() {
        return;
    }
    let mut rows: Vec<(&String, &u64)> = before.iter().filter(|(name, _)| !name.is_empty()).collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let most = rows.first().map_or(0, |row| *row.1);
    let _ = write!(
        page,
        "<div><h2>{title}</h2><p class=soft>{about}; {} in all</p><table>",
        grouped(before.len() as u64)
    );
    for (name, count) in rows.into_iter().take(ROWS) {
        let kept = after.get(name).copied().unwrap_or(0);
        let counts = if before == after {
            grouped(*count)
        } else {
            format!("{} → {}", grouped(*count), grouped(kept))
        };
        let bars = bar(&[("kept", kept.min(*count)), ("gone", count.saturating_sub(kept))], most);
        let _ = write!(page, "<tr><td>{}</td><td>{bars}</td><td>{counts}</td></tr>", escape(name));
    }
    page.push_str("</table></div>");
}

fn compared(page: &mut String, manifest: &Manifest, after: &Profile) {
    let steps = manifest.steps.iter().filter(|step| step.resolution.is_some()).collect::<Vec<_>>();
    if steps.is_empty() {
        return;
    }
    page.push_str(
        "<section><h2>Compared with each other</h2><p class=soft>What steps over all documents found.</p>",
    );
    for StepSummary { name, resolution, .. } in steps {
        let _ = write!(page, "<h3>{}</h3><table>", escape(name));
        for (figure, value) in resolution.iter().flatten() {
            let value = value.as_u64().map_or_else(|| value.to_string(), grouped);
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td></tr>",
                escape(&figure.replace('_', " ")),
                escape(&value)
            );
        }
        page.push_str("</table>");
    }
    for (name, sizes) in &after.copies {
        if let Some(svg) = plot::sizes(sizes) {
            let _ = write!(
                page,
                "<h3>{}</h3><p class=soft>Documents kept that stand for several, by how many.</p>{svg}",
                escape(&name.replace('_', " "))
            );
        }
    }
    page.push_str("</section>");
}

/// Parts of `most` side by side.
fn bar(parts: &[(&str, u64)], most: u64) -> String {
    let width = |count: u64| 100.0 * count as f64 / most.max(1) as f64;
    let parts = parts.iter().filter(|part| part.1 > 0);
    let parts: String = parts
        .map(|(class, count)| format!("<i class={class} style=\"width:{:.2}%\"></i>", width(*count)))
        .collect();
    format!("<div class=bar>{parts}</div>")
}

/// `1234567` → `1 234 567`, in groups that do not break.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

fn bytes(number: u64) -> String {
    match number {
        0..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", number as f64 / 1e6),
        _ => format!("{:.2} GB", number as f64 / 1e9),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Removed, SourceSummary, Statistics, Tally, Totals};

    fn manifest() -> Manifest {
        let sample =
            Sample { id: "a/<b>".into(), url: None, detail: Some("3 & 4".into()), text: "<script>x".into() };
        let removed = Removed { tally: Tally { documents: 4, bytes: 40 }, samples: vec![sample] };
        let count = StepCount {
            entered: Tally { documents: 10, bytes: 100 },
            kept: Tally { documents: 6, bytes: 60 },
            removed: [("too_short".to_owned(), removed)].into(),
            ..StepCount::default()
        };
        let mut statistics =
            Statistics { steps: [("length".to_owned(), count.clone())].into(), ..Statistics::default() };
        statistics.before.lengths = [(3, 10)].into();
        statistics.before.domains = [("host".to_owned(), 10)].into();
        statistics.after.copies = [("cluster_size".to_owned(), [(2, 5), (9, 1)].into())].into();
        let source = |name: &str| SourceSummary {
            name: name.into(),
            weight: 1.0,
            found: 5,
            kept: Tally { documents: 3, bytes: 30 },
            statistics: statistics.clone(),
            files: Vec::new(),
            removed_files: Vec::new(),
        };
        let resolution = [("pairs".to_owned(), 7.into())].into_iter().collect();
        Manifest {
            version: 1,
            name: "x & y".into(),
            run: String::new(),
            recipe: serde_json::json!({ "about": "tags <b>" }),
            totals: Totals { found: 10, made: 0, kept: 6, removed: 4, kept_bytes: 60 },
            steps: vec![StepSummary {
                name: "length".into(),
                kind: "length".into(),
                count,
                resolution: Some(resolution),
            }],
            sources: vec![source("a"), source("b")],
            ignored_files: 0,
            tokens: None,
        }
    }

    #[test]
    fn the_page_needs_nothing_beside_itself() {
        let page = html(&manifest());
        for outside in ["https://", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
        assert_eq!(page.matches("http://").count(), page.matches("http://www.w3.org/2000/svg").count());
    }

    #[test]
    fn text_of_documents_cannot_become_markup() {
        let page = html(&manifest());
        assert!(!page.contains("<script>") && !page.contains("<b>x"));
        assert!(page.contains("a/&lt;b&gt;") && page.contains("3 &amp; 4"));
    }

    #[test]
    fn every_element_is_closed() {
        let page = html(&manifest());
        for element in ["main", "section", "svg", "table", "details", "dl", "div", "blockquote", "pre"] {
            let closed = page.matches(&format!("</{element}>")).count();
            let opened =
                page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
            assert_eq!(opened, closed, "{element}");
        }
    }
}
