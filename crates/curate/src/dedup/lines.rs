//! Lines or paragraphs that occur before, somewhere in the corpus, are taken out: menus, notices, footers.
//!
//! The key of a line is CCNet's: lower case, digits as 0, punctuation and control characters left out.

use super::minhash::class;
use super::relations;
use super::rows::{OfDocument, RowsByDocument};
use crate::cluster::{Cluster, Joins};
use crate::document::Document;
use crate::global::{Collect, Decide, Decision, GlobalError, GlobalStep, Resolution, Standing};
use crate::runs::{Sorter, merge, record};
use crate::step::Reason;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// `[[step]] kind = "line_dedup"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineDedup {
    pub unit: LineUnit,
    /// Lines of fewer characters in normalised form stay whatever they are: short lines are equal by chance.
    pub min_characters: usize,
    /// A document left with fewer characters of text is removed.
    pub min_document_characters: usize,
}

impl Default for LineDedup {
    fn default() -> Self {
        Self { unit: LineUnit::Line, min_characters: 20, min_document_characters: 300 }
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineUnit {
    /// What ends in a line break.
    #[default]
    Line,
    /// What ends in an empty line.
    Paragraph,
}

impl LineUnit {
    /// The pieces of a text with the breaks after them; together they are the text.
    fn pieces(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = match self {
                Self::Line => rest.find('\n').map(|place| place + 1),
                Self::Paragraph => rest.find("\n\n").map(|place| {
                    let breaks = rest[place..].bytes().take_while(|&byte| byte == b'\n').count();
                    place + breaks
                }),
            };
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after;
            Some(piece)
        })
    }
}

/// The normalised form of a line, and how many characters it has.
fn normalize(line: &str, out: &mut String) -> usize {
    out.clear();
    for c in line.trim().chars().flat_map(char::to_lowercase) {
        if class::is_digit(c) {
            out.push('0');
        } else if !class::is_any_punctuation(c) && !c.is_control() {
            out.push(c);
        }
    }
    out.chars().count()
}

/// Sorted, equal lines stand side by side with the one that stays in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: u128,
    rank: u16,
    worse: u32,
    document: u64,
    place: u32,
}

record!(Row, b"line", key: u128, rank: u16, worse: u32, document: u64, place: u32);

/// A line that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    document: u64,
    place: u32,
}

record!(Copy, b"lcpy", document: u64, place: u32);

impl OfDocument for Copy {
    fn document(&self) -> u64 {
        self.document
    }
}

fn rows_path(folder: &Path) -> PathBuf {
    folder.join("lines.run")
}

fn copies_path(out: &Path) -> PathBuf {
    out.join("copies.run")
}

struct Lines {
    step: LineDedup,
    folder: PathBuf,
    rows: Sorter<Row>,
    normalized: String,
}

