//! Chinese words as jieba cuts them (its dictionary and its hidden Markov model for unknown words).

use std::sync::LazyLock;

use jieba_rs::Jieba;

use crate::filters::text::Word;

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

pub(super) fn segment(text: &str, words: &mut Vec<Word>) {
    for token in JIEBA.cut(text, true) {
        super::push_stripped(text, token.byte_start, token.byte_end, words);
    }
}
