//! FineWeb-2's rules for languages other than English: Gopher's repetition and quality and FineWeb's rules in one step,
//! with limits by language; no rule of English holds for them.

use serde::{Deserialize, Serialize};

use super::fineweb::{FineWeb, FineWebConfig};
use super::gopher_quality::{GopherQuality, GopherQualityConfig};
use super::gopher_repetition::{GopherRepetition, GopherRepetitionConfig};
use super::words::Language;
use super::{FilterError, nearest};
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// FineWeb-2's chain for one language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FineWeb2Config {
    /// Language and script, as FineWeb-2 names its sets: "cmn_Hani", "jpn_Jpan", "deu_Latn", "fra_Latn"; "default" takes
    /// FineWeb's and Gopher's own limits without stop words.
    pub language: String,
}

impl Default for FineWeb2Config {
    fn default() -> Self {
        Self { language: "cmn_Hani".to_owned() }
    }
}

/// The limits of one language.
#[derive(Clone, Copy, Debug)]
pub struct LanguageLimits {
    pub name: &'static str,
    pub words: Language,
    /// Smallest score of the language identifier (GlotLID); for the step `language`.
    pub language_score: f64,
    pub duplicate_lines: f64,
    /// Shares for n = 2, 3, 4.
    pub top_grams: [f64; 3],
    /// Shares for n = 5 to 10.
    pub duplicate_grams: [f64; 6],
    pub punctuated_lines: f64,
    pub newlines_per_word: f64,
    /// Mean word length, least and most.
    pub word_length: [f64; 2],
    pub alphabetic_words: f64,
    /// Two different ones are wanted; empty switches the rule off.
    pub stop_words: &'static str,
}

/// Limits from the configurations published with FineWeb-2.
pub const LANGUAGES: &[LanguageLimits] = &[
    LanguageLimits {
        name: "cmn_Hani",
        words: Language::Chinese,
        language_score: 0.692,
        duplicate_lines: 0.287,
        top_grams: [0.256, 0.201, 0.171],
        duplicate_grams: [0.198, 0.182, 0.167, 0.154, 0.14, 0.127],
        punctuated_lines: 0.106,
        newlines_per_word: 0.178,
        word_length: [1.0, 5.0],
        alphabetic_words: 0.735,
        stop_words: "的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由",
    },
    LanguageLimits {
        name: "jpn_Jpan",
        words: Language::Other,
        language_score: 0.886,
        duplicate_lines: 0.328,
        top_grams: [0.239, 0.196, 0.172],
        duplicate_grams: [0.243, 0.225, 0.207, 0.19, 0.175, 0.159],
        punctuated_lines: 0.096,
        newlines_per_word: 0.13,
        word_length: [1.0, 6.0],
        alphabetic_words: 0.759,
        stop_words: "の に を は た て が と で 年 し ・ 月 れ さ",
    },
    LanguageLimits {
        name: "deu_Latn",
        words: Language::Other,
        language_score: 0.821,
        duplicate_lines: 0.263,
        top_grams: [0.169, 0.153, 0.137],
        duplicate_grams: [0.141, 0.134, 0.126, 0.117, 0.108, 0.098],
        punctuated_lines: 0.0,
        newlines_per_word: 0.152,
        word_length: [0.0, 15.0],
        alphabetic_words: 0.774,
        stop_words: "der und die in von im den des mit das er dem als wurde für",
    },
    LanguageLimits {
        name: "fra_Latn",
        words: Language::Other,
        language_score: 0.824,
        duplicate_lines: 0.264,
        top_grams: [0.161, 0.149, 0.134],
        duplicate_grams: [0.15, 0.141, 0.131, 0.121, 0.111, 0.1],
        punctuated_lines: 0.1,
        newlines_per_word: 0.185,
        word_length: [2.0, 11.0],
        alphabetic_words: 0.812,
        stop_words: "de la le et à en l' des du les est d' un une il dans par au",
    },
    LanguageLimits {
        name: "default",
        words: Language::Other,
        language_score: 0.65,
        duplicate_lines: 0.3,
        top_grams: [0.2, 0.18, 0.16],
        duplicate_grams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1],
        punctuated_lines: 0.12,
        newlines_per_word: 0.3,
        word_length: [0.0, 0.0],
        alphabetic_words: 0.8,
        stop_words: "",
    },
];

