//! Which source sample `n` comes from, and as which sample of that source: Megatron's greedy rule without its arrays.
//!
//! ```text
//! draw n takes the source with the largest  weight · max(n, 1) − drawn   (the first on ties)
//! ```
//!
//! Weights are brought to whole numbers `w` with sum `Q`, and the deficit `e = w·n − Q·drawn` is exact. After the
//! first draw deficits sum to 0, so the largest is never negative and no deficit falls to −Q: `drawn < weight·n + 1`
//! always. At a multiple of `Q` deficits are multiples of `Q` above −Q with sum 0, hence all 0: exactly `w` of every
//! `Q` draws came from each source, and the order repeats. So counts at any `n` follow from `n / Q` and a table of
//! counts every 256 draws of one period. (Of two periods: in the first, `max(n, 1)` makes draw 0 special.)

use crate::DataError;

/// Draws between two rows of the table.
const SPACING: u64 = 256;
/// Longest period. Weights whose exact ratio needs a longer one are rounded to parts of it, each at least one.
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub struct Blend {
    weights: Vec<u64>,
    period: u64,
    first: Vec<u32>,
    later: Vec<u32>,
}

impl Blend {
    /// `weights`: relative, at least one above 0, read as the decimal numbers they print as.
    ///
    /// # Errors
    /// When a weight is negative or not finite, or none is above 0.
    pub fn new(weights: &[f64]) -> Result<Self, DataError> {
        if let Some((source, weight)) =
            weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0))
        {
            return Err(DataError::Blend(format!(
                "weight {weight} of source {source}; a weight is a finite number, at least 0"
            )));
        }
        if !weights.iter().any(|&weight| weight > 0.0) {
            return Err(DataError::Blend(format!(
                "none of {} sources has a weight above 0; give at least one",
                weights.len()
            )));
        }
        let weights = whole_numbers(weights);
        let period = weights.iter().sum();
        let mut blend = Self { weights, period, first: Vec::new(), later: Vec::new() };
        blend.first = blend.table(1);
        blend.later = blend.table(0);
        Ok(blend)
    }

    /// Share of each source, with sum 1.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.weights.iter().map(|&weight| weight as f64 / self.period as f64)
    }

    /// The source of draw `n` and how often that source was drawn before.
    #[must_use]
    pub fn draw(&self, n: u64) -> (usize, u64) {
        let (mut stack, mut heap) = ([0; 64], Vec::new());
        let counts = if self.weights.len() <= stack.len() {
            &mut stack[..self.weights.len()]
        } else {
            heap.resize(self.weights.len(), 0);
            &mut heap[..]
        };
        self.within(n, counts);
        let source = self.greedy(n % self.period, counts, self.floor(n));
        (source, n / self.period * self.weights[source] + counts[source])
    }

    /// How often each source is taken in draws `0..n`.
    #[must_use]
    pub fn counts(&self, n: u64) -> Vec<u64> {
        let mut counts = vec![0; self.weights.len()];
        self.within(n, &mut counts);
        for (count, weight) in counts.iter_mut().zip(&self.weights) {
            *count += n / self.period * weight;
        }
        counts
    }

    /// Counts at `n` less those of the whole periods before it.
    fn within(&self, n: u64, counts: &mut [u64]) {
        let place = n % self.period;
        let table = if n < self.period { &self.first } else { &self.later };
        let row = (place / SPACING) as usize * counts.len();
        for (count, &stored) in counts.iter_mut().zip(&table[row..]) {
            *count = stored.into();
        }
        for place in place / SPACING * SPACING..place {
            let source = self.greedy(place, counts, self.floor(n));
            counts[source] += 1;
        }
    }

    /// The 1 of `max(n, 1)` in the first period; in later ones the place 0 stands for a larger `n`.
    fn floor(&self, n: u64) -> u64 {
        u64::from(n < self.period)
    }

    /// A source of weight 0 is never taken, not even when all deficits are 0.
    fn greedy(&self, place: u64, counts: &[u64], floor: u64) -> usize {
        let (mut largest, mut best) = (i64::MIN, 0);
        for (source, (&weight, &count)) in self.weights.iter().zip(counts).enumerate() {
            let deficit = (weight * place.max(floor)) as i64 - (count * self.period) as i64;
            if weight > 0 && deficit > largest {
                (largest, best) = (deficit, source);
            }
        }
        best
    }

    fn table(&self, floor: u64) -> Vec<u32> {
        let mut counts = vec![0u64; self.weights.len()];
        let mut table = Vec::with_capacity((self.period / SPACING + 1) as usize * counts.len());
        for place in 0..self.period {
            if place % SPACING == 0 {
                table.extend(counts.iter().map(|&count| count as u32));
            }
            let source = self.greedy(place, &counts, floor);
            counts[source] += 1;
        }
        debug_assert_eq!(counts, self.weights);
        table
    }
}

