//! From tokens to the text a client sees: bytes to characters, stop strings, and which tokens belong to what is told.
//!
//! What is told piece by piece is, put together, what is told at once.

use crate::vocabulary::Vocabulary;
use std::sync::Arc;
use triax_infer::{Finish, TokenScore};

/// A token with its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) token: u32,
    /// None for the first token of a text: nothing comes before it.
    pub(crate) log_prob: Option<f32>,
    pub(crate) top: Vec<(u32, f32)>,
    /// Characters of the text before it.
    pub(crate) offset: usize,
}

/// A part of a text that will not change any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) finish: Option<&'static str>,
}

impl Piece {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.entries.is_empty() && self.finish.is_none()
    }

    pub(crate) fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.entries.extend(next.entries);
        self.finish = self.finish.or(next.finish);
    }
}

/// One text on its way to the client.
pub(crate) struct Assembly {
    vocabulary: Arc<Vocabulary>,
    stops: Vec<String>,
    /// Bytes that may be the begin of a character.
    pending: Vec<u8>,
    /// Text that may be the begin of a stop string.
    held: String,
    /// Characters told, and held.
    told: usize,
    held_characters: usize,
    /// Tokens not told yet.
    entries: Vec<Entry>,
}

impl Assembly {
    pub(crate) const fn new(vocabulary: Arc<Vocabulary>, stops: Vec<String>) -> Self {
        Self {
            vocabulary,
            stops,
            pending: Vec::new(),
            held: String::new(),
            told: 0,
            held_characters: 0,
            entries: Vec::new(),
        }
    }

    /// A token of the echoed prompt; stop strings in it do not count.
    pub(crate) fn echo(&mut self, token: u32, score: Option<&TokenScore>) -> Piece {
        self.note(token, score.map(|score| (score.log_prob, score.top.clone())));
        let text = self.decode(token);
        self.tell(text)
    }

    /// A new token.
    pub(crate) fn push(&mut self, score: TokenScore) -> Piece {
        self.note(score.token, Some((score.log_prob, score.top)));
        let text = self.decode(score.token);
        self.hold(&text);
        self.release()
    }

    /// A token that ends the text: it has a log-probability and adds no text.
    pub(crate) fn stop(&mut self, score: TokenScore) {
        self.note(score.token, Some((score.log_prob, score.top)));
    }

    /// The text is over.
    pub(crate) fn finish(&mut self, finish: Finish) -> Piece {
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        self.hold(&rest);
        let mut piece = self.release();
        if piece.finish.is_none() {
            let held = std::mem::take(&mut self.held);
            self.held_characters = 0;
            piece.append(self.tell(held));
            piece.entries.append(&mut self.entries);
            piece.finish = Some(match finish {
                Finish::Stop | Finish::Cancelled => "stop",
                Finish::Length | Finish::Context => "length",
            });
        }
        piece
    }

    fn note(&mut self, token: u32, score: Option<(f32, Vec<(u32, f32)>)>) {
        let (log_prob, top) = score.map_or((None, Vec::new()), |(log_prob, top)| (Some(log_prob), top));
        let offset = self.told + self.held_characters;
        self.entries.push(Entry { token, log_prob, top, offset });
    }

