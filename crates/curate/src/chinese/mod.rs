//! Steps for Chinese text, where no rule of English holds: script and characters, normal forms, garbled text, lines and
//! sentences, lists of words by class, repetition. The classes that lists cannot tell are the trained classifier's
//! ([`crate::classifier`]).
//!
//! Yuan's two stages are made of them: the coarse one of script, garbled, lines, word lists and repetition, the fine one
//! of the classifier and the perplexity.

pub mod garbled;
pub mod lines;
pub mod normalize;
pub mod repetition;
pub mod script;
pub mod word_lists;
