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

/// `exp(−Σ ln p / Σ units)` and `bits_per_byte`, each with the error of its ratio.
pub(crate) fn perplexities(documents: &[Document]) -> BTreeMap<&'static str, Estimate> {
    let cost = |count: fn(&Document) -> usize| {
        ratio(documents.iter().map(|document| (-document.log_prob, count(document) as f64)))
    };
    let perplexity = |cost: Estimate| cost.map(cost.value.exp(), cost.value.exp());
    let bytes = cost(|document| document.bytes);
    BTreeMap::from([
        ("token_perplexity", perplexity(cost(|document| document.tokens))),
        ("word_perplexity", perplexity(cost(|document| document.words))),
        ("byte_perplexity", perplexity(bytes)),
        ("bits_per_byte", bytes.map(bytes.value / std::f64::consts::LN_2, 1.0 / std::f64::consts::LN_2)),
    ])
}

/// `R = Σ y / Σ x` over items that were drawn one by one, with the standard error of a ratio to first order (Cochran,
/// Sampling Techniques, 3rd edition, chapter 6, of a large population): `√(n / (n − 1) · Σ (y − R x)²) / Σ x`, so that
/// an item counts by its size. None for one item.
fn ratio(items: impl Iterator<Item = (f64, f64)> + Clone) -> Estimate {
    let (count, y, x) = items.clone().fold((0, 0.0, 0.0), |(n, ys, xs), (y, x)| (n + 1, ys + y, xs + x));
    let value: f64 = y / x;
    let squares: f64 = items.map(|(y, x)| (y - value * x).powi(2)).sum();
    let standard_error = (count > 1).then(|| (squares * count as f64 / (count - 1) as f64).sqrt() / x);
    Estimate { value, standard_error, items: count }
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
        assert!(
            found.values().all(|estimate| estimate.standard_error.is_none()),
            "one document says no more"
        );
    }

    #[test]
    fn of_equal_documents_the_error_is_that_of_their_mean() {
        let costs = [1.5, 2.0, 4.5, 3.25, 0.5];
        let found = ratio(costs.iter().map(|cost| (cost * 8.0, 8.0)));
        let mean = Estimate::of(&costs).unwrap();
        assert!((found.value - mean.value).abs() < 1e-12 && found.items == 5);
        assert!((found.standard_error.unwrap() - mean.standard_error.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn the_error_is_the_spread_of_samples_whose_documents_differ_in_length_and_kind() {
        const SAMPLES: u64 = 2000;
        const DOCUMENTS: u64 = 60;
        let uniform = |index: u64| {
            let hash = blake3::hash(&index.to_le_bytes());
            let word: [u8; 4] = hash.as_bytes()[..4].try_into().unwrap();
            f64::from(u32::from_le_bytes(word)) / 2f64.powi(32)
        };
        // Lengths from 20 to 420 bytes; a document costs 0.5 to 1.5 nats a byte, and longer ones less.
        let sample = |number: u64| -> Vec<Document> {
            (0..DOCUMENTS)
                .map(|place| {
                    let at = 2 * (number * DOCUMENTS + place);
                    let bytes = 20.0 + (400.0 * uniform(at)).floor();
                    let nats = 0.5 + uniform(at + 1) * (1.0 - bytes / 1000.0);
                    Document { log_prob: -nats * bytes, tokens: 1, words: 1, bytes: bytes as usize }
                })
                .collect()
        };
        let found: Vec<Estimate> =
            (0..SAMPLES).map(|number| perplexities(&sample(number))["bits_per_byte"]).collect();
        let spread = deviation(&found.iter().map(|estimate| estimate.value).collect::<Vec<_>>()).unwrap();
        let said =
            found.iter().map(|estimate| estimate.standard_error.unwrap()).sum::<f64>() / SAMPLES as f64;
        // A deviation of 2000 samples is itself known to 1 / √4000 = 1.6 %; the first order leaves out terms of 1 / 60.
        assert!((said / spread - 1.0).abs() < 3.0 * 0.016 + 1.0 / 60.0, "{said} beside {spread}");
    }
}