    /// The whole characters that the token completes.
    fn decode(&mut self, token: u32) -> String {
        self.pending.extend_from_slice(self.vocabulary.text_of(token));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + bad);
                }
            }
        }
    }

    fn hold(&mut self, text: &str) {
        self.held.push_str(text);
        self.held_characters += text.chars().count();
    }

    /// Tells what is held, as far as no stop string can begin in it.
    fn release(&mut self) -> Piece {
        // The stop string that is complete first, however the text is cut into tokens.
        let found = self.stops.iter().filter_map(|stop| {
            let place = self.held.find(stop.as_str())?;
            Some((place + stop.len(), place))
        });
        if let Some((_, place)) = found.min() {
            let text = self.held[..place].to_owned();
            self.held.clear();
            self.held_characters = 0;
            self.told += text.chars().count();
            // A token that begins in the stop string, or behind it, belongs to no text.
            let entries = self.entries.drain(..).filter(|entry| entry.offset < self.told).collect();
            return Piece { text, entries, finish: Some("stop") };
        }
        // The longest end that begins a stop string.
        let most = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0).min(self.held.len());
        let kept = (1..=most)
            .rev()
            .filter(|&length| self.held.is_char_boundary(self.held.len() - length))
            .find(|&length| {
                let end = &self.held[self.held.len() - length..];
                self.stops.iter().any(|stop| stop.starts_with(end))
            })
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        let text = std::mem::replace(&mut self.held, rest);
        self.held_characters = self.held.chars().count();
        self.tell(text)
    }

    /// `text` is certain; so are the tokens that begin in it.
    fn tell(&mut self, text: String) -> Piece {
        self.told += text.chars().count();
        let all = self.held.is_empty() && self.pending.is_empty();
        let certain = |entry: &Entry| all || entry.offset < self.told;
        let count = self.entries.iter().take_while(|entry| certain(entry)).count();
        Piece { text, entries: self.entries.drain(..count).collect(), finish: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::vocabulary;
    use proptest::prelude::*;

    fn score(token: u32) -> TokenScore {
        TokenScore { token, log_prob: -1.0, greedy: false, top: Vec::new() }
    }

    /// The pieces of a text, of which each token is one new token.
    fn pieces(text: &str, stops: &[&str]) -> Vec<Piece> {
        let vocabulary = vocabulary();
        let ids = vocabulary.encode(text, false).unwrap();
        let mut assembly = Assembly::new(vocabulary, stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut pieces = Vec::new();
        for id in ids {
            pieces.push(assembly.push(score(id)));
            if pieces.last().unwrap().finish.is_some() {
                return pieces;
            }
        }
        pieces.push(assembly.finish(Finish::Length));
        pieces
    }

    fn whole(pieces: Vec<Piece>) -> Piece {
        let mut whole = Piece::default();
        pieces.into_iter().for_each(|piece| whole.append(piece));
        whole
    }

    proptest! {
        #[test]
        fn a_text_ends_before_the_stop_string_that_is_complete_first(
            text in "[abcd你好\u{1f600} ]{0,30}", stops in proptest::collection::vec("[abcd你 ]{1,4}", 0..3),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let found = whole(pieces(&text, &stops));
            let complete = stops.iter().filter_map(|stop| text.find(stop).map(|place| (place + stop.len(), place)));
            let end = complete.min().map(|(_, place)| place);
            prop_assert_eq!(&found.text, &text[..end.unwrap_or(text.len())]);
            prop_assert_eq!(found.finish, Some(if end.is_some() { "stop" } else { "length" }));
            let characters = found.text.chars().count();
            prop_assert!(found.entries.iter().all(|entry| entry.offset < characters.max(1)));
        }

        #[test]
        fn no_piece_ends_inside_a_character_and_offsets_count_characters(text in "\\PC{0,20}") {
            let all = pieces(&text, &[]);
            let odd = char::REPLACEMENT_CHARACTER;
            prop_assert!(text.contains(odd) || all.iter().all(|piece| !piece.text.contains(odd)));
            let found = whole(all);
            prop_assert_eq!(&found.text, &text);
            prop_assert!(found.entries.windows(2).all(|two| two[0].offset <= two[1].offset));
        }
    }

    #[test]
    fn tokens_of_a_stop_string_are_not_told() {
        let piece = whole(pieces("\u{1f600}你", &["你"]));
        assert_eq!((piece.text.as_str(), piece.finish), ("\u{1f600}", Some("stop")));
        assert!(!piece.entries.is_empty() && piece.entries.iter().all(|entry| entry.offset == 0));
        // The longer one begins first, the shorter one is there first.
        assert_eq!(whole(pieces("dabcd", &["abc", "b"])).text, "da");
    }

    #[test]
    fn half_a_character_at_the_end_shows_as_such() {
        let vocabulary = vocabulary();
        let ids = vocabulary.encode("\u{1f600}", false).unwrap();
        let mut assembly = Assembly::new(vocabulary, Vec::new());
        let mut piece = assembly.push(score(ids[0]));
        assert!(piece.is_empty());
        piece.append(assembly.finish(Finish::Length));
        assert_eq!((piece.text.as_str(), piece.entries.len()), ("\u{fffd}", 1));
    }

    #[test]
    fn an_echoed_prompt_may_hold_a_stop_string() {
        let vocabulary = vocabulary();
        let ids = vocabulary.encode("the cat", false).unwrap();
        let mut assembly = Assembly::new(vocabulary, vec!["cat".into()]);
        let mut piece = Piece::default();
        for (place, &id) in ids.iter().enumerate() {
            piece.append(assembly.echo(id, (place > 0).then(|| score(id)).as_ref()));
        }
        assert_eq!((piece.text.as_str(), piece.finish), ("the cat", None));
        assert_eq!((piece.entries[0].log_prob, piece.entries.len()), (None, ids.len()));
    }
}
