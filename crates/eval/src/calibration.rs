//! Label words to label probabilities: expansion to several words, and contextual calibration.
//!
//! ```text
//! p(w)    = e(w) / Σ e            evidence of each word, made to sum to 1
//! cf(w)   = mean over content-free inputs of p(w), made to sum to 1
//!
//! before: q(l) = agg over w of l of p(w) / cf(w)                 each word by itself, then joined (Yuan 1.0)
//! after:  q(l) = agg over w of l of p(w) / agg over w of l of cf(w)    joined, then calibrated (Zhao et al. 2021)
//! ```
//!
//! A uniform `cf` changes nothing; if `p = prior × evidence` and `cf = prior`, `q` ranks by the evidence.

use serde::{Deserialize, Serialize};

/// Whether words are calibrated before they are joined to labels, or labels after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    #[default]
    None,
    Before,
    After,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationForm {
    /// `p / cf`: W = diag(cf)⁻¹, b = 0.
    #[default]
    Divide,
    /// `p − cf`: W = I, b = −cf.
    Subtract,
}

/// How the words of a label are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expansion {
    /// Only the first word counts.
    #[default]
    First,
    Sum,
    Mean,
    Max,
}

/// Content-free shares below this are raised to it, so that no quotient is infinite.
const LEAST: f64 = 1e-10;

/// One value a word, grouped by label: `sizes[l]` words for label `l`, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Words<'a> {
    pub sizes: &'a [usize],
}

#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// One a label, higher is better; not probabilities.
    pub labels: Vec<f64>,
    /// Words or labels whose content-free share was raised.
    pub guarded: usize,
}

impl Words<'_> {
    /// One value a label.
    pub fn join(&self, words: &[f64], expansion: Expansion) -> Vec<f64> {
        let mut begin = 0;
        self.sizes
            .iter()
            .map(|&size| {
                let of_label = &words[begin..begin + size];
                begin += size;
                match expansion {
                    Expansion::First => of_label[0],
                    Expansion::Sum => of_label.iter().sum(),
                    Expansion::Mean => of_label.iter().sum::<f64>() / size as f64,
                    Expansion::Max => of_label.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                }
            })
            .collect()
    }

    /// The same of logarithms, without leaving them.
    pub fn join_logarithms(&self, words: &[f64], expansion: Expansion) -> Vec<f64> {
        match expansion {
            Expansion::First | Expansion::Max => self.join(words, expansion),
            Expansion::Sum | Expansion::Mean => {
                let highest = words.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let raised: Vec<f64> = words.iter().map(|word| (word - highest).exp()).collect();
                self.join(&raised, expansion).into_iter().map(|label| label.ln() + highest).collect()
            }
        }
    }

    /// `evidence`: one non-negative value a word. `content_free`: the same for each content-free input, at least one.
    /// Neither needs to sum to 1.
    pub fn calibrate(
        &self,
        evidence: &[f64],
        content_free: &[Vec<f64>],
        order: Order,
        form: CalibrationForm,
        expansion: Expansion,
    ) -> Calibrated {
        let each = |words: &[f64]| match order {
            Order::None | Order::Before => normalized(words),
            Order::After => normalized(&self.join(words, expansion)),
        };
        let shares = each(evidence);
        let mut bias = vec![0.0; shares.len()];
        for input in content_free {
            bias.iter_mut().zip(each(input)).for_each(|(sum, share)| *sum += share);
        }
        let bias = normalized(&bias);
        let guarded = bias.iter().filter(|&&share| share < LEAST).count();
        let calibrated: Vec<f64> = shares
            .iter()
            .zip(&bias)
            .map(|(share, bias)| match (order, form) {
                (Order::None, _) => *share,
                (_, CalibrationForm::Divide) => share / bias.max(LEAST),
                (_, CalibrationForm::Subtract) => share - bias,
            })
            .collect();
        let labels = match order {
            Order::After => calibrated,
            Order::None | Order::Before => self.join(&calibrated, expansion),
        };
        Calibrated { labels, guarded: if order == Order::None { 0 } else { guarded } }
    }
}

