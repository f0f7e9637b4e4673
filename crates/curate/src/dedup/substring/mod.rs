//! Stretches of text that occur before are taken out (Lee et al. 2022: 50 tokens, or 100 bytes), found by a suffix array over the
//! whole corpus, or by sorted rows where that needs more memory than is allowed. Both find the same.
//!
//! Suffixes that begin with the same 100 bytes stand side by side in the array. Of each such group the one in the document of the
//! best [`Standing`] stays, and the 100 bytes go wherever else they are; longer copies are unions of these.
//!
//! The array is made in memory, 20 bytes for a byte of text. A larger corpus needs disk instead: about a byte for each of its bytes,
//! and 38 for each that may be part of a copy.

mod suffix_array;
mod windows;

use super::rows::{OfDocument, RowsByDocument};
use crate::cluster::Joins;
use crate::document::Document;
use crate::global::{Collect, Decide, Decision, GlobalError, GlobalStep, Resolution, Standing};
use crate::runs::{RunReader, RunWriter, Sorter, record};
use crate::step::Reason;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use suffix_array::{shared_with_predecessor, suffix_array};

/// `[[step]] kind = "substring_dedup"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SubstringDedup {
    /// Bytes of the shortest copy that goes.
    pub length: usize,
    /// A document left with fewer characters is removed.
    pub min_document_characters: usize,
}

impl Default for SubstringDedup {
    fn default() -> Self {
        Self { length: 100, min_document_characters: 200 }
    }
}

const STEP: &str = "substring_dedup";
/// In no UTF-8 text.
const BETWEEN_DOCUMENTS: u8 = 0xff;
/// Bytes of memory for a byte of text.
const MEMORY_A_BYTE: u64 = 20;

/// A text in its shard's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Text {
    document: u64,
    rank: u16,
    worse: u32,
    length: u64,
}

record!(Text, b"text", document: u64, rank: u16, worse: u32, length: u64);

/// Bytes of a document that go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    document: u64,
    start: u64,
    end: u64,
}

record!(Stretch, b"strc", document: u64, start: u64, end: u64);

impl OfDocument for Stretch {
    fn document(&self) -> u64 {
        self.document
    }
}

fn bytes_path(folder: &Path) -> PathBuf {
    folder.join("texts.bin")
}

fn texts_path(folder: &Path) -> PathBuf {
    folder.join("texts.run")
}

fn stretches_path(out: &Path) -> PathBuf {
    out.join("stretches.run")
}

struct Texts {
    path: PathBuf,
    bytes: BufWriter<File>,
    texts: RunWriter<Text>,
}

impl Collect for Texts {
    fn see(&mut self, number: u64, standing: Standing, document: &Document) -> Result<(), GlobalError> {
        let text = document.text.as_bytes();
        let written = self.bytes.write_all(text).and_then(|()| self.bytes.write_all(&[BETWEEN_DOCUMENTS]));
        written.map_err(|error| GlobalError::io("write", &self.path, error))?;
        let (rank, worse) = standing.parts();
        self.texts.push(Text { document: number, rank, worse, length: text.len() as u64 })?;
        Ok(())
    }

    /// The run with the lengths is named last, so that no text of theirs is missing.
    fn finish(mut self: Box<Self>) -> Result<(), GlobalError> {
        let synced = self.bytes.flush().and_then(|()| self.bytes.get_ref().sync_all());
        synced.map_err(|error| GlobalError::io("write", &self.path, error))?;
        self.texts.finish()?;
        Ok(())
    }
}

impl GlobalStep for SubstringDedup {
    fn name(&self) -> &'static str {
        STEP
    }

    fn collect(&self, folder: &Path, _: usize) -> Result<Box<dyn Collect>, GlobalError> {
        if self.length == 0 {
            let message = "length must be at least 1".to_owned();
            return Err(GlobalError::Configuration { step: STEP, message });
        }
        let path = bytes_path(folder);
        let file = File::create(&path).map_err(|error| GlobalError::io("create", &path, error))?;
        let bytes = BufWriter::with_capacity(1 << 18, file);
        Ok(Box::new(Texts { path, bytes, texts: RunWriter::create(&texts_path(folder))? }))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        _: &Joins,
    ) -> Result<Resolution, GlobalError> {
        let bytes = bytes_of(shards)?;
        let fits = bytes.saturating_mul(MEMORY_A_BYTE) <= memory as u64 && bytes < u64::from(u32::MAX);
        let copies = if fits {
            self.copies_by_suffixes(shards, bytes, out, memory / 4)?
        } else {
            windows::copies(shards, self.length, out, memory)?
        };
        let (stretches, removed) = write_union(copies, &stretches_path(out))?;
        let counts = [("bytes", bytes), ("stretches", stretches), ("removed_bytes", removed)];
        Ok(counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
    }

    fn decide(&self, out: &Path, first: u64) -> Result<Box<dyn Decide>, GlobalError> {
        let stretches = RowsByDocument::open(&stretches_path(out), first)?;
        Ok(Box::new(Cutter { step: self.clone(), stretches }))
    }
}

/// Bytes of all texts, each with its [`BETWEEN_DOCUMENTS`].
fn bytes_of(shards: &[PathBuf]) -> Result<u64, GlobalError> {
    let mut bytes = 0;
    for folder in shards {
        for text in RunReader::<Text>::open(&texts_path(folder), 1 << 16)? {
            bytes += text?.length + 1;
        }
    }
    Ok(bytes)
}