impl FineWeb2Config {
    /// # Errors
    /// If the table has no such language.
    pub fn build(self) -> Result<FineWeb2, FilterError> {
        let limits = LANGUAGES.iter().find(|limits| limits.name == self.language).ok_or_else(|| {
            FilterError::UnknownLanguage {
                near: nearest(&self.language, LANGUAGES.iter().map(|limits| limits.name)),
                language: self.language.clone(),
            }
        })?;
        let pairs = |first: usize, shares: &[f64]| (first..).zip(shares.iter().copied()).collect::<Vec<_>>();
        let stop_words: Vec<_> = limits.stop_words.split_whitespace().map(str::to_owned).collect();
        let repetition = GopherRepetitionConfig {
            language: limits.words,
            max_duplicate_paragraphs: 0.0,
            max_duplicate_paragraph_characters: 0.0,
            max_duplicate_lines: limits.duplicate_lines,
            max_duplicate_line_characters: 0.0,
            top_grams: pairs(2, &limits.top_grams),
            duplicate_grams: pairs(5, &limits.duplicate_grams),
        };
        let fineweb = FineWebConfig {
            language: limits.words,
            min_punctuated_lines: limits.punctuated_lines,
            max_short_lines: 999.0,
            max_duplicate_line_characters: 0.1,
            max_newlines_per_word: limits.newlines_per_word,
            ..FineWebConfig::default()
        };
        let quality = GopherQualityConfig {
            language: limits.words,
            min_mean_word_length: limits.word_length[0],
            max_mean_word_length: limits.word_length[1],
            min_alphabetic_words: limits.alphabetic_words,
            min_stop_words: if stop_words.is_empty() { 0 } else { 2 },
            stop_words,
            ..GopherQualityConfig::default()
        };
        Ok(FineWeb2 { repetition: repetition.build(), fineweb: fineweb.build(), quality: quality.build() })
    }
}

/// The filter `fineweb2`.
#[derive(Debug)]
pub struct FineWeb2 {
    repetition: GopherRepetition,
    fineweb: FineWeb,
    quality: GopherQuality,
}

impl Filter for FineWeb2 {
    fn name(&self) -> &'static str {
        "fineweb2"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let steps: [&dyn Filter; 3] = [&self.repetition, &self.fineweb, &self.quality];
        let removed =
            steps.iter().map(|step| step.apply(document, scratch)).find(|verdict| *verdict != Verdict::Keep);
        removed.unwrap_or(Verdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    #[test]
    fn chinese_is_judged_by_chinese_rules() {
        let filter = FineWeb2Config::default().build().expect("a known language");
        let prose = "清晨的港口很安静，渔民们在旧海关楼旁修补渔网，孩子们在木桶之间奔跑，想看看那艘陌生的船。\
            没有人知道它从哪里来，也没有人知道甲板上的灰布下面盖着什么。老人说，三十年前也有过这样一艘船，它在夜里离开，\
            再也没有回来。年轻人不信，他们笑着把绳子系在岸边的石头上，等着潮水慢慢涨起来。";
        assert_eq!(label(&verdict(&filter, prose)), "keep");
        assert_eq!(label(&verdict(&filter, &format!("{}。", &prose[..210]))), "gopher_short_doc");
        assert_eq!(label(&verdict(&filter, &prose.replace('。', "，"))), "line_punct_ratio");
        assert_eq!(label(&verdict(&filter, &"广告联系电话".repeat(40))), "top_2_gram");
    }

    #[test]
    fn an_unknown_language_is_an_error_with_the_nearest() {
        let error = FineWeb2Config { language: "cmn_Hans".to_owned() }.build().expect_err("not in the table");
        assert!(error.to_string().contains("cmn_Hani"), "{error}");
    }
}