/// Logarithms to shares of their sum, without overflow.
pub fn shares(logarithms: &[f64]) -> Vec<f64> {
    let highest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        return normalized(&vec![0.0; logarithms.len()]);
    }
    normalized(&logarithms.iter().map(|logarithm| (logarithm - highest).exp()).collect::<Vec<_>>())
}

/// Scaled to sum to 1; all equal where nothing speaks for any.
fn normalized(values: &[f64]) -> Vec<f64> {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        values.iter().map(|value| value / sum).collect()
    } else {
        vec![1.0 / values.len() as f64; values.len()]
    }
}

/// The place of the largest value, the first among equals.
pub fn best(values: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = place;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMS: [CalibrationForm; 2] = [CalibrationForm::Divide, CalibrationForm::Subtract];
    const ORDERS: [Order; 2] = [Order::Before, Order::After];

    /// Up to five labels of up to four words, and evidence for each word.
    fn words() -> impl Strategy<Value = (Vec<usize>, Vec<f64>)> {
        proptest::collection::vec(1usize..=4, 2..=5).prop_flat_map(|sizes| {
            let words: usize = sizes.iter().sum();
            (Just(sizes), proptest::collection::vec(0.01f64..1.0, words))
        })
    }

    fn expansion() -> impl Strategy<Value = Expansion> {
        prop_oneof![Just(Expansion::First), Just(Expansion::Sum), Just(Expansion::Mean), Just(Expansion::Max)]
    }

    /// The largest value leads by more than rounding.
    fn decided(values: &[f64]) -> bool {
        let mut sorted = values.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted[0] - sorted[1] > 1e-9 * sorted[0].abs()
    }

    proptest! {
        #[test]
        fn a_uniform_content_free_prior_changes_nothing(
            (sizes, evidence) in words(), expansion in expansion(), level in 0.01f64..10.0,
        ) {
            let words = Words { sizes: &sizes };
            let raw = words.join(&normalized(&evidence), expansion);
            prop_assume!(decided(&raw));
            for form in FORMS {
                let uniform = vec![level; evidence.len()];
                let before = words.calibrate(&evidence, &[uniform], Order::Before, form, expansion);
                if form == CalibrationForm::Divide || expansion != Expansion::Sum {
                    prop_assert_eq!(best(&before.labels), best(&raw));
                }
            }
            // Joined first, "uniform" means equal labels.
            let equal: Vec<f64> = sizes
                .iter()
                .flat_map(|&size| {
                    let share = if expansion == Expansion::Sum { level / size as f64 } else { level };
                    std::iter::repeat_n(share, size)
                })
                .collect();
            for form in FORMS {
                let after = words.calibrate(&evidence, std::slice::from_ref(&equal), Order::After, form, expansion);
                prop_assert_eq!(best(&after.labels), best(&raw));
            }
        }

        #[test]
        fn dividing_by_the_prior_recovers_the_evidence(
            (sizes, evidence) in words(), prior in proptest::collection::vec(0.01f64..1.0, 20),
            expansion in expansion(),
        ) {
            let words = Words { sizes: &sizes };
            let biased: Vec<f64> = evidence.iter().zip(&prior).map(|(e, p)| e * p).collect();
            let content_free = vec![prior[..evidence.len()].to_vec()];
            let found =
                words.calibrate(&biased, &content_free, Order::Before, CalibrationForm::Divide, expansion);
            let expected = words.join(&evidence, expansion);
            prop_assume!(decided(&expected));
            prop_assert_eq!(best(&found.labels), best(&expected));
        }

        #[test]
        fn the_scale_of_evidence_and_prior_does_not_matter(
            (sizes, evidence) in words(), prior in proptest::collection::vec(0.01f64..1.0, 20),
            expansion in expansion(), by in 1e-6f64..1e6, also in 1e-6f64..1e6,
        ) {
            let words = Words { sizes: &sizes };
            let prior = prior[..evidence.len()].to_vec();
            let scaled: Vec<f64> = evidence.iter().map(|e| e * by).collect();
            let scaled_prior: Vec<f64> = prior.iter().map(|p| p * also).collect();
            for order in ORDERS {
                for form in FORMS {
                    let plain = words.calibrate(&evidence, std::slice::from_ref(&prior), order, form, expansion);
                    let other = words.calibrate(&scaled, std::slice::from_ref(&scaled_prior), order, form, expansion);
                    for (a, b) in plain.labels.iter().zip(&other.labels) {
                        prop_assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} {b}");
                    }
                }
            }
        }

        #[test]
        fn zeros_anywhere_give_finite_numbers_and_are_counted(
            (sizes, mut evidence) in words(), mut prior in proptest::collection::vec(0.01f64..1.0, 20),
            expansion in expansion(), zero in 0usize..20, other in 0usize..20,
        ) {
            let words = Words { sizes: &sizes };
            prior.truncate(evidence.len());
            let (zero, other) = (zero % evidence.len(), other % evidence.len());
            prior[zero] = 0.0;
            evidence[other] = 0.0;
            let found = words.calibrate(
                &evidence, &[prior], Order::Before, CalibrationForm::Divide, expansion,
            );
            prop_assert!(found.labels.iter().all(|label| label.is_finite()));
            prop_assert_eq!(found.guarded, 1);
            let nothing = vec![0.0; evidence.len()];
            for order in ORDERS {
                let found =
                    words.calibrate(&nothing, std::slice::from_ref(&nothing), order, CalibrationForm::Divide, expansion);
                prop_assert!(found.labels.iter().all(|label| label.is_finite()));
            }
        }

        #[test]
        fn shares_sum_to_one_and_follow_the_logarithms(
            logarithms in proptest::collection::vec(-800.0f64..0.0, 2..10),
        ) {
            let found = shares(&logarithms);
            prop_assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert_eq!(best(&found), best(&logarithms));
        }
    }

    #[test]
    fn words_are_joined_by_label() {
        let words = Words { sizes: &[1, 3] };
        let values = [0.1, 0.2, 0.3, 0.4];
        assert_eq!(words.join(&values, Expansion::First), [0.1, 0.2]);
        assert_eq!(words.join(&values, Expansion::Sum), [0.1, 0.2 + 0.3 + 0.4]);
        assert_eq!(words.join(&values, Expansion::Mean), [0.1, (0.2 + 0.3 + 0.4) / 3.0]);
        assert_eq!(words.join(&values, Expansion::Max), [0.1, 0.4]);
    }

    #[test]
    fn logarithms_are_joined_as_what_they_stand_for() {
        let words = Words { sizes: &[1, 3] };
        let values = [0.1f64, 0.2, 0.3, 0.4];
        let logarithms = values.map(f64::ln);
        for expansion in [Expansion::First, Expansion::Sum, Expansion::Mean, Expansion::Max] {
            let found = words.join_logarithms(&logarithms, expansion);
            for (found, expected) in found.iter().zip(words.join(&values, expansion)) {
                assert!((found.exp() - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn before_and_after_differ_where_a_rare_word_speaks() {
        // Label 1 has a common word that says nothing and a rare one that is four times likelier than by itself.
        let words = Words { sizes: &[1, 2] };
        let (evidence, prior) = ([0.55, 0.41, 0.04], vec![vec![0.5, 0.49, 0.01]]);
        let calibrate = |order| {
            let found = words.calibrate(&evidence, &prior, order, CalibrationForm::Divide, Expansion::Mean);
            best(&found.labels)
        };
        assert_eq!((calibrate(Order::Before), calibrate(Order::After), calibrate(Order::None)), (1, 0, 0));
    }

    #[test]
    fn the_mean_of_content_free_inputs_is_of_shares_not_of_weights() {
        let words = Words { sizes: &[1, 1] };
        // The second input is a thousand times fainter and leans the other way just as much.
        let prior = vec![vec![0.9, 0.1], vec![0.0001, 0.0009]];
        let found =
            words.calibrate(&[0.6, 0.4], &prior, Order::After, CalibrationForm::Divide, Expansion::First);
        assert!((found.labels[0] / found.labels[1] - 1.5).abs() < 1e-9);
    }

    #[test]
    fn equals_go_to_the_first() {
        assert_eq!(best(&[1.0, 2.0, 2.0]), 1);
        assert_eq!(best(&[f64::NEG_INFINITY, f64::NEG_INFINITY]), 0);
    }
}
