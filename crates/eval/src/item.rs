//! A line of `items-<task>.jsonl`: one item with every term of its score.

use crate::task::Score;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    pub task: String,
    /// Number of the item in the data file, from 0, those left out not counted.
    pub item: usize,
    pub seed: u64,
    /// The item's own name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// Numbers of the shots before it.
    pub shots: Vec<usize>,
    /// The right label or option.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gold: Option<usize>,
    /// The one chosen by each measure.
    pub predicted: BTreeMap<&'static str, usize>,
    /// One value a label or option, by measure; higher is better.
    pub scores: BTreeMap<&'static str, Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The prompt lost its beginning.
    pub truncated: bool,
    /// The first scored token holds a piece of the context.
    pub joined: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contaminated: Option<bool>,
    pub choices: Vec<ChoiceRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChoiceRecord {
    pub label: usize,
    pub word: String,
    pub context: String,
    pub target: String,
    /// `ln p` of the target.
    pub sum: f64,
    pub tokens: usize,
    pub characters: usize,
    pub bytes: usize,
    /// Every token was the likeliest.
    pub greedy: bool,
    /// `ln p` of the target behind the lead alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconditional: Option<f64>,
    pub log_probs: Vec<f32>,
}

impl ChoiceRecord {
    /// What `score` compares.
    pub fn value(&self, score: Score) -> f64 {
        let over = |count: usize| self.sum / count.max(1) as f64;
        match score {
            Score::Sum => self.sum,
            Score::Token => over(self.tokens),
            Score::Character => over(self.characters),
            Score::Byte => over(self.bytes),
            Score::Unconditional => self.sum - self.unconditional.unwrap_or(0.0),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Share of each word.
    pub evidence: Vec<f64>,
    /// The same for each content-free input.
    pub content_free: Vec<Vec<f64>>,
    /// Calibrated, one a label.
    pub labels: Vec<f64>,
}
