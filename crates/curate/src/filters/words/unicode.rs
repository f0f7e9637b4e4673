//! Words by Unicode's boundary rules (UAX 29), with dictionaries for Japanese, Khmer, Lao, Burmese and Thai.

use std::sync::LazyLock;

use icu_segmenter::WordSegmenter;
use icu_segmenter::options::WordBreakInvariantOptions;

use crate::filters::text::Word;

pub(super) fn segment(text: &str, words: &mut Vec<Word>) {
    static SEGMENTER: LazyLock<icu_segmenter::WordSegmenterBorrowed<'static>> =
        LazyLock::new(|| WordSegmenter::new_dictionary(WordBreakInvariantOptions::default()));
    let mut start = 0;
    for end in SEGMENTER.segment_str(text) {
        if end > start {
            super::push_stripped(text, start, end, words);
            start = end;
        }
    }
}
