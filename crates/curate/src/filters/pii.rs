//! Masking what identifies people: e-mail addresses, public IPv4 addresses, telephone numbers; for Chinese, mobile
//! numbers, identity numbers and QQ numbers. Replacements take turns within one document, so that a document's masks do
//! not depend on the documents before it.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// What is masked, and by what. Each kind's replacements take turns; none switch the kind off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PiiConfig {
    pub email: Vec<String>,
    /// Only addresses of the public Internet.
    pub ipv4: Vec<String>,
    /// International and North American forms with separators: "+44 20 7946 0018", "(555) 010-4477".
    pub phone: Vec<String>,
    /// Chinese mobile numbers: 11 digits from 13 to 19.
    pub chinese_mobile: Vec<String>,
    /// Chinese identity numbers: 18 digits with a right check digit.
    pub chinese_identity: Vec<String>,
    /// QQ and WeChat numbers after their names.
    pub qq: Vec<String>,
}

impl Default for PiiConfig {
    fn default() -> Self {
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Self {
            // Domains kept for examples; addresses that FineWeb found to answer nothing.
            email: list(&["email@example.com", "firstname.lastname@example.org"]),
            ipv4: list(&[
                "22.214.171.124",
                "126.96.36.199",
                "188.8.131.52",
                "184.108.40.206",
                "220.127.116.11",
                "18.104.22.168",
            ]),
            phone: Vec::new(),
            chinese_mobile: Vec::new(),
            chinese_identity: Vec::new(),
            qq: Vec::new(),
        }
    }
}

impl PiiConfig {
    /// Everything masked, as for Chinese web text.
    pub fn chinese() -> Self {
        let one = |item: &str| vec![item.to_owned()];
        Self {
            phone: one("<电话>"),
            chinese_mobile: one("<手机号>"),
            chinese_identity: one("<身份证号>"),
            qq: one("<QQ号>"),
            ..Self::default()
        }
    }

    pub const fn build(self) -> Pii {
        Pii { config: self }
    }
}

/// The step `pii`: edits, never removes.
#[derive(Debug)]
pub struct Pii {
    config: PiiConfig,
}

/// One kind of thing to mask.
struct Kind {
    pattern: LazyLock<Regex>,
    /// A byte that every match has: texts without it need no search.
    needs: &'static [u8],
    /// Whether a match is one, given the characters around it.
    valid: fn(Option<char>, &str, Option<char>) -> bool,
}

static EMAIL: Kind = Kind {
    pattern: LazyLock::new(|| {
        Regex::new(concat!(
            r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@",
            r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?",
        ))
        .expect("a constant pattern")
    }),
    needs: b"@",
    valid: |_, _, _| true,
};

static IPV4: Kind = Kind {
    pattern: LazyLock::new(|| {
        Regex::new(concat!(
            r"(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}",
            r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)",
        ))
        .expect("a constant pattern")
    }),
    needs: b".",
    valid: |_, address, _| is_public(address),
};

static PHONE: Kind = Kind {
    pattern: LazyLock::new(|| {
        Regex::new(concat!(
            r"\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{2,4}\)?){2,4}|",
            r"\([0-9]{3}\) ?[0-9]{3}[ .-][0-9]{4}|[0-9]{3}[ .-][0-9]{3}[ .-][0-9]{4}|",
            r"0[0-9]{2,3}-[0-9]{7,8}",
        ))
        .expect("a constant pattern")
    }),
    needs: b"+-.)",
    valid: |before, number, after| {
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        (8..=15).contains(&digits) && stands_alone(before) && stands_alone(after)
    },
};

static CHINESE_MOBILE: Kind = Kind {
    pattern: LazyLock::new(|| {
        Regex::new(r"(?:\+?86[ -]?)?1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4})")
            .expect("a constant pattern")
    }),
    needs: b"1",
    valid: |before, _, after| stands_alone(before) && stands_alone(after),
};

static CHINESE_IDENTITY: Kind = Kind {
    pattern: LazyLock::new(|| Regex::new(r"[1-9][0-9]{16}[0-9Xx]").expect("a constant pattern")),
    needs: b"0123456789",
    valid: |before, number, after| stands_alone(before) && stands_alone(after) && identity_checks(number),
};

static QQ: Kind = Kind {
    pattern: LazyLock::new(|| {
        Regex::new(r"(?i:qq|扣扣|企鹅|微信|vx|wechat)(?:群|号|号码)?[ :：]{0,3}[1-9][0-9]{4,10}")
            .expect("a constant pattern")
    }),
    needs: b"0123456789",
    valid: |_, _, after| stands_alone(after),
};

fn stands_alone(neighbour: Option<char>) -> bool {
    !neighbour.is_some_and(|c| c.is_ascii_alphanumeric())
}

