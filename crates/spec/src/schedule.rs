//! What changes during a run, as pure functions of how far it has come: batch size and learning rate.
//!
//! ```text
//! batch   end ┤        ┌─────        rate  peak ┤  ╱╲__
//!             ┤    ┌───┘                        ┤ ╱    ╲___
//!       start ┼────┘ equal parts          floor ┤╱         ╲_________
//!             └────────┴ over                   └─┴ warmup ─┴ over
//! ```

use crate::amount::Progress;
use crate::run::{Amount, Decay, GlobalBatch, LearningRate, Train};

impl GlobalBatch {
    pub const fn constant(batch: u64) -> Self {
        Self { start: batch, step: 0, end: batch, over: Amount::Samples(0) }
    }

    pub fn is_constant(&self) -> bool {
        self.start == self.end
    }

    /// The batch of the step that starts after `samples` samples of `sequence` tokens.
    ///
    /// With n = (end − start) / step parts, Megatron's rule: `start + step · ⌊n · consumed / over⌋`, at most `end`.
    pub fn at(&self, samples: u64, sequence: usize) -> u64 {
        self.phases(sequence).find(|phase| samples < phase.until).map_or(self.end, |phase| phase.batch)
    }

    /// Number of equal parts of `over`, each with its own batch; the part after them has batch `end`.
    fn parts(&self) -> u64 {
        if self.step == 0 { 0 } else { self.end.saturating_sub(self.start).div_ceil(self.step) }
    }

    /// The stretches of constant batch, in order; the last one has no end.
    fn phases(&self, sequence: usize) -> impl Iterator<Item = Phase> + use<> {
        let ramp = *self;
        let parts = self.parts();
        let mut steps_before = 0;
        let mut samples_before = 0u64;
        (0..=parts).map(move |part| {
            let batch = if part == parts { ramp.end } else { ramp.start + ramp.step * part };
            // The end of this part in the ramp's unit, rounded up: the first count not below part/parts of it.
            let edge = |number: u64| {
                (u128::from(number) * u128::from(part + 1)).div_ceil(u128::from(parts.max(1))) as u64
            };
            let until = match ramp.over {
                _ if part == parts => u64::MAX,
                Amount::Samples(number) => edge(number),
                Amount::Tokens(number) => (u128::from(number) * u128::from(part + 1))
                    .div_ceil(u128::from(parts) * sequence.max(1) as u128)
                    as u64,
                Amount::Steps(number) => {
                    let steps = edge(number);
                    samples_before =
                        samples_before.saturating_add((steps - steps_before).saturating_mul(batch));
                    steps_before = steps;
                    samples_before
                }
            };
            Phase { until, batch }
        })
    }
}

/// Steps that start before `until` samples take `batch` samples.
struct Phase {
    until: u64,
    batch: u64,
}

impl LearningRate {
    /// The rate for the step that *ends* at `progress` (so that the first step already has a rate above 0).
    ///
    /// `warmup` and `over` are in one unit, as [`crate::Run::load`] leaves them; otherwise the decay is
    /// reckoned as if it began at 0.
    pub fn at(&self, progress: &Progress) -> f32 {
        let peak = f64::from(self.peak);
        let warmed = self.warmup.measure(progress) as f64;
        let warmup = self.warmup.number() as f64;
        if warmed < warmup {
            return (peak * warmed / warmup) as f32;
        }
        let same_unit = self.warmup.unit() == self.over.unit();
        let begin = if same_unit { warmup } else { 0.0 };
        let end = self.over.number() as f64;
        let position = (self.over.measure(progress) as f64).min(end);
        // 0 where the decay begins, 1 where it ends.
        let share = if end > begin { ((position - begin) / (end - begin)).clamp(0.0, 1.0) } else { 1.0 };
        let floor = f64::from(self.floor);
        let between = |height: f64| floor + (peak - floor) * height;
        let rate = match self.decay {
            Decay::Constant => peak,
            Decay::Linear => between(1.0 - share),
            Decay::Cosine => between(0.5 * (1.0 + (std::f64::consts::PI * share).cos())),
            Decay::InverseSqrt => peak * (begin.max(1.0) / position.max(begin).max(1.0)).sqrt(),
            Decay::WarmupStableDecay { tail } => {
                let tail = f64::from(tail) * end;
                between(((end - position) / tail.max(f64::MIN_POSITIVE)).min(1.0))
            }
        };
        rate.max(floor) as f32
    }
}

impl Train {
    /// The batch, in sequences, of the step that starts after `samples` samples.
    pub fn batch_at(&self, samples: u64) -> u64 {
        self.global_batch.at(samples, self.sequence)
    }

    /// Where the run stands after `step` steps.
    pub fn progress(&self, step: u64) -> Progress {
        self.walk(|_, left_in_phase, at| left_in_phase.min(step - at.step))
    }

    /// The end of the first step at which `amount` is reached.
    pub fn when(&self, amount: Amount) -> Progress {
        self.walk(|batch, left_in_phase, at| {
            let missing = amount.number().saturating_sub(amount.measure(at));
            let per_step = match amount {
                Amount::Steps(_) => 1,
                Amount::Samples(_) => batch,
                Amount::Tokens(_) => batch.saturating_mul(self.sequence as u64),
            };
            left_in_phase.min(missing.div_ceil(per_step.max(1)))
        })
    }

    /// `amount` in samples: exact for samples and steps, rounded up to whole samples for tokens.
    pub fn samples_in(&self, amount: Amount) -> u64 {
        match amount {
            Amount::Samples(samples) => samples,
            Amount::Tokens(tokens) => tokens.div_ceil(self.sequence.max(1) as u64),
            Amount::Steps(steps) => self.progress(steps).samples,
        }
    }