/// The weights' exact ratio in whole numbers when their sum is at most [`LONGEST`], else the nearest.
fn whole_numbers(weights: &[f64]) -> Vec<u64> {
    exact(weights).unwrap_or_else(|| rounded(weights))
}

fn exact(weights: &[f64]) -> Option<Vec<u64>> {
    let texts: Vec<String> = weights.iter().map(f64::to_string).collect();
    let digits_after = |text: &str| text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let most = texts.iter().map(|text| digits_after(text)).max()?;
    let scaled = texts.iter().map(|text| {
        let digits = text.replace('.', "") + &"0".repeat(most - digits_after(text));
        digits.parse::<u128>().ok()
    });
    let scaled: Vec<u128> = scaled.collect::<Option<_>>()?;
    let divisor = scaled.iter().fold(0, |a, &b| greatest_common_divisor(a, b));
    let sum = scaled.iter().try_fold(0u128, |sum, &weight| sum.checked_add(weight))? / divisor;
    (sum <= u128::from(LONGEST)).then(|| scaled.iter().map(|&weight| (weight / divisor) as u64).collect())
}

fn rounded(weights: &[f64]) -> Vec<u64> {
    let largest = weights.iter().fold(0.0, |a: f64, &b| a.max(b));
    let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
    let part = |weight: f64| (weight / largest / sum * LONGEST as f64).round() as u64;
    weights.iter().map(|&weight| part(weight).max(u64::from(weight > 0.0))).collect()
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// From sample number `start` on, sources are drawn with these weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub start: u64,
    /// One for each source; 0 for a source that rests.
    pub weights: Vec<f64>,
}

/// Blends one after another. Each source counts on from stage to stage, so none of its samples is lost or repeated.
#[derive(Clone, Debug)]
pub struct Stages {
    /// First sample, blend, and how often each source was drawn before the stage.
    stages: Vec<(u64, Blend, Vec<u64>)>,
}

impl Stages {
    /// # Errors
    /// When the first stage does not start at sample 0, starts do not rise, or a blend is impossible.
    pub fn new(sources: usize, stages: &[Stage]) -> Result<Self, DataError> {
        if stages.first().is_none_or(|stage| stage.start != 0) {
            return Err(DataError::Blend("the first stage must start at sample 0".into()));
        }
        let mut built: Vec<(u64, Blend, Vec<u64>)> = Vec::with_capacity(stages.len());
        for (number, stage) in stages.iter().enumerate() {
            if stage.weights.len() != sources {
                return Err(DataError::Blend(format!(
                    "stage {number} has {} weights for {sources} sources; give one each",
                    stage.weights.len()
                )));
            }
            let mut base = vec![0; sources];
            if let Some((start, blend, before)) = built.last() {
                if stage.start <= *start {
                    return Err(DataError::Blend(format!(
                        "stage {number} starts at sample {}, not after the stage before it at {start}",
                        stage.start
                    )));
                }
                let counts = blend.counts(stage.start - start);
                base = before.iter().zip(counts).map(|(before, count)| before + count).collect();
            }
            built.push((stage.start, Blend::new(&stage.weights)?, base));
        }
        Ok(Self { stages: built })
    }

    /// The source of sample `n` and its running number within the source.
    #[must_use]
    pub fn draw(&self, n: u64) -> (usize, u64) {
        let (start, blend, base) = &self.stages[self.stages.partition_point(|stage| stage.0 <= n) - 1];
        let (source, count) = blend.draw(n - start);
        (source, base[source] + count)
    }