/// An IPv4 address that is routed in the public Internet; octets have no leading zeros.
fn is_public(address: &str) -> bool {
    let Ok(address) = address.parse::<std::net::Ipv4Addr>() else { return false };
    let [a, b, c, d] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = (a, b, c) == (192, 0, 0) && !matches!(d, 9 | 10);
    let benchmark = a == 198 && matches!(b, 18 | 19);
    !(a == 0
        || a >= 240
        || shared
        || protocol
        || benchmark
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

/// The check digit of an identity number (ISO 7064, MOD 11-2), and a month and day that can be.
fn identity_checks(number: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let digits: Vec<u32> = number.bytes().map(|byte| u32::from(byte.wrapping_sub(b'0'))).collect();
    let sum: u32 = WEIGHTS.iter().zip(&digits).map(|(weight, digit)| weight * digit).sum();
    let check = b"10X98765432"[(sum % 11) as usize];
    let (month, day) = (digits[10] * 10 + digits[11], digits[12] * 10 + digits[13]);
    number.as_bytes()[17].to_ascii_uppercase() == check
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
}

impl Kind {
    /// Replaces every match in `text`, using `edited` as the new text's buffer.
    fn mask(&self, text: &mut String, edited: &mut String, replacements: &[String]) {
        if replacements.is_empty() || !text.bytes().any(|byte| self.needs.contains(&byte)) {
            return;
        }
        let (mut copied, mut turn) = (0, 0);
        edited.clear();
        for found in self.pattern.find_iter(text) {
            let (before, after) =
                (text[..found.start()].chars().next_back(), text[found.end()..].chars().next());
            if (self.valid)(before, found.as_str(), after) {
                edited.push_str(&text[copied..found.start()]);
                edited.push_str(&replacements[turn % replacements.len()]);
                (copied, turn) = (found.end(), turn + 1);
            }
        }
        if turn > 0 {
            edited.push_str(&text[copied..]);
            std::mem::swap(text, edited);
        }
    }
}

impl Filter for Pii {
    fn name(&self) -> &'static str {
        "pii"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let config = &self.config;
        // Identity numbers before mobile numbers, which could be a part of them.
        for (kind, replacements) in [
            (&EMAIL, &config.email),
            (&IPV4, &config.ipv4),
            (&CHINESE_IDENTITY, &config.chinese_identity),
            (&QQ, &config.qq),
            (&CHINESE_MOBILE, &config.chinese_mobile),
            (&PHONE, &config.phone),
        ] {
            kind.mask(&mut document.text, &mut scratch.edited, replacements);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::edited;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_masked_in_turn() {
        let masked = |text: &str| edited(&PiiConfig::default().build(), text);
        assert_eq!(
            masked("Write to ann@mail.net, bob.b@a-b.co.uk or carl+x@d.org."),
            "Write to email@example.com, firstname.lastname@example.org or email@example.com."
        );
        assert_eq!(masked("At 8.8.8.8, 9.9.9.9."), "At 22.214.171.124, 126.96.36.199.");
        for kept in
            ["no @ here", "192.168.0.1 10.1.2.3 127.0.0.1 172.20.1.1 100.64.0.1 0.1.2.3", "01.2.3.4 1.2.3"]
        {
            assert_eq!(masked(kept), kept);
        }
    }

    #[test]
    fn chinese_numbers_are_masked() {
        let masked = |text: &str| edited(&PiiConfig::chinese().build(), text);
        assert_eq!(masked("联系13912345678或139-1234-5678。"), "联系<手机号>或<手机号>。");
        assert_eq!(masked("加QQ群：123456789，微信 88888888"), "加<QQ号>，<QQ号>");
        assert_eq!(masked("证号11010519491231002X。"), "证号<身份证号>。");
        assert_eq!(masked("电话010-82345678，+44 20 7946 0018"), "电话<电话>，<电话>");
        for kept in
            ["编号110105194912310021。", "订单2139123456789", "1234567890123456789", "2023-01-02 12:30:45"]
        {
            assert_eq!(masked(kept), kept, "no check digit, a longer number, a date");
        }
    }

    proptest! {
        /// After masking, every match that is left has a replacement in its run without spaces: a mask may join what
        /// stood beside the masked part to a new address, such as `0.2` and `22.214.171.124`, and a later kind of mask may cut
        /// such a joint in two.
        #[test]
        fn masks_leave_no_match(text in "[a-z0-9@.+ ()QWq：手1350-]{0,60}|([0-9]{1,3}[.]){0,8}[0-9]{1,3}|\\PC{0,40}") {
            let filter = PiiConfig::chinese().build();
            let once = edited(&filter, &text);
            let Pii { config: PiiConfig { email, ipv4, phone, .. } } = &filter;
            for kind in [&EMAIL, &IPV4] {
                for found in kind.pattern.find_iter(&once).filter(|found| (kind.valid)(None, found.as_str(), None)) {
                    let outside = |c: char| c.is_whitespace();
                    let start = once[..found.start()].rfind(outside).unwrap_or(0);
                    let end = once[found.end()..].find(outside).map_or(once.len(), |place| found.end() + place);
                    let run = &once[start..end];
                    let known = [email, ipv4, phone].iter().copied().flatten().any(|mask| run.contains(mask.as_str()));
                    prop_assert!(known, "{} in {once} of {text}", found.as_str());
                }
            }
            for kind in [&CHINESE_MOBILE, &CHINESE_IDENTITY, &QQ] {
                for found in kind.pattern.find_iter(&once) {
                    let (before, after) = (once[..found.start()].chars().next_back(), once[found.end()..].chars().next());
                    prop_assert!(!(kind.valid)(before, found.as_str(), after), "{} in {once}", found.as_str());
                }
            }
        }
    }
}
