//! Text to tokens: where the target begins, and what fits into the network.
//!
//! Context and target are tokenised as one text, as the network would read it. A token that spans the border
//! belongs to the target; such items are counted, because their score holds a piece of the context.

use crate::error::EvalError;
use triax_data::Tokenizer;

/// The tokenizer as evaluation needs it; a server's may stand in for a file.
pub trait Codec {
    /// # Errors
    /// When the tokenizer has no tokens for a part of the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError>;

    /// # Errors
    /// When the tokens do not make a text.
    fn decode(&self, ids: &[u32]) -> Result<String, EvalError>;

    /// The token that begins a document.
    fn start(&self) -> Option<u32>;

    /// Name and hash, for results.
    fn name(&self) -> String;
}

/// A tokenizer from a file. A document begins with `start`: the token that ends one, where nothing else is known.
#[derive(Debug)]
pub struct FileCodec {
    pub tokenizer: Tokenizer,
    pub start: Option<u32>,
}

impl Codec for FileCodec {
    fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(self.tokenizer.encode(text)?)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, EvalError> {
        Ok(self.tokenizer.decode(ids)?)
    }

    fn start(&self) -> Option<u32> {
        self.start
    }

    fn name(&self) -> String {
        let identity = self.tokenizer.identity();
        format!("{} {}", identity.name, identity.hash)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) context: Vec<u32>,
    pub(crate) target: Vec<u32>,
    /// The first token of the target holds a piece of the context.
    pub(crate) joined: bool,
}

/// White space at the context's end moves to the target: a token usually carries the space before it.
///
/// # Errors
/// When the text cannot be tokenised.
pub(crate) fn split(codec: &(impl Codec + ?Sized), context: &str, target: &str) -> Result<Split, EvalError> {
    let kept = context.trim_end();
    let whole = codec.encode(&format!("{context}{target}"))?;
    let before = if kept.is_empty() { Vec::new() } else { codec.encode(kept)? };
    if whole.len() > before.len() && whole.starts_with(&before) {
        let target = whole[before.len()..].to_vec();
        return Ok(Split { context: before, target, joined: false });
    }
    // The border is inside a token, or the context's last tokens are others with the target behind them.
    let mut border = before.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    let last = if target.is_empty() { whole.len() } else { whole.len().saturating_sub(1) };
    border = border.min(last);
    while border < last && kept.starts_with(&codec.decode(&whole[..=border])?) {
        border += 1;
    }
    let joined = codec.decode(&whole[..border])?.len() < kept.len();
    Ok(Split { context: whole[..border].to_vec(), target: whole[border..].to_vec(), joined })
}

/// A context and what is scored behind it; together at most one token more than the network's context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    pub(crate) context: Vec<u32>,
    pub(crate) target: Vec<u32>,
}

/// Cuts to windows of `length` tokens (and one that is only predicted). The context loses its beginning first
/// (`true` beside it); a target that is longer than a window goes through several, each token scored once, every one
/// but the first window filled up with the tokens before it. `context` has at least one token.
pub(crate) fn windows(context: &[u32], target: &[u32], length: usize) -> (Vec<Window>, bool) {
    let room = length + 1;
    let cut = context.len() + target.len() > room;
    if target.len() <= length {
        let kept = context.len().min(room - target.len());
        let context = context[context.len() - kept..].to_vec();
        return (vec![Window { context, target: target.to_vec() }], cut);
    }
    let all = [&context[context.len() - 1..], target].concat();
    let mut windows = Vec::new();
    let mut scored = 1;
    while scored < all.len() {
        let end = if scored == 1 { room } else { (scored + length).min(all.len()) };
        let begin = end - room.min(end);
        windows.push(Window { context: all[begin..scored].to_vec(), target: all[scored..end].to_vec() });
        scored = end;
    }
    (windows, context.len() > 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A token a word with the spaces before it, its pieces `ab` where one is, else a token a character.
    pub(crate) struct Words;

    impl Words {
        fn pieces(text: &str) -> Vec<String> {
            let mut pieces: Vec<String> = Vec::new();
            for letter in text.chars() {
                match pieces.last_mut() {
                    Some(piece) if letter == 'b' && piece.ends_with('a') => piece.push(letter),
                    Some(piece) if piece == " " && letter != ' ' => piece.push(letter),
                    _ => pieces.push(letter.to_string()),
                }
            }
            pieces
        }
    }

    impl Codec for Words {
        fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
            Ok(Self::pieces(text)
                .iter()
                .map(|piece| piece.chars().fold(0, |id, letter| (id << 8 | letter as u32) & 0xff_ffff))
                .collect())
        }

        fn decode(&self, ids: &[u32]) -> Result<String, EvalError> {
            let letters = ids.iter().flat_map(|id| [id >> 16, id >> 8 & 255, id & 255]);
            Ok(letters.filter(|&letter| letter != 0).filter_map(char::from_u32).collect())
        }

        fn start(&self) -> Option<u32> {
            Some(0)
        }

        fn name(&self) -> String {
            "words of tests".to_owned()
        }
    }

    fn text(context: &str, target: &str) -> (String, String, bool) {
        let split = split(&Words, context, target).unwrap();
        (Words.decode(&split.context).unwrap(), Words.decode(&split.target).unwrap(), split.joined)
    }

    #[test]
    fn the_space_at_the_border_goes_with_the_target() {
        assert_eq!(text("x y ", "z"), ("x y".to_owned(), " z".to_owned(), false));
        assert_eq!(text("x y", " z"), ("x y".to_owned(), " z".to_owned(), false));
        assert_eq!(text("", "z"), (String::new(), "z".to_owned(), false));
    }

    #[test]
    fn a_token_across_the_border_belongs_to_the_target_and_is_told() {
        assert_eq!(text("xya", "b z"), ("xy".to_owned(), "ab z".to_owned(), true));
        assert_eq!(text("xa", "b"), ("x".to_owned(), "ab".to_owned(), true));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_a_target_keeps_a_token(context in "[abx ]{0,12}", target in "[abx ]{1,8}") {
            let split = split(&Words, &context, &target).unwrap();
            let whole = Words.encode(&format!("{context}{target}")).unwrap();
            prop_assert_eq!([split.context.clone(), split.target.clone()].concat(), whole);
            prop_assert!(!split.target.is_empty());
            let begin = Words.decode(&split.context).unwrap();
            prop_assert!(context.trim_end().starts_with(&begin));
            prop_assert_eq!(split.joined, begin.len() < context.trim_end().len());
        }

        #[test]
        fn windows_score_every_token_once_with_as_much_context_as_fits(
            context in 1usize..20, target in 0usize..60, length in 1usize..12,
        ) {
            let all: Vec<u32> = (0..(context + target) as u32).collect();
            let (windows, cut) = windows(&all[..context], &all[context..], length);
            let scored: Vec<u32> = windows.iter().flat_map(|window| window.target.clone()).collect();
            prop_assert_eq!(scored, all[context..].to_vec());
            prop_assert_eq!(cut, if target <= length { context + target > length + 1 } else { context > 1 });
            for (place, window) in windows.iter().enumerate() {
                prop_assert!(!window.context.is_empty());
                let tokens = window.context.len() + window.target.len();
                prop_assert!(tokens <= length + 1);
                prop_assert!(tokens == length + 1 || (place == 0 && !cut));
                let begin = window.context[0];
                let run: Vec<u32> = (begin..begin + tokens as u32).collect();
                prop_assert_eq!([window.context.clone(), window.target.clone()].concat(), run);
            }
        }
    }
}
