//! Block lists over a document's address: domains, whole addresses, words, and parts of words (RefinedWeb's lists as
//! datatrove reads them).

use std::path::PathBuf;

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{FilterError, read_list};
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Files of one entry a line ("#" begins a comment). datatrove's wheel has such files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UrlConfig {
    /// Domains, registered ones with all that is below them, or single hosts.
    pub domains: Vec<PathBuf>,
    /// Whole addresses.
    pub urls: Vec<PathBuf>,
    /// Words, one of which removes; between anything but letters and digits.
    pub banned_words: Vec<PathBuf>,
    /// Words, `soft_word_threshold` different ones of which remove.
    pub soft_banned_words: Vec<PathBuf>,
    pub soft_word_threshold: usize,
    /// Strings that remove anywhere in the address's letters and digits.
    pub banned_subwords: Vec<PathBuf>,
    /// Remove documents without an address.
    pub require_url: bool,
}

impl Default for UrlConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            urls: Vec::new(),
            banned_words: Vec::new(),
            soft_banned_words: Vec::new(),
            soft_word_threshold: 2,
            banned_subwords: Vec::new(),
            require_url: false,
        }
    }
}

impl UrlConfig {
    /// # Errors
    /// If a list cannot be read.
    pub fn build(self) -> Result<Url, FilterError> {
        let all = |files: &[PathBuf]| {
            files
                .iter()
                .map(|file| read_list(file))
                .collect::<Result<Vec<_>, _>>()
                .map(|lists| lists.concat())
        };
        let words =
            |files: &[PathBuf]| all(files).map(|list| Hashes::new(list.iter().map(|word| squeezed(word))));
        let subwords: Vec<_> = all(&self.banned_subwords)?.iter().map(|word| squeezed(word)).collect();
        let subwords =
            AhoCorasick::new(subwords.iter().filter(|word| !word.is_empty())).map_err(|error| {
                FilterError::List { path: "banned_subwords".to_owned(), problem: error.to_string() }
            })?;
        Ok(Url {
            domains: Hashes::new(all(&self.domains)?),
            urls: Hashes::new(all(&self.urls)?),
            banned_words: words(&self.banned_words)?,
            soft_banned_words: words(&self.soft_banned_words)?,
            subwords,
            config: self,
        })
    }
}

/// The filter `url`.
#[derive(Debug)]
pub struct Url {
    config: UrlConfig,
    domains: Hashes,
    urls: Hashes,
    banned_words: Hashes,
    soft_banned_words: Hashes,
    subwords: AhoCorasick,
}

/// A set of strings as sorted hashes: millions of domains at eight bytes each.
#[derive(Debug)]
struct Hashes(Vec<u64>);

impl Hashes {
    fn new(items: impl IntoIterator<Item = String>) -> Self {
        let mut hashes: Vec<_> = items.into_iter().map(|item| xxh3_64(item.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    fn contains(&self, item: &str) -> bool {
        self.0.binary_search(&xxh3_64(item.as_bytes())).is_ok()
    }
}

/// Letters and digits, in lower case.
fn squeezed(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The host of an address, in lower case, without user, port and last dot.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The part of a host that someone registered: its last two labels, or three below a country's second-level suffix
/// ("co.uk", "com.cn", "ac.jp"), which are recognised by their names.
fn registered(host: &str) -> &str {
    const SECOND_LEVEL: &[&str] = &[
        "ac", "co", "com", "edu", "gob", "gov", "govt", "gouv", "id", "ltd", "me", "mil", "ne", "net", "nom",
        "or", "org", "plc", "sch",
    ];
    let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
    let (Some(last), Some(second)) = (dots.next(), dots.next()) else { return host };
    let country = host.len() - last - 1 == 2;
    if country && SECOND_LEVEL.contains(&&host[second + 1..last]) {
        return dots.next().map_or(host, |third| &host[third + 1..]);
    }
    &host[second + 1..]
}

impl Filter for Url {
    fn name(&self) -> &'static str {
        "url"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let Some(url) = document.url.as_deref() else {
            return if self.config.require_url { Verdict::remove("no_url") } else { Verdict::Keep };
        };
        let host = host(url);
        let registered = registered(&host);
        if self.domains.contains(registered) {
            return Verdict::remove_measured("domain", registered);
        }
        if self.domains.contains(&host) {
            return Verdict::remove_measured("subdomain", &host);
        }
        if self.urls.contains(url) {
            return Verdict::remove("url");
        }
        let lower = url.to_ascii_lowercase();
        let words = || lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        if let Some(word) = words().find(|word| self.banned_words.contains(word)) {
            return Verdict::remove_measured("hard_blacklisted", word);
        }
        let mut soft: Vec<_> = words().filter(|word| self.soft_banned_words.contains(word)).collect();
        soft.sort_unstable();
        soft.dedup();
        if self.config.soft_word_threshold > 0 && soft.len() >= self.config.soft_word_threshold {
            return Verdict::remove_measured("soft_blacklisted", soft.join(" "));
        }
        let squeezed = squeezed(url);
        if let Some(found) = self.subwords.find(&squeezed) {
            return Verdict::remove_measured("blacklisted_subword", &squeezed[found.range()]);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{document, label};

    #[test]
    fn each_list_has_its_label() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = |name: &str, lines: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, lines).expect("written");
            vec![path]
        };
        let filter = UrlConfig {
            domains: list("domains", "# blocked\nblocked.org\nbad.fine.net\nshady.co.uk\n"),
            urls: list("urls", "http://ok.net/one\n"),
            banned_words: list("hard", "casino\n"),
            soft_banned_words: list("soft", "bet\nwin\nodds\n"),
            banned_subwords: list("sub", "free-porn\n"),
            ..UrlConfig::default()
        };
        let filter = filter.build().expect("readable lists");
        for (url, expected) in [
            ("https://blocked.org/a", "domain"),
            ("http://www.blocked.org:80/", "domain"),
            ("http://a.shady.co.uk./x", "domain"),
            ("http://me@bad.fine.net/x", "subdomain"),
            ("http://deep.bad.fine.net/x", "keep"),
            ("http://other.co.uk/", "keep"),
            ("http://ok.net/one", "url"),
            ("http://ok.net/one/two", "keep"),
            ("http://ok.net/Casino-night", "hard_blacklisted"),
            ("http://ok.net/casinos", "keep"),
            ("http://ok.net/bet/bet", "keep"),
            ("http://ok.net/win-your-bet", "soft_blacklisted"),
            ("http://ok.net/xfree.porn2", "blacklisted_subword"),
        ] {
            let mut document = document("any text");
            document.url = Some(url.to_owned());
            assert_eq!(label(&filter.apply(&mut document, &mut Scratch::default())), expected, "{url}");
        }
        assert_eq!(label(&filter.apply(&mut document("no address"), &mut Scratch::default())), "keep");
    }
}
