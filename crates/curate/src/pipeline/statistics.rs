//! What was counted: by source, step and reason, with a few samples, and profiles of the texts before and after.
//!
//! ```text
//! entered + made by splitting = kept + removed        for every step, and so for the whole
//! ```

use crate::CurateError;
use crate::document::Document;
use crate::step::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Documents and the bytes of their texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub documents: u64,
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, document: &Document) {
        self.documents += 1;
        self.bytes += document.text.len() as u64;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
    }
}

/// One step over the documents of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCount {
    pub entered: Tally,
    pub kept: Tally,
    /// Documents that splitting added.
    #[serde(default)]
    pub made: u64,
    /// Documents kept with a text of another length than they entered with.
    #[serde(default)]
    pub edited: u64,
    /// By reason.
    #[serde(default)]
    pub removed: BTreeMap<String, Removed>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    #[serde(flatten)]
    pub tally: Tally,
    /// The first few.
    pub samples: Vec<Sample>,
}

/// A removed document as the report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The start of its text.
    pub text: String,
}

/// Samples of one reason.
const SAMPLES: usize = 3;
/// Characters of a sample.
const EXCERPT: usize = 300;

impl StepCount {
    pub(crate) fn remove(&mut self, document: &Document, reason: &Reason) {
        let removed = self.removed.entry(reason.label.to_string()).or_default();
        removed.tally.add(document);
        if removed.samples.len() < SAMPLES {
            removed.samples.push(Sample {
                id: document.id.clone(),
                url: document.url.clone(),
                detail: reason.detail.clone(),
                text: document.text.chars().take(EXCERPT).collect(),
            });
        }
    }

    pub fn removed_total(&self) -> Tally {
        let mut total = Tally::default();
        self.removed.values().for_each(|removed| total.merge(removed.tally));
        total
    }

    fn merge(&mut self, other: &Self) {
        self.entered.merge(other.entered);
        self.kept.merge(other.kept);
        self.made += other.made;
        self.edited += other.edited;
        for (reason, removed) in &other.removed {
            let own = self.removed.entry(reason.clone()).or_default();
            own.tally.merge(removed.tally);
            own.samples
                .extend(removed.samples.iter().take(SAMPLES.saturating_sub(own.samples.len())).cloned());
        }
    }

    /// # Errors
    /// When the counts do not account for every document.
    pub(crate) fn check(&self, place: impl FnOnce() -> String) -> Result<(), CurateError> {
        let (documents, made) = (self.entered.documents, self.made);
        let (kept, removed) = (self.kept.documents, self.removed_total().documents);
        if documents + made == kept + removed {
            return Ok(());
        }
        Err(CurateError::Unbalanced { place: place(), documents, kept, made, removed })
    }
}

/// Shape of a set of texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// By the whole part of log₂ of the number of bytes.
    pub lengths: BTreeMap<u32, u64>,
    /// By `metadata.language`, where a step has set it.
    pub languages: BTreeMap<String, u64>,
    /// By host of the address. Only the most frequent of each shard are kept apart, the rest is under "".
    pub domains: BTreeMap<String, u64>,
    /// By metadata field of a step over all documents: how many texts stand for how many copies.
    pub copies: BTreeMap<String, BTreeMap<u64, u64>>,
}

/// How a metadata field ends that says for how many copies a document stands.
const COPIES: &str = "_size";

/// Domains of a shard that are counted apart, while counting and afterwards.
const DOMAINS: usize = 100_000;
const DOMAINS_KEPT: usize = 500;

impl Profile {
    pub(crate) fn add(&mut self, document: &Document) {
        *self.lengths.entry((document.text.len() as u64).max(1).ilog2()).or_default() += 1;
        if let Some(language) = document.metadata.get("language").and_then(|value| value.as_str()) {
            *self.languages.entry(language.chars().take(20).collect()).or_default() += 1;
        }
        for (field, value) in document.metadata.iter().filter(|(field, _)| field.ends_with(COPIES)) {
            if let Some(size) = value.as_u64() {
                *self.copies.entry(field.clone()).or_default().entry(size).or_default() += 1;
            }
        }
        if let Some(host) = document.url.as_deref().and_then(host) {
            let known = self.domains.len() < DOMAINS || self.domains.contains_key(host);
            *self.domains.entry(if known { host.to_owned() } else { String::new() }).or_default() += 1;
        }
    }

    /// Keeps the most frequent domains apart.
    pub(crate) fn close(&mut self) {
        let mut domains: Vec<(String, u64)> = std::mem::take(&mut self.domains).into_iter().collect();
        domains.sort_by(|a, b| (a.0.is_empty(), b.1, &a.0).cmp(&(b.0.is_empty(), a.1, &b.0)));
        let rest: u64 = domains.iter().skip(DOMAINS_KEPT).map(|(_, count)| count).sum();
        domains.truncate(DOMAINS_KEPT);
        self.domains = domains.into_iter().collect();
        if rest > 0 {
            *self.domains.entry(String::new()).or_default() += rest;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.lengths.iter().for_each(|(length, count)| *self.lengths.entry(*length).or_default() += count);
        for (field, sizes) in &other.copies {
            let own = self.copies.entry(field.clone()).or_default();
            sizes.iter().for_each(|(size, count)| *own.entry(*size).or_default() += count);
        }
        for (own, other) in [(&mut self.languages, &other.languages), (&mut self.domains, &other.domains)] {
            other.iter().for_each(|(name, count)| *own.entry(name.clone()).or_default() += count);
        }
    }
}

/// `http://www.Example.com:80/x` → `www.Example.com`.
fn host(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    host.split(':').next().filter(|host| !host.is_empty() && host.len() <= 253)
}

/// Everything counted over one shard in one phase, or over all shards of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// By name of step.
    pub steps: BTreeMap<String, StepCount>,
    /// Texts as they enter the first step.
    pub before: Profile,
    /// Texts as they leave the last step.
    pub after: Profile,
}

impl Statistics {
    pub(crate) fn step(&mut self, name: &str) -> &mut StepCount {
        if !self.steps.contains_key(name) {
            self.steps.insert(name.to_owned(), StepCount::default());
        }
        self.steps.get_mut(name).expect("it was put there just now")
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other.steps.iter().for_each(|(name, step)| self.step(name).merge(step));
        self.before.merge(&other.before);
        self.after.merge(&other.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document {
            id: "s/1".into(),
            text: text.into(),
            url: Some("http://a.b:1/c".into()),
            ..Document::default()
        }
    }

    #[test]
    fn merged_counts_are_the_counts_of_the_whole() {
        let (mut a, mut b) = (Statistics::default(), Statistics::default());
        for (statistics, texts) in [(&mut a, &["x", "xyz"][..]), (&mut b, &["longer text"][..])] {
            for text in texts {
                let step = statistics.step("length");
                step.entered.add(&document(text));
                step.remove(&document(text), &Reason::new("too_short"));
                statistics.before.add(&document(text));
            }
        }
        a.merge(&b);
        let step = &a.steps["length"];
        assert_eq!((step.entered.documents, step.entered.bytes), (3, 15));
        assert_eq!(step.removed["too_short"].samples.len(), 3);
        assert!(step.check(String::new).is_ok());
        assert_eq!(a.before.domains["a.b"], 3);
        assert_eq!(a.before.lengths.values().sum::<u64>(), 3);
    }

    #[test]
    fn a_lost_document_is_noticed() {
        let step = StepCount { entered: Tally { documents: 2, bytes: 0 }, ..StepCount::default() };
        assert!(step.check(|| "here".into()).unwrap_err().to_string().contains("cannot be trusted"));
    }
}
