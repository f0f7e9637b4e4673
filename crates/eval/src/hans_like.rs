//! A test set in the manner of HANS, of our own making: three heuristics, ten subcases each.
//!
//! It is not the official set, and a score on it is no HANS score; every row says so in its columns `pairID` and
//! `template`. It serves where the official file is not at hand, and to test the reader at full size.

use crate::shots::Stream;
use std::collections::HashSet;
use std::fmt::Write;

/// Heuristic, whether the premise entails the hypothesis, subcase, premise, hypothesis. Slots: `a b c` people, `s` several of the second,
/// `v w` what one does to another, `i` what one does alone, `p` where, `x` what one does to a thing, `y` the same with
/// the thing unsaid.
const SUBCASES: &[(&str, bool, &str, &str, &str)] = &[
    ("lexical_overlap", false, "ln_subject/object_swap", "the a v the b .", "the b v the a ."),
    ("lexical_overlap", false, "ln_preposition", "the a p the b v the c .", "the c v the b ."),
    ("lexical_overlap", false, "ln_relative_clause", "the a that the b v w the c .", "the c w the b ."),
    ("lexical_overlap", false, "ln_passive", "the a was v by the b .", "the a v the b ."),
    ("lexical_overlap", false, "ln_conjunction", "the a v the b and the c .", "the c v the b ."),
    ("lexical_overlap", true, "le_relative_clause", "the a v the b that w the c .", "the b w the c ."),
    ("lexical_overlap", true, "le_around_prepositional_phrase", "the a p the b v the c .", "the a v the c ."),
    ("lexical_overlap", true, "le_around_relative_clause", "the a that the b v w the c .", "the a w the c ."),
    ("lexical_overlap", true, "le_conjunction", "the a and the b v the c .", "the a v the c ."),
    ("lexical_overlap", true, "le_passive", "the a was v by the b .", "the b v the a ."),
    ("subsequence", false, "sn_NP/S", "the a believed the b p the c i .", "the a believed the b ."),
    ("subsequence", false, "sn_PP_on_subject", "the a p the b i .", "the b i ."),
    ("subsequence", false, "sn_relative_clause_on_subject", "the a that v the b i .", "the b i ."),
    ("subsequence", false, "sn_past_participle", "the a v p the b i .", "the a v p the b ."),
    ("subsequence", false, "sn_NP/Z", "after the a left the b p the c i .", "the a left the b ."),
    ("subsequence", true, "se_conjunction", "the a and the b i .", "the b i ."),
    ("subsequence", true, "se_adjective", "happy s v the c .", "s v the c ."),
    ("subsequence", true, "se_understood_object", "the a p the b x .", "the a p the b y ."),
    ("subsequence", true, "se_relative_clause_on_obj", "the a v the b that w the c .", "the a v the b ."),
    ("subsequence", true, "se_PP_on_obj", "the a v the b p the c .", "the a v the b ."),
    ("constituent", false, "cn_embedded_under_if", "if the a i , the b v the c .", "the a i ."),
    ("constituent", false, "cn_after_if_clause", "if the a i , the b v the c .", "the b v the c ."),
    (
        "constituent",
        false,
        "cn_embedded_under_verb",
        "the a believed that the b v the c .",
        "the b v the c .",
    ),
    ("constituent", false, "cn_disjunction", "the a i , or the b v the c .", "the a i ."),
    ("constituent", false, "cn_adverb", "perhaps the a v the b .", "the a v the b ."),
    ("constituent", true, "ce_embedded_under_since", "because the a i , the b v the c .", "the a i ."),
    ("constituent", true, "ce_after_since_clause", "because the a i , the b v the c .", "the b v the c ."),
    ("constituent", true, "ce_embedded_under_verb", "the a knew that the b v the c .", "the b v the c ."),
    ("constituent", true, "ce_conjunction", "the a i , and the b v the c .", "the a i ."),
    ("constituent", true, "ce_adverb", "certainly the a v the b .", "the a v the b ."),
];

const PEOPLE: [&str; 16] = [
    "doctor",
    "actor",
    "judge",
    "lawyer",
    "manager",
    "student",
    "artist",
    "author",
    "banker",
    "senator",
    "athlete",
    "president",
    "scientist",
    "tourist",
    "professor",
    "engineer",
];
/// Regular, so that the past and the participle are one form.
const TRANSITIVE: [&str; 10] = [
    "admired",
    "helped",
    "thanked",
    "avoided",
    "advised",
    "supported",
    "encouraged",
    "recommended",
    "contacted",
    "introduced",
];
const INTRANSITIVE: [&str; 8] =
    ["slept", "danced", "ran", "arrived", "performed", "waited", "laughed", "shouted"];
