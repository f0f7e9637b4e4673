//! How often each source goes into a blend, and the order of all its documents: pure functions of sizes and a seed.
//!
//! ```text
//! epochs of a source = weight / Σ weights · tokens of the blend / tokens of the source
//! ```
//!
//! MT-NLG's blend shows what this gives: of 270 billion tokens 14.336 % come from Books3, which has 25.7, so that it is
//! seen 1.51 times, and 15.652 % from CC-2021-04, which has 82.6 and of which half is never seen.

use serde::{Deserialize, Serialize};
use triax_data::Permutation;

/// How much of a source is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Relative to the weights of the other sources; all of a blend have one, or none.
    Weight(f64),
    /// Times that each of its documents is seen; of a fraction, that part of them once more.
    Epochs(f64),
}

/// What the plan must know of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    pub name: String,
    pub share: Share,
    pub documents: u64,
    /// With the end-of-document tokens.
    pub tokens: u64,
}

/// One source in a blend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Portion {
    pub name: String,
    pub documents: u64,
    pub tokens: u64,
    pub epochs: f64,
    /// Documents of it in the blend, repeated ones counted each time.
    pub drawn: u64,
}

/// A blend before anything is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlendPlan {
    pub seed: u64,
    pub portions: Vec<Portion>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("a blend needs a source")]
    Empty,
    #[error(
        "source {0:?} says its share in another way than those before it; give all of them weights, or all epochs"
    )]
    Mixed(String),
    #[error("source {name:?}: {value} is no share; it must be a number of 0 or more")]
    Share { name: String, value: String },
    #[error("all weights are 0")]
    NoWeight,
    #[error("source {0:?} has no documents but a share in the blend")]
    NoDocuments(String),
}

/// Divides keys of the two uses of a seed.
const ORDER: u64 = 0x6f72_6465;
const PART: u64 = 0x7061_7274;

impl BlendPlan {
    /// `tokens`: of the whole blend, where shares are weights; without it as many as the sources have together.
    ///
    /// # Errors
    /// When shares are mixed or no numbers, or a source without documents has one.
    pub fn new(sizes: &[Size], tokens: Option<u64>, seed: u64) -> Result<Self, PlanError> {
        let first = sizes.first().ok_or(PlanError::Empty)?;
        let is_weighted = matches!(first.share, Share::Weight(_));
        let (mut weights, mut all) = (0.0, 0u64);
        for size in sizes {
            let (Share::Weight(value) | Share::Epochs(value)) = size.share;
            if matches!(size.share, Share::Weight(_)) != is_weighted {
                return Err(PlanError::Mixed(size.name.clone()));
            }
            if !(value.is_finite() && value >= 0.0) {
                return Err(PlanError::Share { name: size.name.clone(), value: value.to_string() });
            }
            if value > 0.0 && size.tokens == 0 {
                return Err(PlanError::NoDocuments(size.name.clone()));
            }
            weights += value;
            all += size.tokens;
        }
        if weights == 0.0 {
            return Err(PlanError::NoWeight);
        }
        let tokens = tokens.unwrap_or(all) as f64;
        let portion = |size: &Size| {
            let epochs = match size.share {
                Share::Epochs(epochs) => epochs,
                Share::Weight(weight) if weight > 0.0 => weight / weights * tokens / size.tokens as f64,
                Share::Weight(_) => 0.0,
            };
            let drawn = (epochs * size.documents as f64).round() as u64;
            Portion { name: size.name.clone(), documents: size.documents, tokens: size.tokens, epochs, drawn }
        };
        Ok(Self { seed, portions: sizes.iter().map(portion).collect() })
    }

