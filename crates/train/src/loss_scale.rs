//! f16's dynamic loss scale, Megatron's rule as a small state machine.
//!
//! Gradients are computed of `scale · loss`, so that small ones do not vanish in f16. An overflow costs the step;
//! the scale halves when `hysteresis` of them have come, and doubles after `window` clean steps.

use serde::{Deserialize, Serialize};
use triax_spec::run::LossScale;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScaler {
    scale: f32,
    /// Clean steps since the last overflow or doubling.
    clean: u64,
    /// Overflows that still are forgiven, including the one that halves.
    patience: u32,
}

impl LossScaler {
    pub const fn new(rule: &LossScale) -> Self {
        Self { scale: rule.initial, clean: 0, patience: rule.hysteresis }
    }

    pub const fn scale(&self) -> f32 {
        self.scale
    }

    /// Whether a smaller scale can still help against an overflow.
    pub fn can_fall(&self, rule: &LossScale) -> bool {
        self.scale > rule.minimum
    }

    /// A step with finite gradients.
    pub fn clean_step(&mut self, rule: &LossScale) {
        self.clean += 1;
        if self.clean >= rule.window {
            self.clean = 0;
            self.patience = rule.hysteresis;
            let doubled = self.scale * 2.0;
            self.scale = if doubled.is_finite() { doubled } else { self.scale };
        }
    }

    /// A step whose gradients overflowed.
    pub fn overflow(&mut self, rule: &LossScale) {
        self.clean = 0;
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.scale = (self.scale / 2.0).max(rule.minimum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: LossScale = LossScale { initial: 1024.0, minimum: 128.0, window: 3, hysteresis: 2 };

    #[test]
    fn the_scale_halves_when_patience_is_used_up_and_at_every_overflow_after() {
        let mut scaler = LossScaler::new(&RULE);
        let scales: Vec<f32> = (0..6)
            .map(|_| {
                scaler.overflow(&RULE);
                scaler.scale()
            })
            .collect();
        assert_eq!(scales, [1024.0, 512.0, 256.0, 128.0, 128.0, 128.0]);
        assert!(!scaler.can_fall(&RULE));
    }

    #[test]
    fn the_scale_doubles_after_a_window_of_clean_steps_and_patience_returns() {
        let mut scaler = LossScaler::new(&RULE);
        scaler.overflow(&RULE);
        for _ in 0..2 {
            scaler.clean_step(&RULE);
        }
        assert_eq!(scaler.scale(), 1024.0);
        scaler.clean_step(&RULE);
        assert_eq!(scaler.scale(), 2048.0);
        scaler.overflow(&RULE);
        assert_eq!(scaler.scale(), 2048.0, "patience was restored by the doubling");
        scaler.overflow(&RULE);
        assert_eq!(scaler.scale(), 1024.0);
    }

    #[test]
    fn an_overflow_starts_the_window_anew() {
        let mut scaler = LossScaler::new(&RULE);
        scaler.clean_step(&RULE);
        scaler.clean_step(&RULE);
        scaler.overflow(&RULE);
        scaler.clean_step(&RULE);
        scaler.clean_step(&RULE);
        assert_eq!(scaler.scale(), 1024.0);
    }
}
