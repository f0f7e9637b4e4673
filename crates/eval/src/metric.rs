//! Means with their uncertainty.

use serde::Serialize;
use std::collections::BTreeMap;

/// A mean over items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    /// Standard error: the values' sample deviation over the root of their number; none for one value.
    pub standard_error: Option<f64>,
    pub items: usize,
}

impl Estimate {
    /// `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let items = values.len();
        let mean = (items > 0).then(|| values.iter().sum::<f64>() / items as f64)?;
        let standard_error = deviation(values).map(|deviation| deviation / (items as f64).sqrt());
        Some(Self { value: mean, standard_error, items })
    }

    /// Of right and wrong answers.
    pub fn share(right: impl Iterator<Item = bool>) -> Option<Self> {
        Self::of(&right.map(|right| f64::from(u8::from(right))).collect::<Vec<_>>())
    }

    /// Of `f(x)` from that of `x`, to first order: the error grows by `|f′(x)|`.
    pub fn map(self, value: f64, slope: f64) -> Self {
        Self { value, standard_error: self.standard_error.map(|error| error * slope.abs()), ..self }
    }
}

/// Of a sample (divided by n − 1); `None` for fewer than two values.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (values.len() > 1).then(|| {
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        (squares / (values.len() - 1) as f64).sqrt()
    })
}

/// One measure over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// Mean over seeds.
    pub value: f64,
    /// Of the items, mean over seeds.
    pub standard_error: Option<f64>,
    /// Of the value between seeds.
    pub deviation: Option<f64>,
    pub seeds: Vec<Estimate>,
}

impl Metric {
    /// `None` without seeds.
    pub fn over(seeds: Vec<Estimate>) -> Option<Self> {
        let values: Vec<f64> = seeds.iter().map(|seed| seed.value).collect();
        let value = Estimate::of(&values)?.value;
        let errors: Option<Vec<f64>> = seeds.iter().map(|seed| seed.standard_error).collect();
        let standard_error = errors.and_then(|errors| Estimate::of(&errors)).map(|mean| mean.value);
        Some(Self { value, standard_error, deviation: deviation(&values), seeds })
    }
}

/// Likelihood of documents by their own words and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(crate) log_prob: f64,
    pub(crate) tokens: usize,
    pub(crate) words: usize,
    pub(crate) bytes: usize,
}

/// `exp(−Σ ln p / Σ units)` and `bits_per_byte`; no errors, as documents differ in length.
pub(crate) fn perplexities(documents: &[Document]) -> BTreeMap<&'static str, Estimate> {
    let sum = |count: fn(&Document) -> usize| documents.iter().map(count).sum::<usize>() as f64;
    let log_prob: f64 = documents.iter().map(|document| document.log_prob).sum();
    let estimate = |value| Estimate { value, standard_error: None, items: documents.len() };
    let (tokens, words, bytes) = (sum(|d| d.tokens), sum(|d| d.words), sum(|d| d.bytes));
    BTreeMap::from([
        ("token_perplexity", estimate((-log_prob / tokens).exp())),
        ("word_perplexity", estimate((-log_prob / words).exp())),
        ("byte_perplexity", estimate((-log_prob / bytes).exp())),
        ("bits_per_byte", estimate(-log_prob / bytes / std::f64::consts::LN_2)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_share_is_that_of_its_sample() {
        let found = Estimate::share([true, true, true, false].into_iter()).unwrap();
        assert_eq!((found.value, found.items), (0.75, 4));
        // √(p (1 − p) / (n − 1))
        let expected = (0.75f64 * 0.25 / 3.0).sqrt();
        assert!((found.standard_error.unwrap() - expected).abs() < 1e-15);
        assert_eq!(Estimate::of(&[2.0]).unwrap().standard_error, None);
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn seeds_have_a_mean_and_a_deviation() {
        let seed = |value| Estimate { value, standard_error: Some(0.1), items: 10 };
        let metric = Metric::over(vec![seed(0.4), seed(0.6)]).unwrap();
        assert!(
            (metric.value - 0.5).abs() < 1e-15 && (metric.deviation.unwrap() - 0.02f64.sqrt()).abs() < 1e-12
        );
        assert_eq!(metric.standard_error, Some(0.1));
        assert_eq!(Metric::over(vec![seed(0.4)]).unwrap().deviation, None);
    }

    #[test]
    fn a_coin_a_byte_is_one_bit_a_byte() {
        let document = Document { log_prob: -8.0 * std::f64::consts::LN_2, tokens: 4, words: 2, bytes: 8 };
        let found = perplexities(&[document]);
        let value = |name| found[name].value;
        assert!(
            (value("bits_per_byte") - 1.0).abs() < 1e-12 && (value("byte_perplexity") - 2.0).abs() < 1e-12
        );
        assert!(
            (value("token_perplexity") - 4.0).abs() < 1e-12
                && (value("word_perplexity") - 16.0).abs() < 1e-12
        );
    }
}
