//! What the demo found out, for scripts (`summary.json`) and for the report.

use super::layouts::Comparison;
use serde::Serialize;

/// The demo's result; figures without a source are over all held-out text together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// From the first line of output to the written report.
    pub(crate) seconds: f64,
    /// Of these, in training steps.
    pub(crate) training_seconds: f64,
    /// Trained tokens over training time.
    pub(crate) tokens_per_s: f64,
    /// Model arithmetic over the register-resident peak of the device, 0 to 1; null where that is not known.
    pub(crate) flops_share: f64,
    pub(crate) parameters: u64,
    pub(crate) vocabulary: usize,
    pub(crate) steps: u64,
    /// Tokens trained on.
    pub(crate) tokens: u64,
    pub(crate) loss_first: f64,
    pub(crate) loss_last: f64,
    /// None where the system does not tell.
    pub(crate) peak_rss_mb: Option<f64>,
    /// Of the network mixed with a memory of the training text and of the held-out text already read.
    pub(crate) bits_per_byte_with_memory: f64,
    /// Of the network alone.
    pub(crate) bits_per_byte: f64,
    pub(crate) xz_bits_per_byte: f64,
    pub(crate) zstd_bits_per_byte: f64,
    pub(crate) sources: Vec<SourceSummary>,
    /// The same network in several layouts.
    pub(crate) comparison: Comparison,
}

/// One source of the blend.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SourceSummary {
    pub(crate) name: String,
    pub(crate) weight: f64,
    pub(crate) training_bytes: usize,
    pub(crate) training_tokens: u64,
    pub(crate) held_out_bytes: usize,
    pub(crate) held_out_tokens: u64,
    /// Of the network mixed with a memory of the training text and of the held-out text already read.
    pub(crate) bits_per_byte_with_memory: f64,
    /// Of the network alone.
    pub(crate) bits_per_byte: f64,
    pub(crate) xz_bits_per_byte: f64,
    pub(crate) zstd_bits_per_byte: f64,
}

impl Summary {
    /// Our bits over xz's; below 1 is better than xz.
    pub(crate) fn ratio_to_xz(&self) -> f64 {
        self.bits_per_byte_with_memory / self.xz_bits_per_byte
    }

    /// The one table, as plain text.
    pub(crate) fn table(&self) -> String {
        let head = ["held-out text", "size", "network", "+ memory", "xz -9", "zstd -19", "+ memory / xz"]
            .map(str::to_owned);
        let figures = |network: f64, model: f64, xz: f64, zstd: f64| {
            let [network, memory, xz_text, zstd] = [network, model, xz, zstd].map(|x| format!("{x:.3}"));
            [network, memory, xz_text, zstd, format!("{:.2}", model / xz)]
        };
        let mut rows = vec![head];
        for source in &self.sources {
            let [a, b, c, d, e] = figures(
                source.bits_per_byte,
                source.bits_per_byte_with_memory,
                source.xz_bits_per_byte,
                source.zstd_bits_per_byte,
            );
            rows.push([source.name.clone(), crate::console::bytes(source.held_out_bytes), a, b, c, d, e]);
        }
        let [a, b, c, d, e] = figures(
            self.bits_per_byte,
            self.bits_per_byte_with_memory,
            self.xz_bits_per_byte,
            self.zstd_bits_per_byte,
        );
        let bytes = self.sources.iter().map(|source| source.held_out_bytes).sum();
        rows.push(["together".to_owned(), crate::console::bytes(bytes), a, b, c, d, e]);
        aligned(&rows)
    }
}

/// First column to the left, the others to the right.
fn aligned(rows: &[[String; 7]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        format!("  {}\n", cells.join("   "))
    };
    rows.iter().map(line).collect()
}
