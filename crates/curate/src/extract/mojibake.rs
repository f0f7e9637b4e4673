//! Undoes UTF-8 that was read as Windows-1252, the commonest damage: "Ã©" → "é", "â€™" → "’".
//!
//! ```text
//! run of characters that Windows-1252 has beyond ASCII ──encode──▶ bytes ──UTF-8?──▶ what was meant
//! ```
//! A text is touched only where more such runs are UTF-8 than are not: a French text has hundreds of runs ("é") that
//! are not UTF-8, and one that is by accident stays.

use encoding_rs::WINDOWS_1252;

/// Damage may have happened twice.
const ROUNDS: usize = 3;

/// The repaired text, or none where there is nothing to repair.
pub fn repair(text: &str) -> Option<String> {
    let mut repaired = None;
    for _ in 0..ROUNDS {
        match once(repaired.as_deref().unwrap_or(text)) {
            Some(next) => repaired = Some(next),
            None => break,
        }
    }
    repaired
}

fn once(text: &str) -> Option<String> {
    // Each first character of such damage is the lead byte of a UTF-8 sequence.
    if !text
        .contains(['Â', 'Ã', 'â', 'Å', 'Ä', 'Ð', 'Ñ', 'Î', 'Ï', 'ã', 'ä', 'å', 'æ', 'ç', 'è', 'é', 'ð', 'ï'])
    {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let (mut meant, mut literal) = (0, 0);
    let mut rest = text;
    while let Some(start) = rest.find(is_high) {
        out.push_str(&rest[..start]);
        let length = rest[start..].find(|c| !is_high(c)).unwrap_or(rest.len() - start);
        let run = &rest[start..start + length];
        match decode(run) {
            Some(text) => {
                meant += 1;
                out.push_str(&text);
            }
            None => {
                literal += 1;
                out.push_str(run);
            }
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    (meant > literal).then_some(out)
}

/// What the run's bytes mean as UTF-8.
fn decode(run: &str) -> Option<String> {
    let (bytes, _, has_errors) = WINDOWS_1252.encode(run);
    if has_errors || bytes.len() < 2 {
        return None;
    }
    String::from_utf8(bytes.into_owned()).ok()
}

/// Characters of the upper half of Windows-1252, holes as the control characters of ISO 8859-1.
fn is_high(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{ff}')
        || matches!(
            c,
            '€' | '‚'
                | 'ƒ'
                | '„'
                | '…'
                | '†'
                | '‡'
                | 'ˆ'
                | '‰'
                | 'Š'
                | '‹'
                | 'Œ'
                | 'Ž'
                | '‘'
                | '’'
                | '“'
                | '”'
                | '•'
                | '–'
                | '—'
                | '˜'
                | '™'
                | 'š'
                | '›'
                | 'œ'
                | 'ž'
                | 'Ÿ'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn damage(text: &str) -> String {
        WINDOWS_1252.decode_without_bom_handling(text.as_bytes()).0.into_owned()
    }

    #[test]
    fn damage_once_and_twice_is_undone() {
        for text in ["It’s “fine” – café naïve", "Привет, мир", "中文网页", "5 £ · 10 €", "emoji 😀!"]
        {
            let once = damage(text);
            assert_eq!(repair(&once).as_deref(), Some(text));
            assert_eq!(repair(&damage(&once)).as_deref(), Some(text));
        }
    }

    #[test]
    fn sound_texts_are_left_alone() {
        for text in [
            "",
            "plain ASCII",
            "Où est l’été ? À côté, déjà vu : « oui » – 100 €",
            "Ação, coração, NÃO, PÃO",
            "Straße, Übermut, Ärger — „gut“",
            "中文网页，编码正确。",
            "A naïve text that quotes Ã© in a café, à la carte",
        ] {
            assert_eq!(repair(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_damaged_comes_back(text in "([a-z ]{1,5}[à-öø-ÿ’“”—Ѐ-я一-龥]{1,3}){1,6}") {
            prop_assume!(repair(&text).is_none());
            prop_assert_eq!(repair(&damage(&text)), Some(text));
        }
    }
}
