//! What the demo asks its network to continue.

use super::corpus::Source;

/// For the sources of cargo's registry.
const PROMPTS: [(&str, &str); 4] = [
    ("rust", "/// Returns the number of elements in the list.\npub fn len(&self) -> "),
    ("rust", "impl<T> Iterator for "),
    ("prose", "# Usage\n\nAdd this to your `Cargo.toml`:\n"),
    ("other", "[package]\nname = \""),
];

/// Most bytes of a prompt taken from held-out text.
const LENGTH: usize = 100;

/// Fixed prompts for known sources; for others the beginning of a held-out text.
pub(crate) fn prompts(sources: &[Source], is_registry: bool) -> Vec<String> {
    if is_registry {
        let known = |name: &str| sources.iter().any(|source| source.name == name);
        return PROMPTS.iter().filter(|(name, _)| known(name)).map(|(_, text)| (*text).to_owned()).collect();
    }
    let first = |source: &Source| source.held_out.first().map(|text| beginning(text).to_owned());
    sources.iter().filter_map(first).filter(|prompt| !prompt.is_empty()).take(4).collect()
}

/// At most [`LENGTH`] bytes, ended before a space where there is one.
fn beginning(text: &str) -> &str {
    let text = text.trim_start();
    if text.len() <= LENGTH {
        return text.trim_end();
    }
    let end = (0..=LENGTH).rev().find(|&place| text.is_char_boundary(place)).unwrap_or(0);
    let head = &text[..end];
    head.rfind(char::is_whitespace).map_or(head, |space| &head[..space]).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_ends_with_a_whole_word_and_a_whole_character() {
        assert_eq!(beginning(&"word ".repeat(50)), "word ".repeat(20).trim_end());
        assert_eq!(beginning(&"红".repeat(50)), "红".repeat(33));
        assert_eq!(beginning("  short "), "short");
    }
}