    /// Share of each source in the stage that sample `n` lies in.
    pub fn shares(&self, n: u64) -> impl Iterator<Item = f64> {
        self.stages[self.stages.partition_point(|stage| stage.0 <= n) - 1].1.shares()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as Megatron states it, with stored counts.
    fn loop_with_counts(weights: &[u64], draws: u64) -> Vec<(usize, u64)> {
        let sum = weights.iter().sum::<u64>() as i128;
        let mut drawn = vec![0u64; weights.len()];
        let take = |n: u64| {
            let deficit = |source: usize| {
                i128::from(weights[source]) * i128::from(n.max(1)) - i128::from(drawn[source]) * sum
            };
            let best =
                (0..weights.len()).rev().filter(|&s| weights[s] > 0).max_by_key(|&s| deficit(s)).unwrap();
            drawn[best] += 1;
            (best, drawn[best] - 1)
        };
        (0..draws).map(take).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn draws_follow_the_greedy_rule(weights in prop::collection::vec(0u64..400, 1..7)) {
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let floats: Vec<f64> = weights.iter().map(|&weight| weight as f64 / 8.0).collect();
            let blend = Blend::new(&floats).unwrap();
            for (n, expected) in loop_with_counts(&weights, 100_000).into_iter().enumerate() {
                prop_assert_eq!(blend.draw(n as u64), expected, "draw {}", n);
            }
        }

        #[test]
        fn no_source_runs_ahead_by_a_whole_draw(weights in prop::collection::vec(0.01f64..50.0, 1..20), n in 1u64..1 << 50) {
            let blend = Blend::new(&weights).unwrap();
            let counts = blend.counts(n);
            prop_assert_eq!(counts.iter().sum::<u64>(), n);
            for (source, &count) in counts.iter().enumerate() {
                let (weight, period) = (i128::from(blend.weights[source]), i128::from(blend.period));
                let deficit = weight * i128::from(n) - i128::from(count) * period;
                // Ahead by less than one draw; behind by less than the others can be ahead together.
                prop_assert!(deficit > -period && deficit < period * weights.len() as i128);
            }
        }
    }

    #[test]
    fn a_long_period_is_followed_too() {
        let weights = [14.336, 19.336, 3.9, 62.428];
        let blend = Blend::new(&weights).unwrap();
        let whole: Vec<u64> = weights.iter().map(|weight| (weight * 1000.0f64).round() as u64).collect();
        assert_eq!(blend.period, 25_000, "{:?}", blend.weights);
        for (n, expected) in loop_with_counts(&whole, 120_000).into_iter().enumerate() {
            assert_eq!(blend.draw(n as u64), expected, "draw {n}");
        }
    }

    #[test]
    fn weights_without_a_short_ratio_keep_every_source() {
        let blend = Blend::new(&[std::f64::consts::PI, 1e-12, 2.0]).unwrap();
        assert_eq!(blend.counts(blend.period), blend.weights);
        assert_eq!(blend.weights[1], 1);
        assert!((blend.shares().next().unwrap() - (1.0 - 2.0 / (std::f64::consts::PI + 2.0))).abs() < 2e-6);
        assert_eq!(Blend::new(&[1e300, 1e300]).unwrap().counts(10), [5, 5]);
    }

    #[test]
    fn impossible_weights_are_refused() {
        for weights in [&[][..], &[0.0], &[1.0, -1.0], &[f64::NAN], &[f64::INFINITY]] {
            assert!(Blend::new(weights).is_err(), "{weights:?}");
        }
    }

    #[test]
    fn a_change_of_blend_loses_and_repeats_nothing() {
        let stage = |start, weights: &[f64]| Stage { start, weights: weights.to_vec() };
        let stages =
            [stage(0, &[1.0, 2.0, 0.0]), stage(1000, &[5.0, 0.0, 1.0]), stage(1777, &[1.0, 1.0, 1.0])];
        let stages = Stages::new(3, &stages).unwrap();
        let mut next = [0; 3];
        for n in 0..5000 {
            let (source, number) = stages.draw(n);
            assert_eq!(number, next[source], "sample {n}");
            next[source] += 1;
        }
        assert!(next.iter().all(|&count| count > 1000), "{next:?}");
    }

    #[test]
    fn stages_out_of_order_are_refused() {
        let stage = |start| Stage { start, weights: vec![1.0] };
        for starts in [&[][..], &[5], &[0, 9, 9], &[0, 9, 3]] {
            let stages: Vec<Stage> = starts.iter().map(|&start| stage(start)).collect();
            assert!(Stages::new(1, &stages).is_err(), "{starts:?}");
        }
    }
}