    /// Walks the phases of the batch ramp; `steps` says how many steps to take in each, given its batch, how many
    /// steps start in it, and where the run stands.
    fn walk(&self, steps: impl Fn(u64, u64, &Progress) -> u64) -> Progress {
        let mut at = Progress::default();
        for Phase { until, batch } in self.global_batch.phases(self.sequence) {
            let left = until.saturating_sub(at.samples).div_ceil(batch.max(1));
            at = at.advanced_by(steps(batch, left, &at), batch, self.sequence);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;
    use proptest::prelude::*;

    fn train(name: &str) -> Train {
        let preset = presets::find(name).unwrap();
        preset.recipe.train(&preset.model)
    }

    #[test]
    fn mt_nlg_ramps_from_32_to_1920_over_12_billion_tokens() {
        let train = train("mt-nlg-530b");
        let ramp = 12_000_000_000u64 / 2048;
        assert_eq!(ramp, 5_859_375);
        assert_eq!(train.batch_at(0), 32);
        assert_eq!(train.batch_at(ramp / 59), 32);
        assert_eq!(train.batch_at(ramp / 59 + 1), 64);
        assert_eq!(train.batch_at(ramp - 1), 1888);
        assert_eq!(train.batch_at(ramp), 1920);
        assert_eq!(train.batch_at(u64::MAX), 1920);
        // Megatron's own arithmetic, in floating point.
        for samples in (0..ramp).step_by(9973) {
            let part = (samples as f64 / (ramp as f64 / 59.0)) as u64;
            assert_eq!(train.batch_at(samples), 32 + 32 * part, "{samples}");
        }
    }

    #[test]
    fn yuan_ramps_in_five_equal_parts() {
        let train = train("yuan-13b");
        let batches: Vec<u64> = (0..6).map(|part| train.batch_at(488_280 / 5 * part)).collect();
        assert_eq!(batches, [448, 896, 1344, 1792, 2240, 2688]);
    }

    #[test]
    fn mt_nlg_warms_up_over_1_billion_tokens_and_ends_at_a_tenth() {
        let rate = train("mt-nlg-530b").learning_rate;
        let at = |tokens: u64| rate.at(&Progress { step: 1, samples: tokens / 2048, tokens });
        assert_eq!(at(0), 0.0);
        assert_eq!(at(500_000_000), 2.5e-5);
        assert_eq!(at(1_000_000_000), 5e-5);
        assert!((at(170_500_000_000) - 2.75e-5).abs() < 1e-9);
        assert_eq!(at(340_000_000_000), 5e-6);
        assert_eq!(at(u64::MAX), 5e-6);
    }

    #[test]
    fn each_decay_has_its_shape() {
        let rate = |decay| LearningRate {
            peak: 1.0,
            warmup: Amount::Steps(100),
            decay,
            over: Amount::Steps(1100),
            floor: 0.1,
        };
        let at = |decay, step| rate(decay).at(&Progress { step, samples: step, tokens: step });
        assert_eq!(at(Decay::Constant, 5000), 1.0);
        assert_eq!(at(Decay::Linear, 600), 0.55);
        assert_eq!(at(Decay::InverseSqrt, 400), 0.5);
        assert_eq!(at(Decay::WarmupStableDecay { tail: 0.1 }, 990), 1.0);
        assert_eq!(at(Decay::WarmupStableDecay { tail: 0.1 }, 1045), 0.55);
        for decay in [Decay::Linear, Decay::Cosine, Decay::WarmupStableDecay { tail: 0.1 }] {
            assert_eq!(at(decay, 100), 1.0);
            assert_eq!(at(decay, 2000), 0.1);
        }
    }

    fn any_batch() -> impl Strategy<Value = GlobalBatch> {
        (1u64..9, 0u64..5, 0u64..12, 1u64..5000, 0usize..3).prop_map(|(start, step, parts, number, unit)| {
            let over = [Amount::Steps(number), Amount::Samples(number), Amount::Tokens(number)][unit];
            GlobalBatch { start, step, end: start + step * parts, over }
        })
    }

    proptest! {
        #[test]
        fn walking_phases_equals_walking_steps(batch in any_batch(), goal in 0u64..4000, unit in 0usize..3) {
            let train = Train { global_batch: batch, sequence: 7, ..train("gpt2-124m") };
            let amount = [Amount::Steps(goal), Amount::Samples(goal), Amount::Tokens(goal)][unit];
            let mut at = Progress::default();
            while !amount.reached(&at) {
                at = at.advanced(train.batch_at(at.samples), 7);
            }
            prop_assert_eq!(train.when(amount), at);
            prop_assert_eq!(train.progress(at.step), at);
        }

        #[test]
        fn the_rate_stays_between_floor_and_peak_after_warm_up(step in 0u64..3000, tail in 0.01f32..1.0) {
            for decay in [
                Decay::Constant, Decay::Linear, Decay::Cosine, Decay::InverseSqrt,
                Decay::WarmupStableDecay { tail },
            ] {
                let rate = LearningRate {
                    peak: 3e-4, warmup: Amount::Steps(10), decay, over: Amount::Steps(2000), floor: 3e-5,
                };
                let at = rate.at(&Progress { step, samples: 0, tokens: 0 });
                prop_assert!(at <= 3e-4 && (step < 10 || at >= 3e-5), "{:?} {}", decay, at);
            }
        }
    }
}