    /// Documents in the blend.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.portions.iter().map(|portion| portion.drawn).sum()
    }

    /// Source and document of every place of the blend, in order. Nothing is stored: each place is computed.
    pub fn order(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut ends = Vec::new();
        let mut parts = Vec::new();
        for (number, portion) in self.portions.iter().enumerate() {
            ends.push(ends.last().copied().unwrap_or(0) + portion.drawn);
            parts.push(Permutation::new(portion.documents.max(1), &[self.seed, PART, number as u64]));
        }
        let size = self.documents();
        let all = Permutation::new(size.max(1), &[self.seed, ORDER]);
        (0..size).map(move |place| {
            let entry = all.apply(place);
            let source = ends.partition_point(|&end| end <= entry);
            let portion = &self.portions[source];
            let entry = entry - (ends[source] - portion.drawn);
            // Whole epochs hold every document; of the last, a part drawn by a permutation of its own.
            let document = match entry / portion.documents < portion.drawn / portion.documents {
                true => entry % portion.documents,
                false => parts[source].apply(entry % portion.documents),
            };
            (source, document)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(name: &str, share: Share, documents: u64, tokens: u64) -> Size {
        Size { name: name.to_owned(), share, documents, tokens }
    }

    #[test]
    fn mt_nlg_sees_its_sources_as_often_as_its_table_says() {
        // Tokens in billions, weights in percent, epochs: the fifteen sources of MT-NLG.
        let table = [
            ("Books3", 25.7, 14.336, 1.51),
            ("OpenWebText2", 14.8, 19.336, 3.53),
            ("Stack Exchange", 11.6, 5.689, 1.32),
            ("PubMed Abstracts", 4.4, 2.897, 1.78),
            ("Wikipedia", 4.2, 4.771, 3.07),
            ("Gutenberg", 2.7, 0.873, 0.87),
            ("BookCorpus2", 1.5, 1.007, 1.81),
            ("NIH ExPorter", 0.3, 0.208, 1.87),
            ("ArXiv", 20.8, 1.359, 0.18),
            ("GitHub", 24.3, 1.588, 0.18),
            ("Pile-CC", 49.8, 9.446, 0.51),
            ("CC-2020-50", 68.7, 13.017, 0.51),
            ("CC-2021-04", 82.6, 15.652, 0.51),
            ("RealNews", 21.9, 8.962, 1.10),
            ("CC-Stories", 5.3, 0.859, 0.44),
        ];
        let sizes: Vec<Size> = table
            .iter()
            .map(|&(name, billions, weight, _)| {
                size(name, Share::Weight(weight), 1_000_000, (billions * 1e9) as u64)
            })
            .collect();
        let plan = BlendPlan::new(&sizes, Some(270_000_000_000), 1).unwrap();
        for (portion, (name, _, _, epochs)) in plan.portions.iter().zip(table) {
            assert!((portion.epochs - epochs).abs() < 0.006, "{name}: {}", portion.epochs);
        }
    }

    proptest! {
        #[test]
        fn every_document_is_seen_as_often_as_its_source_asks(
            sources in prop::collection::vec((1u64..40, 0.0f64..3.5), 1..5), seed in any::<u64>(),
        ) {
            let sizes: Vec<Size> = sources
                .iter()
                .enumerate()
                .map(|(n, &(documents, epochs))| {
                    size(&n.to_string(), Share::Epochs(epochs + 0.01), documents, documents * 10)
                })
                .collect();
            let plan = BlendPlan::new(&sizes, None, seed).unwrap();
            let mut counts: Vec<Vec<u64>> = sources.iter().map(|s| vec![0; s.0 as usize]).collect();
            for (source, document) in plan.order() {
                counts[source][document as usize] += 1;
            }
            for (portion, counts) in plan.portions.iter().zip(counts) {
                let whole = portion.drawn / portion.documents;
                prop_assert!(counts.iter().all(|&count| count == whole || count == whole + 1));
                prop_assert_eq!(counts.iter().sum::<u64>(), portion.drawn);
            }
        }
    }

    #[test]
    fn sources_are_mixed_and_another_seed_mixes_them_otherwise() {
        let sizes = ["a", "b"].map(|name| size(name, Share::Epochs(1.0), 500, 5000));
        let order = |seed| BlendPlan::new(&sizes, None, seed).unwrap().order().collect::<Vec<_>>();
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        // Binomial with mean 250 and standard deviation 11.
        let first_half = order(1)[..500].iter().filter(|(source, _)| *source == 0).count();
        assert!((184..316).contains(&first_half), "{first_half}");
    }

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        let plan = |sizes: &[Size]| BlendPlan::new(sizes, None, 0).unwrap_err().to_string();
        assert!(plan(&[]).contains("needs a source"));
        let (weight, epochs) = (size("a", Share::Weight(1.0), 1, 1), size("b", Share::Epochs(1.0), 1, 1));
        assert!(plan(&[weight, epochs]).contains("\"b\" says its share in another way"));
        assert!(plan(&[size("a", Share::Epochs(f64::NAN), 1, 1)]).contains("NaN"));
        assert!(plan(&[size("a", Share::Weight(0.0), 1, 1)]).contains("all weights are 0"));
        assert!(plan(&[size("a", Share::Epochs(1.0), 0, 0)]).contains("no documents"));
    }
}
