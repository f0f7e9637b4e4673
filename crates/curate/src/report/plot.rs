//! The report's plots, as SVG.

use plotters::prelude::*;
use std::collections::BTreeMap;

const SIZE: (u32, u32) = (900, 300);
const BEFORE: RGBColor = RGBColor(0xd9, 0x48, 0x0f);
const AFTER: RGBColor = RGBColor(0x2b, 0x8a, 0x57);
const INK: RGBColor = RGBColor(0x5d, 0x67, 0x6e);
const FONT: (&str, u32) = ("system-ui, DejaVu Sans, sans-serif", 14);

/// Documents by length, before and after: a pair of bars for each power of two. None where there is nothing to show.
pub(super) fn lengths(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> Option<String> {
    let first = *before.keys().chain(after.keys()).min()?;
    let last = *before.keys().chain(after.keys()).max()?;
    let most = before.values().chain(after.values()).max()?;
    let label = |place: &f64| {
        let power = place.floor().max(0.0) as u32;
        match power {
            0..10 => format!("{} B", 1u64 << power),
            10..20 => format!("{} KiB", 1u64 << (power - 10)),
            _ => format!("{} MiB", 1u64 << (power - 20).min(40)),
        }
    };
    let bars = |counts: &BTreeMap<u32, u64>, from: f64, color: RGBColor| {
        let bar = move |(length, count): (&u32, &u64)| {
            let left = f64::from(*length) + from;
            Rectangle::new([(left, 0.0), (left + 0.4, *count as f64)], color.filled())
        };
        counts.iter().map(bar).collect::<Vec<_>>()
    };
    let columns = f64::from(first)..f64::from(last) + 1.0;
    draw(columns, *most as f64, (last - first + 1) as usize, &label, "bytes of text", |chart| {
        chart(bars(before, 0.08, BEFORE))?;
        chart(bars(after, 0.52, AFTER))
    })
}

/// How many there are of each size, both on logarithmic steps of two.
pub(super) fn sizes(sizes: &BTreeMap<u64, u64>) -> Option<String> {
    let mut steps: BTreeMap<u32, u64> = BTreeMap::new();
    sizes.iter().for_each(|(size, count)| *steps.entry(size.max(&1).ilog2()).or_default() += count);
    let (first, last) = (*steps.keys().next()?, *steps.keys().next_back()?);
    let most = *steps.values().max()?;
    let label = |place: &f64| format!("{}", 1u64 << (place.floor().max(0.0) as u32).min(62));
    let bar = |(step, count): (&u32, &u64)| {
        let left = f64::from(*step) + 0.2;
        Rectangle::new([(left, 0.0), (left + 0.6, *count as f64)], AFTER.filled())
    };
    let bars: Vec<_> = steps.iter().map(bar).collect();
    let columns = f64::from(first)..f64::from(last) + 1.0;
    draw(columns, most as f64, (last - first + 1) as usize, &label, "size, from", |chart| chart(bars))
}

type Bars = Vec<Rectangle<(f64, f64)>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    columns: std::ops::Range<f64>,
    most: f64,
    labels: usize,
    label: &dyn Fn(&f64) -> String,
    axis: &str,
    bars: impl FnOnce(&mut dyn FnMut(Bars) -> Drawn) -> Drawn,
) -> Option<String> {
    let mut svg = String::new();
    let outcome = || -> Drawn {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(columns, 0.0..most * 1.05)?;
        let style = FONT.into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.2))
            .axis_style(INK.mix(0.6))
            .x_labels(labels.min(16) + 1)
            .x_label_formatter(label)
            .y_labels(5)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_desc(axis)
            .y_desc("documents")
            .label_style(style.clone())
            .axis_desc_style(style)
            .draw()?;
        bars(&mut |bars| chart.draw_series(bars).map(drop))?;
        root.present()
    };
    // A string never fails to be written.
    outcome().ok()?;
    Some(scaled(&svg))
}

/// Without a size of its own, so that it takes the page's.
fn scaled(svg: &str) -> String {
    let (width, height) = SIZE;
    svg.replacen(&format!("width=\"{width}\" height=\"{height}\" "), "role=\"img\" ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_whole_svg_and_nothing_where_there_is_nothing() {
        let before = BTreeMap::from([(3, 10), (4, 20), (12, 5)]);
        let svg = lengths(&before, &BTreeMap::from([(4, 7)])).unwrap();
        assert!(svg.starts_with("<svg role=\"img\"") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.contains("4 KiB") && svg.matches("<rect").count() >= 4);
        assert!(lengths(&BTreeMap::new(), &BTreeMap::new()).is_none());
        assert!(sizes(&BTreeMap::from([(2, 10), (3, 4), (900, 1)])).unwrap().contains("512"));
    }
}
