//! Copies in a corpus of any size, by rows sorted on disk instead of a suffix array.
//!
//! ```text
//! texts ─▶ anchors by hash ─▶ those that stand twice ─┐
//! texts ──────────────────────────────────────────────┴─▶ windows by hash and standing ─▶ all but the first of equal ones
//! ```
//!
//! A window is as long as the shortest copy. Its anchor is the piece of half its length that has the smallest hash of all pieces
//! in it: equal windows have equal anchors at equal places, and neighbouring windows mostly share one, so that there is a row for a
//! few places in a hundred. Only windows with an anchor that stands elsewhere can have a copy, and get rows of their own.

use super::{STEP, Stretch, Text, bytes_path, texts_path};
use crate::global::GlobalError;
use crate::runs::{RunReader, Sorter, record};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Where a text has an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Anchor {
    hash: u64,
    document: u64,
    place: u64,
}

record!(Anchor, b"ancr", hash: u64, document: u64, place: u64);

/// An anchor whose piece stands elsewhere, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Common {
    document: u64,
    place: u64,
}

record!(Common, b"comm", document: u64, place: u64);

/// Of equal windows the smallest stays: that of the best standing, then of the first document, then the first in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Window {
    hash: u128,
    rank: u16,
    worse: u32,
    document: u64,
    start: u64,
}

record!(Window, b"wndw", hash: u128, rank: u16, worse: u32, document: u64, start: u64);

/// Windows of `length` bytes that go. What does not fit in `memory` bytes is sorted in `out`.
pub(super) fn copies(
    shards: &[PathBuf],
    length: usize,
    out: &Path,
    memory: usize,
) -> Result<Sorter<Stretch>, GlobalError> {
    // Two sorters are at work at a time, and the text of one document.
    let share = memory / 3;
    let mut anchors = Sorter::new(out, "anchors", share);
    each_text(shards, &mut |text, bytes| {
        let mut last = None;
        each_window(bytes, length, &mut |_, place, hash| {
            if last != Some(place) {
                last = Some(place);
                anchors.push(Anchor { hash, document: text.document, place: place as u64 })?;
            }
            Ok(())
        })
    })?;
    let mut common = Sorter::new(out, "common", share);
    let mut before: Option<(Anchor, bool)> = None;
    for anchor in anchors.sorted()? {
        let anchor = anchor?;
        let row = |anchor: Anchor| Common { document: anchor.document, place: anchor.place };
        let is_common = before.is_some_and(|(before, _)| before.hash == anchor.hash);
        if let Some((first, false)) = before.filter(|_| is_common) {
            common.push(row(first))?;
        }
        if is_common {
            common.push(row(anchor))?;
        }
        before = Some((anchor, is_common));
    }
    let mut common = common.sorted()?;
    let mut next = common.next().transpose()?;
    let mut windows = Sorter::new(out, "windows", share);
    each_text(shards, &mut |text, bytes| {
        each_window(bytes, length, &mut |start, place, _| {
            let here = Common { document: text.document, place: place as u64 };
            while next.is_some_and(|next| next < here) {
                next = common.next().transpose()?;
            }
            if next == Some(here) {
                let hash = xxh3_128(&bytes[start..start + length]);
                let Text { document, rank, worse, .. } = *text;
                windows.push(Window { hash, rank, worse, document, start: start as u64 })?;
            }
            Ok(())
        })
    })?;
    drop(common);
    let mut copies = Sorter::new(out, "copies", share);
    let mut before = None;
    for window in windows.sorted()? {
        let Window { hash, document, start, .. } = window?;
        if before == Some(hash) {
            copies.push(Stretch { document, start, end: start + length as u64 })?;
        }
        before = Some(hash);
    }
    Ok(copies)
}

/// Takes a text and its bytes.
type EachText<'a> = &'a mut dyn FnMut(&Text, &[u8]) -> Result<(), GlobalError>;

/// All texts in the order of the corpus, one at a time.
fn each_text(shards: &[PathBuf], each: EachText<'_>) -> Result<(), GlobalError> {
    let mut bytes = Vec::new();
    for folder in shards {
        let path = bytes_path(folder);
        let fault = |error| GlobalError::io("read", &path, error);
        let mut file = BufReader::with_capacity(1 << 18, File::open(&path).map_err(fault)?);
        for text in RunReader::<Text>::open(&texts_path(folder), 1 << 16)? {
            let text = text?;
            // With the byte between documents.
            bytes.resize(text.length as usize + 1, 0);
            file.read_exact(&mut bytes).map_err(fault)?;
            each(&text, &bytes[..text.length as usize])?;
        }
        if file.read(&mut [0]).map_err(fault)? != 0 {
            let message = format!("{STEP}: more texts than lengths: run the step again");
            return Err(GlobalError::Input { path, message });
        }
    }
    Ok(())
}

/// Start of each window, place of its anchor (which never falls) and the anchor's hash.
fn each_window(
    text: &[u8],
    length: usize,
    each: &mut dyn FnMut(usize, usize, u64) -> Result<(), GlobalError>,
) -> Result<(), GlobalError> {
    let piece = length.div_ceil(2);
    let pieces = length - piece + 1;
    // Hashes rise from front to back, places too; of equal hashes the first is the anchor.
    let mut smallest: VecDeque<(u64, usize)> = VecDeque::new();
    for (place, bytes) in text.windows(piece).enumerate() {
        let hash = xxh3_64(bytes);
        while smallest.back().is_some_and(|&(other, _)| other > hash) {
            smallest.pop_back();
        }
        smallest.push_back((hash, place));
        let Some(start) = (place + 1).checked_sub(pieces) else { continue };
        if smallest.front().is_some_and(|&(_, place)| place < start) {
            smallest.pop_front();
        }
        let &(hash, place) = smallest.front().expect("the piece that was just pushed is in the window");
        each(start, place, hash)?;
    }
    Ok(())
}