const PLACES: [&str; 4] = ["near", "behind", "beside", "next to"];
/// The verb keeps its truth without the object.
const OBJECTS: [(&str, &str); 6] = [
    ("read", "the book"),
    ("painted", "the wall"),
    ("cooked", "the dinner"),
    ("wrote", "the letter"),
    ("sang", "the song"),
    ("cleaned", "the room"),
];

/// The columns of the official file.
const HEADER: &str = "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t\
                      sentence2_parse\tsentence1\tsentence2\tpairID\theuristic\tsubcase\ttemplate\n";

/// A file in the official columns (parses left empty) with `rows` different rows for each of the thirty subcases.
pub fn hans_like(rows: usize, seed: u64) -> String {
    let mut text = HEADER.to_owned();
    let mut number = 0;
    for (heuristic, entails, subcase, premise, hypothesis) in SUBCASES {
        let mut stream = Stream::new(&format!("hans-like/{seed}/{subcase}"));
        let mut seen = HashSet::new();
        // The smallest subcase has 16 · 15 · 8 rows; a request for more ends with what there is.
        let mut attempts = 0;
        while seen.len() < rows && attempts < 100 * rows {
            attempts += 1;
            let words = Words::draw(&mut stream);
            let pair = (words.fill(premise), words.fill(hypothesis));
            if seen.insert(pair.clone()) {
                let label = if *entails { "entailment" } else { "non-entailment" };
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "{label}\t\t\t\t\t{}\t{}\ttriax-like-{number}\t{heuristic}\t{subcase}\ttriax",
                    pair.0, pair.1
                );
                number += 1;
            }
        }
    }
    text
}

/// What the slots of one row hold.
struct Words {
    people: [&'static str; 3],
    transitive: [&'static str; 2],
    intransitive: &'static str,
    place: &'static str,
    object: (&'static str, &'static str),
}

impl Words {
    fn draw(stream: &mut Stream) -> Self {
        let people = stream.some_of(PEOPLE.len(), 3);
        let transitive = stream.some_of(TRANSITIVE.len(), 2);
        Self {
            people: [people[0], people[1], people[2]].map(|place| PEOPLE[place]),
            transitive: [transitive[0], transitive[1]].map(|place| TRANSITIVE[place]),
            intransitive: INTRANSITIVE[stream.below(INTRANSITIVE.len())],
            place: PLACES[stream.below(PLACES.len())],
            object: OBJECTS[stream.below(OBJECTS.len())],
        }
    }

    fn fill(&self, pattern: &str) -> String {
        let mut text = String::new();
        for word in pattern.split(' ') {
            let filled = match word {
                "a" => self.people[0],
                "b" | "s" => self.people[1],
                "c" => self.people[2],
                "v" => self.transitive[0],
                "w" => self.transitive[1],
                "i" => self.intransitive,
                "p" => self.place,
                "x" | "y" => self.object.0,
                word => word,
            };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(filled);
            match word {
                "s" => text.push('s'),
                "x" => {
                    text.push(' ');
                    text.push_str(self.object.1);
                }
                _ => {}
            }
        }
        text[..1].to_uppercase() + &text[1..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::read;
    use crate::{Renderer, builtin};

    #[test]
    fn the_set_has_the_size_and_balance_of_the_official_one_and_reads_as_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heuristics_evaluation_set.txt");
        std::fs::write(&path, hans_like(1000, 1)).unwrap();
        let task = builtin::task("hans").unwrap();
        let rows = read(&task, &task.test, folder.path()).unwrap().rows;
        assert_eq!(rows.len(), 30_000);
        let renderer = Renderer { task: &task, prompt: &task.prompts["gpt3"] };
        let entailed = rows.iter().filter(|row| renderer.gold(row).unwrap() == 0).count();
        assert_eq!(entailed, 15_000);
        for heuristic in ["lexical_overlap", "subsequence", "constituent"] {
            assert_eq!(rows.iter().filter(|row| row["heuristic"] == heuristic).count(), 10_000);
        }
        let subcases: HashSet<_> = rows.iter().map(|row| row["subcase"].to_string()).collect();
        assert_eq!(subcases.len(), 30);
        assert!(rows.iter().all(|row| row["template"] == "triax"));
    }

    #[test]
    fn every_heuristic_would_fall_for_its_rows() {
        for line in hans_like(20, 3).lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let (premise, hypothesis) = (columns[5].to_lowercase(), columns[6].to_lowercase());
            let of: HashSet<&str> = premise.split(' ').collect();
            assert!(hypothesis.split(' ').all(|word| of.contains(word)), "{line}");
            if columns[8] != "lexical_overlap" {
                assert!(premise.contains(hypothesis.trim_end_matches(" .")), "{line}");
            }
            assert_ne!(premise, hypothesis);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_set() {
        assert_eq!(hans_like(5, 1), hans_like(5, 1));
        assert_ne!(hans_like(5, 1), hans_like(5, 2));
    }
}
