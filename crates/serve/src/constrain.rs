//! Texts that must have a form: a JSON schema or one of some choices.
//!
//! ```text
//!  schema ──compile──▶ Grammar (byte automaton with calls) ──┐
//!  tokenizer ──▶ Trie (all tokens by their bytes) ───────────┴──▶ which tokens may come next
//! ```
//! A token may come next when its bytes lead somewhere; whole branches of the trie fall away with their first byte.

mod automaton;
mod grammar;
mod json;
mod schema;
mod trie;

pub(crate) use grammar::{Grammar, choices};
pub(crate) use json::Json;
pub(crate) use schema::{any_object, compile};
pub(crate) use trie::Trie;

use automaton::Automaton;
use std::collections::HashMap;
use std::sync::Arc;
use triax_infer::Filter;

/// Masks kept for a text: a vocabulary of 150,000 has masks of 19 kB.
const MASKS: usize = 256;

/// A text on its way through a grammar.
pub(crate) struct Constraint {
    automaton: Automaton,
    trie: Arc<Trie>,
    /// Ids that end a text; they may come where the grammar is complete.
    ends: Vec<u32>,
    state: u32,
    /// Allowed tokens by state, one bit each: inside a string the state stays the same.
    masks: HashMap<u32, Arc<Vec<u64>>>,
}

impl Constraint {
    pub(crate) fn new(grammar: Arc<Grammar>, trie: Arc<Trie>, ends: Vec<u32>) -> Self {
        let (automaton, state) = Automaton::new(grammar);
        Self { automaton, trie, ends, state, masks: HashMap::new() }
    }

    fn mask(&mut self) -> Arc<Vec<u64>> {
        if let Some(state) = self.automaton.shed(self.state) {
            self.state = state;
            self.masks.clear();
        }
        if let Some(mask) = self.masks.get(&self.state) {
            return Arc::clone(mask);
        }
        let mut mask = vec![0u64; self.trie.ids().div_ceil(64)];
        let mut allow = |id: u32| mask[id as usize / 64] |= 1 << (id % 64);
        // Depth first: a node of the trie with the state that its bytes lead to.
        let mut open = vec![(self.trie.root(), self.state)];
        while let Some((node, state)) = open.pop() {
            for (byte, child) in self.trie.children(node) {
                let next = self.automaton.step(state, byte);
                if next != Automaton::DEAD {
                    self.trie.tokens(child).iter().for_each(|&id| allow(id));
                    open.push((child, next));
                }
            }
        }
        if self.automaton.may_end(self.state) {
            self.ends.iter().filter(|&&id| (id as usize) < self.trie.ids()).for_each(|&id| allow(id));
        }
        let mask = Arc::new(mask);
        if self.masks.len() == MASKS {
            self.masks.clear();
        }
        self.masks.insert(self.state, Arc::clone(&mask));
        mask
    }
}

impl Filter for Constraint {
    fn forbid(&mut self, logits: &mut [f32]) {
        let mask = self.mask();
        for (id, logit) in logits.iter_mut().enumerate() {
            if mask.get(id / 64).is_none_or(|word| word >> (id % 64) & 1 == 0) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn accept(&mut self, token: u32) -> bool {
        for &byte in self.trie.bytes(token) {
            self.state = self.automaton.step(self.state, byte);
        }
        // Nothing may follow; where something may, an end token decides. A dead state, which only a token
        // outside the mask leads to, ends too.
        self.automaton.must_end(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::vocabulary;
    use serde_json::{Value, json};

    use triax_infer::{Sampler, Sampling};

    fn schema(text: &str) -> Grammar {
        compile(&serde_json::from_str(text).unwrap()).unwrap()
    }

    /// A text drawn from even logits under the constraint; none where it did not end.
    fn draw(grammar: Grammar, seed: u64) -> Option<String> {
        let vocabulary = vocabulary();
        let ends = vec![vocabulary.end().unwrap()];
        let mut constraint = Constraint::new(Arc::new(grammar), vocabulary.trie(), ends.clone());
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut bytes = Vec::new();
        for position in 0..4000 {
            // Quotes and ends are likelier, so that strings come to an end.
            let mut logits: Vec<f32> = (0..vocabulary.len() as u32)
                .map(|id| if b"\"]},0".contains(&vocabulary.bytes(id)[0]) { 3.0 } else { 0.0 })
                .collect();
            constraint.forbid(&mut logits);
            let token = sampler.draw(&logits, position).unwrap();
            assert!(logits[token as usize] > f32::NEG_INFINITY, "nothing is allowed after {bytes:?}");
            if ends.contains(&token) {
                return Some(String::from_utf8(bytes).unwrap());
            }
            bytes.extend_from_slice(vocabulary.bytes(token));
            if constraint.accept(token) {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        None
    }

    #[test]
    fn texts_of_a_schema_are_json_of_the_schema() {
        // As text: the order of its properties counts.
        let form = r#"{
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 6},
                "kind": {"enum": ["cat", "dog", 3, null]},
                "age": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}
            },
            "required": ["name", "kind", "tags"],
            "additionalProperties": false
        }"#;
        for seed in 0..60 {
            let text = draw(schema(form), seed).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let length = value["name"].as_str().unwrap().chars().count();
            assert!((1..=6).contains(&length), "{text}");
            assert!([json!("cat"), json!("dog"), json!(3), json!(null)].contains(&value["kind"]), "{text}");
            let tags = value["tags"].as_array().unwrap();
            assert!((1..=3).contains(&tags.len()) && tags.iter().all(Value::is_boolean), "{text}");
            assert!(value.get("age").is_none_or(Value::is_i64), "{text}");
            let place = |name| text.find(name).unwrap();
            assert!(
                place("\"name\":") < place("\"kind\":") && place("\"kind\":") < place("\"tags\":"),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_of_recursive_schemas_and_any_object_are_json() {
        let tree = r##"{
            "$ref": "#/$defs/tree",
            "$defs": {"tree": {
                "type": "object",
                "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                               "value": {"type": "number"}},
                "required": ["left", "value"]
            }}
        }"##;
        let mut ended = 0;
        for seed in 0..30 {
            for grammar in [schema(tree), any_object()] {
                if let Some(text) = draw(grammar, seed) {
                    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                    assert!(value.is_object());
                    ended += 1;
                }
            }
        }
        assert!(ended > 20, "{ended} texts ended");
    }

    #[test]
    fn a_choice_is_one_of_the_choices_even_where_one_begins_another() {
        let of: Vec<String> = ["the cat", "the cat sat", "你好", "dog"].map(String::from).to_vec();
        let mut seen = std::collections::HashSet::new();
        for seed in 0..100 {
            let text = draw(choices(&of), seed).unwrap();
            assert!(of.contains(&text), "{text}");
            seen.insert(text);
        }
        assert_eq!(seen.len(), of.len());
    }
}
