//! The character classes behind spaCy's English rules: what is cut off at a word's ends, what splits it inside.

use std::sync::LazyLock;

use crate::filters::characters::{CharacterSet, Ranges};

/// Cut off at both ends of a word, one at a time.
pub(super) static PUNCTUATION: LazyLock<CharacterSet> = LazyLock::new(|| {
    CharacterSet::new("….,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪".chars().filter(|&c| c != '.'))
});

pub(super) static QUOTES: LazyLock<CharacterSet> =
    LazyLock::new(|| CharacterSet::new("'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧".chars()));

/// Cut off before a word; after one only where a digit stands before it.
pub(super) static CURRENCY: LazyLock<CharacterSet> =
    LazyLock::new(|| CharacterSet::new("$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿".chars()));

/// Cut off after a digit: 5km, 20%, 3MB.
pub(super) const UNITS: &[&str] = &[
    "%", "+", "A$", "C$", "G", "GB", "K", "KB", "Kb", "M", "MB", "Pa", "T", "TB", "US$", "cm", "cm²", "cm³",
    "dm", "dm²", "dm³", "ft", "g", "gb", "ha", "hPa", "in", "kb", "kg", "km", "km/h", "km²", "km³", "kmh",
    "lb", "m", "m/s", "mb", "mbar", "mg", "mm", "mm²", "mm³", "mph", "m²", "m³", "nm", "oz", "t", "tb", "yd",
    "µg", "µm", "Гб", "ГБ", "К", "КБ", "Кб", "Мб", "МБ", "Па", "ТБ", "г", "гб", "дм", "дм²", "дм³", "кПа",
    "кб", "кг", "км", "км/ч", "км²", "км³", "м", "м/с", "мбар", "мб", "мг", "мм", "мм²", "мм³", "м²", "м³",
    "нм", "см", "см²", "см³",
];

/// Symbols and emoji: Unicode's category So.
pub(super) fn is_icon(c: char) -> bool {
    static ICONS: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"\p{So}"));
    c >= '\u{a6}' && ICONS.contains(c)
}

/// A letter by spaCy's ranges, which count the punctuation block of the CJK scripts in.
pub(super) fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && (c.is_alphabetic() || matches!(c, '\u{2E80}'..='\u{303F}')))
}

/// Lower case, or of a script without case.
pub(super) fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || (!c.is_ascii() && is_alpha(c) && !c.is_uppercase())
}

/// Upper case, or of a script without case.
pub(super) fn is_upper(c: char) -> bool {
    c.is_ascii_uppercase() || (!c.is_ascii() && is_alpha(c) && !c.is_lowercase())
}
