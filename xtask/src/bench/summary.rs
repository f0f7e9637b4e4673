//! The newest kept result of every figure as one table, with a verdict a line.

use std::path::Path;

use anyhow::Result;

use super::record::Record;
use super::table::{Better, Figure, Topic, workloads};

const HEAD: [&str; 8] = ["figure", "ours", "opponent", "of", "ratio", "at least", "aim", "verdict"];

pub(super) fn print(results: &Path) -> Result<()> {
    let mut records = Vec::new();
    for topic in Topic::FILES {
        records.extend(Record::read(results, topic)?);
    }
    let figures: Vec<Figure> = workloads().into_iter().flat_map(|workload| workload.figures).collect();
    let rows: Vec<_> = figures
        .iter()
        .map(|figure| row(figure, records.iter().rev().find(|record| record.name == figure.name)))
        .collect();
    print!("{}", aligned(&rows));
    let behind = |ending: &str| rows.iter().filter(|row| row[7].starts_with(ending)).count();
    println!(
        "{} figures: {} reach the aim, {} at least what they must, {} fall short, {} not measured",
        rows.len(),
        behind("aim"),
        behind("enough"),
        behind("SHORT"),
        behind("not")
    );
    if let Some(newest) = records.iter().max_by(|a, b| a.date.cmp(&b.date)) {
        println!("newest: {} on {}", newest.date, newest.machine);
    }
    Ok(())
}

fn row(figure: &Figure, record: Option<&Record>) -> [String; 8] {
    let bound = |value: f64| {
        let sign = if figure.better == Better::Lower { "≤" } else { "≥" };
        format!("{sign} {value}")
    };
    let (least, aim) = (bound(figure.at_least), bound(figure.aim));
    let Some(record) = record else {
        let none = String::new;
        return [figure.name.clone(), none(), none(), none(), none(), least, aim, "not measured".to_owned()];
    };
    let judged = record.ratio.unwrap_or(record.value);
    let verdict = if figure.better.reaches(judged, figure.aim) {
        "aim"
    } else if figure.better.reaches(judged, figure.at_least) {
        "enough"
    } else {
        "SHORT"
    };
    [
        figure.name.clone(),
        format!("{} {}", short(record.value), record.unit),
        record.opponent.clone(),
        record.opponent_value.map_or(String::new(), short),
        record.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
        least,
        aim,
        verdict.to_owned(),
    ]
}

/// Four significant digits are what such measurements carry.
fn short(value: f64) -> String {
    let decimals = (3 - value.abs().max(1.0).log10().floor() as i32).clamp(0, 3) as usize;
    format!("{value:.decimals$}")
}

/// Columns as wide as their longest cell.
fn aligned(rows: &[[String; 8]]) -> String {
    let head = HEAD.map(str::to_owned);
    let all: Vec<_> = std::iter::once(&head).chain(rows).collect();
    let widths: [usize; 8] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in all {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, value: f64, opponent_value: Option<f64>) -> Record {
        Record {
            name: name.to_owned(),
            value,
            unit: "MB".to_owned(),
            opponent: "x".to_owned(),
            opponent_value,
            ratio: opponent_value.map(|opponent| value / opponent),
            at_least: 0.0,
            aim: 0.0,
            machine: String::new(),
            versions: serde_json::Value::Null,
            date: String::new(),
            command: String::new(),
        }
    }

    fn verdict(name: &str, value: f64, opponent: Option<f64>) -> String {
        let figures: Vec<_> = workloads().into_iter().flat_map(|workload| workload.figures).collect();
        let figure = figures.iter().find(|figure| figure.name == name).unwrap();
        row(figure, Some(&record(name, value, opponent)))[7].clone()
    }

    #[test]
    fn speed_is_judged_upwards_and_memory_and_time_downwards() {
        assert_eq!(verdict("gpt2-124m-4x256.tokens_per_s", 450.0, Some(300.0)), "aim");
        assert_eq!(verdict("gpt2-124m-4x256.tokens_per_s", 330.0, Some(300.0)), "SHORT");
        assert_eq!(verdict("gpt2-124m-4x256.peak_rss_mb", 80.0, Some(100.0)), "enough");
        assert_eq!(verdict("gpt2-124m-4x256.peak_rss_mb", 90.0, Some(100.0)), "SHORT");
        assert_eq!(verdict("build.cold", 119.0, None), "aim");
        assert_eq!(verdict("build.cold", 241.0, None), "SHORT");
    }

    #[test]
    fn four_digits_are_shown() {
        assert_eq!([0.8214, 21.448, 312.26, 50304.2].map(short), ["0.821", "21.45", "312.3", "50304"]);
    }
}