/// Writes what the stretches cover together; says in how many stretches, and of how many bytes.
fn write_union(stretches: Sorter<Stretch>, path: &Path) -> Result<(u64, u64), GlobalError> {
    let mut writer = RunWriter::create(path)?;
    let (mut removed, mut open) = (0, None::<Stretch>);
    let mut close = |stretch: Stretch| {
        removed += stretch.end - stretch.start;
        writer.push(stretch)
    };
    for stretch in stretches.sorted()? {
        let stretch = stretch?;
        match &mut open {
            Some(open) if open.document == stretch.document && stretch.start <= open.end => {
                open.end = open.end.max(stretch.end);
            }
            _ => {
                if let Some(before) = open.replace(stretch) {
                    close(before)?;
                }
            }
        }
    }
    if let Some(last) = open {
        close(last)?;
    }
    Ok((writer.finish()?, removed))
}

/// All texts behind one another, each followed by [`BETWEEN_DOCUMENTS`]; `length` bytes in all.
fn read_texts(shards: &[PathBuf], length: u64) -> Result<(Vec<Text>, Vec<u8>), GlobalError> {
    let (mut texts, mut bytes) = (Vec::new(), Vec::with_capacity(length as usize));
    for folder in shards {
        for text in RunReader::<Text>::open(&texts_path(folder), 1 << 16)? {
            texts.push(text?);
        }
        let path = bytes_path(folder);
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| GlobalError::io("read", &path, error))?;
    }
    if bytes.len() as u64 != length {
        let message =
            format!("the shards' texts have {} bytes, not {length}: run the step again", bytes.len());
        return Err(GlobalError::Input { path: shards.first().cloned().unwrap_or_default(), message });
    }
    Ok((texts, bytes))
}

/// One bit a byte.
struct Marks(Vec<u64>);

impl Marks {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn set(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
}

impl SubstringDedup {
    /// Stretches that go, by a suffix array of all texts, which have `length` bytes.
    fn copies_by_suffixes(
        &self,
        shards: &[PathBuf],
        length: u64,
        out: &Path,
        memory: usize,
    ) -> Result<Sorter<Stretch>, GlobalError> {
        let (texts, bytes) = read_texts(shards, length)?;
        let array = suffix_array(&bytes, usize::from(BETWEEN_DOCUMENTS));
        let shared = shared_with_predecessor(&bytes, &array);
        let copies = self.copies(&texts, bytes.len(), &array, &shared);
        drop((array, shared));
        let mut stretches = Sorter::new(out, "stretches", memory);
        let mut start = 0;
        for text in &texts {
            let end = start + text.length as usize;
            let mut place = start;
            while place < end {
                let length = (place..end).take_while(|&place| copies.has(place)).count();
                if length > 0 {
                    let (first, last) = ((place - start) as u64, (place + length - start) as u64);
                    stretches.push(Stretch { document: text.document, start: first, end: last })?;
                }
                place += length + 1;
            }
            start = end + 1;
        }
        Ok(stretches)
    }

    /// Bytes that are part of a copy.
    fn copies(&self, texts: &[Text], length: usize, array: &[u32], shared: &[u32]) -> Marks {
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            ends.push(ends.last().map_or(0, |end| end + 1) + text.length as usize);
        }
        let text_of = |place: usize| ends.partition_point(|&end| end < place);
        // What stays of a group: the best standing, then the first place.
        let order = |start: u32| {
            let text = &texts[text_of(start as usize)];
            (Standing::from_parts(text.rank, text.worse), start)
        };
        let mut first_bytes = Marks(vec![0; length / 64 + 1]);
        let mut begin = 0;
        while begin < array.len() {
            let same = array[begin + 1..]
                .iter()
                .take_while(|&&start| shared[start as usize] as usize >= self.length);
            let end = begin + 1 + same.count();
            let group = &array[begin..end];
            // All of a group go over the end of their documents, or none.
            let start = group[0] as usize;
            if group.len() > 1 && start + self.length <= ends[text_of(start)] {
                let stays = group.iter().copied().min_by_key(|&start| order(start));
                group
                    .iter()
                    .filter(|&&start| Some(start) != stays)
                    .for_each(|&start| first_bytes.set(start as usize));
            }
            begin = end;
        }
        let mut copies = Marks(vec![0; length / 64 + 1]);
        let mut until = 0;
        for place in 0..length {
            if first_bytes.has(place) {
                until = place + self.length;
            }
            if place < until {
                copies.set(place);
            }
        }
        copies
    }
}

struct Cutter {
    step: SubstringDedup,
    stretches: RowsByDocument<Stretch>,
}

impl Decide for Cutter {
    fn decide(&mut self, number: u64, document: &mut Document) -> Result<Decision, GlobalError> {
        let text = &document.text;
        let (mut left, mut kept_to, mut cut) = (String::new(), 0, 0);
        while let Some(stretch) = self.stretches.next_of(number)? {
            // A character is cut whole or not at all.
            let start = text.ceil_char_boundary((stretch.start as usize).min(text.len()));
            let end = text.floor_char_boundary((stretch.end as usize).min(text.len()));
            if start < end {
                left.push_str(&text[kept_to..start]);
                (kept_to, cut) = (end, cut + end - start);
            }
        }
        if cut == 0 {
            return Ok(Decision::Keep);
        }
        left.push_str(&text[kept_to..]);
        if left.trim().chars().count() < self.step.min_document_characters.max(1) {
            let detail = format!("{cut} of {} bytes are copies", text.len());
            return Ok(Decision::Remove(Reason::measured("duplicate_substrings", detail)));
        }
        document.metadata.insert("duplicate_bytes_cut".to_owned(), cut.into());
        document.text = left;
        Ok(Decision::Keep)
    }
}

#[cfg(test)]
mod tests;
