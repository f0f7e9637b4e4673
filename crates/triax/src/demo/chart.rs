//! Charts as inline SVG that follow the page: colours and fonts are CSS classes, so light and dark themes
//! are the style sheet's business.
//!
//! Two kinds: [`Lines`] (loss, speed) and [`Bars`] (bits per byte, memory). A plotting library would write
//! fixed colours and sizes into the picture; these two forms need less code than overriding them.

use std::fmt::Write;

/// One curve of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    /// CSS class of its colour: `c1`, `c2`, …
    pub(crate) class: &'a str,
    pub(crate) points: &'a [(f64, f64)],
    /// Draw a dot at each point.
    pub(crate) dots: bool,
}

/// Curves over one axis.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    /// The vertical axis begins at 0 instead of below the lowest value.
    pub(crate) from_zero: bool,
    pub(crate) series: &'a [Series<'a>],
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;

impl Lines<'_> {
    /// The picture; empty text when there is nothing to draw.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied()).filter(|p| p.1.is_finite());
        let Some(x) = Axis::over(points().map(|p| p.0), false) else { return String::new() };
        let Some(y) = Axis::over(points().map(|p| p.1), self.from_zero) else { return String::new() };
        let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);

        let mut svg = open(WIDTH, HEIGHT, self.title);
        for tick in y.ticks() {
            let at = down(tick);
            line(&mut svg, "grid", [LEFT, at, WIDTH - RIGHT, at]);
            text(&mut svg, "tick end", LEFT - 8.0, at + 4.0, &y.label(tick));
        }
        for tick in x.ticks() {
            text(&mut svg, "tick middle", across(tick), HEIGHT - BOTTOM + 18.0, &x.label(tick));
        }
        line(&mut svg, "axis", [LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM]);
        text(&mut svg, "label middle", (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, self.x_label);
        text(&mut svg, "label", LEFT - 8.0, 16.0, self.y_label);

        let mut legend = WIDTH - RIGHT;
        for series in self.series.iter().rev() {
            legend -= 7.2 * series.name.chars().count() as f64;
            text(&mut svg, "label", legend, 16.0, series.name);
            line(&mut svg, &format!("curve {}", series.class), [legend - 26.0, 12.0, legend - 8.0, 12.0]);
            legend -= 46.0;
        }
        for series in self.series {
            curve(&mut svg, series, across, down);
        }
        svg + "</svg>"
    }
}

fn curve(svg: &mut String, series: &Series<'_>, across: impl Fn(f64) -> f64, down: impl Fn(f64) -> f64) {
    let places: Vec<(f64, f64)> = series
        .points
        .iter()
        .filter(|point| point.1.is_finite())
        .map(|&(x, y)| (across(x), down(y)))
        .collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, r#"<polyline class="curve {}" points="{}"/>"#, series.class, path.join(" "));
    if series.dots {
        for (x, y) in places {
            let _ = write!(svg, r#"<circle class="dot {}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#, series.class);
        }
    }
}

/// One group of horizontal bars.
#[derive(Clone, Debug)]
pub(crate) struct BarGroup<'a> {
    pub(crate) name: &'a str,
    pub(crate) bars: Vec<Bar<'a>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) class: &'a str,
    pub(crate) value: f64,
    /// Shown at the bar's end.
    pub(crate) label: String,
}

/// Groups of horizontal bars over one scale from 0.
#[derive(Clone, Debug)]
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) groups: Vec<BarGroup<'a>>,
}

impl Bars<'_> {
    pub(crate) fn svg(&self) -> String {
        const BAR: f64 = 17.0;
        const STEP: f64 = 23.0;
        const GAP: f64 = 16.0;
        const NAMES: f64 = 186.0;
        const LABELS: f64 = 92.0;
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let longest = bars().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        let height = bars().count() as f64 * STEP + self.groups.len().saturating_sub(1) as f64 * GAP + 8.0;
        let mut svg = open(WIDTH, height, self.title);
        let mut top = 4.0;
        for group in &self.groups {
            text(&mut svg, "group", 0.0, top + BAR - 4.0, group.name);
            for bar in &group.bars {
                let width = (WIDTH - NAMES - LABELS) * (bar.value / longest).clamp(0.0, 1.0);
                text(&mut svg, "tick end", NAMES - 10.0, top + BAR - 4.0, bar.name);
                let _ = write!(
                    svg,
                    r#"<rect class="bar {}" x="{NAMES}" y="{top:.1}" width="{:.1}" height="{BAR}" rx="3"/>"#,
                    bar.class,
                    width.max(1.0)
                );
                text(&mut svg, "value", NAMES + width + 8.0, top + BAR - 4.0, &bar.label);
                top += STEP;
            }
            top += GAP;
        }
        svg + "</svg>"
    }
}

/// A scale with round ticks.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// About five ticks over the values; `None` without values.
    fn over(values: impl Iterator<Item = f64>, from_zero: bool) -> Option<Self> {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let low = if from_zero { low.min(0.0) } else { low };
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let magnitude = 10f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * magnitude)
            .find(|step| span / step <= 6.0)
            .unwrap_or(10.0 * magnitude);
        let low = (low / step).floor() * step;
        let high = ((high / step).ceil() * step).max(low + step);
        Some(Self { low, high, step })
    }

    /// 0 at the low end, 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|tick| self.low + tick as f64 * self.step)
    }

    fn label(&self, tick: f64) -> String {
        if tick.abs() >= 10_000.0 {
            return crate::console::count(tick);
        }
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        let needs_one_more = (self.step * 10f64.powi(digits as i32)).fract() > 1e-6;
        format!("{tick:.*}", digits + usize::from(needs_one_more))
    }
}

pub(super) fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

fn line(svg: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(svg, r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

pub(super) fn text(svg: &mut String, class: &str, x: f64, y: f64, text: &str) {
    let _ = write!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(text));
}

/// Text as HTML or SVG content.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Control characters are not allowed in XML and mean nothing in a page.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_and_labelled_alike() {
        let axis = Axis::over([2.31, 9.02].into_iter(), false).unwrap();
        let labels: Vec<String> = axis.ticks().map(|tick| axis.label(tick)).collect();
        assert_eq!(labels, ["2", "4", "6", "8", "10"]);
        let axis = Axis::over([0.1, 0.97].into_iter(), true).unwrap();
        assert_eq!(axis.label(axis.ticks().nth(1).unwrap()), "0.2");
    }

    #[test]
    fn nothing_to_draw_is_no_picture() {
        let series = [Series { name: "a", class: "c1", points: &[], dots: false }];
        let chart = Lines { title: "", x_label: "", y_label: "", from_zero: false, series: &series };
        assert_eq!(chart.svg(), "");
    }

    #[test]
    fn names_are_escaped() {
        let groups = vec![BarGroup {
            name: "<script>",
            bars: vec![Bar { name: "a&b", class: "c1", value: 1.0, label: "1".to_owned() }],
        }];
        let svg = Bars { title: "t", groups }.svg();
        assert!(svg.contains("&lt;script&gt;") && svg.contains("a&amp;b") && !svg.contains("<script>"));
    }

    proptest! {
        #[test]
        fn every_value_lies_within_its_axis(values in proptest::collection::vec(-1e6f64..1e6, 1..20)) {
            let axis = Axis::over(values.iter().copied(), false).unwrap();
            prop_assert!(values.iter().all(|&v| (-1e-9..=1.0 + 1e-9).contains(&axis.place(v))));
            let ticks = axis.ticks().count();
            prop_assert!((2..=9).contains(&ticks), "{ticks} ticks");
        }
    }
}