impl Collect for Lines {
    fn see(&mut self, number: u64, standing: Standing, document: &Document) -> Result<(), GlobalError> {
        let (rank, worse) = standing.parts();
        for (place, piece) in self.step.unit.pieces(&document.text).enumerate() {
            if normalize(piece, &mut self.normalized) < self.step.min_characters.max(1) {
                continue;
            }
            let key = xxh3_128(self.normalized.as_bytes());
            self.rows.push(Row { key, rank, worse, document: number, place: place as u32 })?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GlobalError> {
        self.rows.write(&rows_path(&self.folder))?;
        Ok(())
    }
}

struct Cutter {
    step: LineDedup,
    copies: RowsByDocument<Copy>,
}

impl Decide for Cutter {
    fn decide(&mut self, number: u64, document: &mut Document) -> Result<Decision, GlobalError> {
        let mut places = Vec::new();
        while let Some(copy) = self.copies.next_of(number)? {
            places.push(copy.place as usize);
        }
        if places.is_empty() {
            return Ok(Decision::Keep);
        }
        let mut gone = places.iter().peekable();
        let pieces = self.step.unit.pieces(&document.text).enumerate();
        let left: String =
            pieces.filter_map(|(place, piece)| gone.next_if_eq(&&place).is_none().then_some(piece)).collect();
        let left = left.trim_end_matches('\n');
        if left.chars().count() < self.step.min_document_characters.max(1) {
            let detail = format!("{} lines are copies", places.len());
            return Ok(Decision::Remove(Reason::measured("duplicate_lines", detail)));
        }
        document.metadata.insert("duplicate_lines_cut".to_owned(), places.len().into());
        document.text = left.to_owned();
        Ok(Decision::Keep)
    }
}

impl GlobalStep for LineDedup {
    fn name(&self) -> &'static str {
        "line_dedup"
    }

    fn collect(&self, folder: &Path, memory: usize) -> Result<Box<dyn Collect>, GlobalError> {
        Ok(Box::new(Lines {
            step: self.clone(),
            folder: folder.to_owned(),
            rows: Sorter::new(folder, "lines", memory),
            normalized: String::new(),
        }))
    }

    fn share(&self, folder: &Path, cluster: &Cluster) -> Result<(), GlobalError> {
        cluster.share::<Row>(&rows_path(folder))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        joins: &Joins,
    ) -> Result<Resolution, GlobalError> {
        let paths: Vec<PathBuf> = shards.iter().map(|folder| rows_path(folder)).collect();
        let mut copies = Sorter::new(out, "copies", memory / 2);
        let lines = match joins {
            Joins::Here => {
                let (mut lines, mut key) = (0u64, None);
                for row in merge::<Row>(&paths, memory / 2, out)? {
                    let row = row?;
                    lines += 1;
                    if key == Some(row.key) {
                        copies.push(Copy { document: row.document, place: row.place })?;
                    }
                    key = Some(row.key);
                }
                lines
            }
            Joins::Cluster(cluster) => {
                let mut see = |copy| Ok(copies.push(copy)?);
                relations::later_lines::<Row, Copy>(cluster, &paths, out, &mut see)?
            }
        };
        let removed = copies.write(&copies_path(out))?;
        let counts = [("lines", lines), ("removed_lines", removed)];
        Ok(counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
    }

    fn decide(&self, out: &Path, first: u64) -> Result<Box<dyn Decide>, GlobalError> {
        let copies = RowsByDocument::open(&copies_path(out), first)?;
        Ok(Box::new(Cutter { step: self.clone(), copies }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{document, run_in_shards};

    const FOOTER: &str = "Copyright 2024 Example Corp., all rights reserved.";

    #[test]
    fn a_line_stays_in_the_document_of_the_best_source_only() {
        let documents: Vec<_> = [("a", 1), ("b", 0), ("c", 1)]
            .into_iter()
            .map(|(id, rank)| {
                let text = format!("Only document {id} says this.\n{}\nshort\nshort\nEnd of {id}.", FOOTER);
                (document(id, &text), Standing::new(rank, 0.0))
            })
            .collect();
        let step = LineDedup { min_document_characters: 10, ..LineDedup::default() };
        for shards in [1, 3] {
            let run = run_in_shards(&step, &documents, shards, 1 << 20);
            let texts: Vec<&str> = run.kept.iter().map(|document| document.text.as_str()).collect();
            assert!(!texts[0].contains(FOOTER) && texts[1].contains(FOOTER) && !texts[2].contains(FOOTER));
            assert!(texts.iter().all(|text| text.contains("short\nshort\nEnd")));
            assert_eq!(run.resolution["removed_lines"], 2);
        }
    }

    #[test]
    fn digits_case_and_punctuation_do_not_tell_lines_apart_and_paragraphs_are_longer() {
        let text = |year| format!("{FOOTER}\nsecond line of it, {year}\n\n\nBody that nobody else has got.");
        let upper = text(1999).to_uppercase().replace('.', "!") + " really not";
        let documents: Vec<_> = [("a", text(2001)), ("b", upper)]
            .into_iter()
            .map(|(id, text)| (document(id, &text), Standing::new(0, 0.0)))
            .collect();
        let step =
            LineDedup { unit: LineUnit::Paragraph, min_document_characters: 1, ..LineDedup::default() };
        let run = run_in_shards(&step, &documents, 2, 1 << 20);
        assert_eq!(run.kept[0].text, documents[0].0.text);
        assert_eq!(run.kept[1].text, "BODY THAT NOBODY ELSE HAS GOT! really not");
    }

    #[test]
    fn a_document_of_copies_is_removed() {
        let documents: Vec<_> =
            ["a", "b"].into_iter().map(|id| (document(id, FOOTER), Standing::new(0, 0.0))).collect();
        let step = LineDedup { min_document_characters: 1, ..LineDedup::default() };
        let run = run_in_shards(&step, &documents, 1, 1 << 20);
        assert_eq!(run.removed, [("b".to_owned(), "duplicate_lines".to_owned())]);
    }
}
