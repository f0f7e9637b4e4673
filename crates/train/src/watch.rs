//! Watches loss and gradient norm for spikes and non-finite values, and says what to do with the step.
//!
//! ```text
//!                     ┌ finite? ──no──▶ on_nonfinite: skip | rollback | stop
//! loss, norm of a step┤
//!                     └ z = (value − mean) / σ of the last `window` good steps
//!                        z ≤ sigma ──▶ apply      z > sigma ──▶ on_spike: log | skip | rollback | stop
//! ```
//! More than `limit` alarms in a row stop the run. A row ends with a good step; after a rollback only with a new
//! checkpoint, for the steps before the next spike were good the first time too. Values of skipped steps do not
//! enter the statistics; logged ones do, so that a lasting change of level is accepted in time.

use crate::checkpoint::Bits;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use triax_spec::run::{OnNonfinite, OnSpike, SpikeAction};

/// What is kept in a checkpoint: the good values, oldest first, and the alarms in a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchState {
    pub losses: Vec<Bits>,
    pub norms: Vec<Bits>,
    pub in_a_row: u32,
}

/// What is to be done with a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Apply,
    Alarm(Alarm, Response),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Apply the step, tell about it.
    Log,
    /// Leave the weights as they are.
    Skip,
    /// Return to the last checkpoint; all samples since then and those of this step are left out.
    Rollback,
    /// The rule says stop.
    Stop,
    /// More than this many alarms in a row.
    Limit(u32),
}

/// Why a step is not trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alarm {
    pub loss: f64,
    pub norm: f64,
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    Nonfinite,
    /// The loss lies this many standard deviations above the mean.
    Loss {
        sigmas: f64,
        mean: f64,
    },
    /// The gradient norm does.
    Norm {
        sigmas: f64,
        mean: f64,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Nonfinite => {
                write!(f, "loss {} and gradient norm {} are not both finite", self.loss, self.norm)
            }
            Cause::Loss { sigmas, mean } => {
                write!(f, "loss {:.4} is {sigmas:.1} standard deviations above the mean {mean:.4}", self.loss)
            }
            Cause::Norm { sigmas, mean } => {
                write!(
                    f,
                    "gradient norm {:.4} is {sigmas:.1} standard deviations above the mean {mean:.4}",
                    self.norm
                )
            }
        }
    }
}

#[derive(Debug)]
pub struct Watch {
    on_spike: Option<OnSpike>,
    on_nonfinite: OnNonfinite,
    losses: Window,
    norms: Window,
    in_a_row: u32,
    rolled_back: bool,
}

impl Watch {
    pub fn new(on_spike: Option<OnSpike>, on_nonfinite: OnNonfinite) -> Self {
        let window = on_spike.map_or(0, |rule| rule.window as usize);
        Self {
            on_spike,
            on_nonfinite,
            losses: Window::new(window),
            norms: Window::new(window),
            in_a_row: 0,
            rolled_back: false,
        }
    }

    /// Judges a step's mean loss and gradient norm (before clipping).
    pub fn judge(&mut self, loss: f64, norm: f64) -> Verdict {
        let found = self.cause(loss, norm);
        let Some((cause, action, limit)) = found else {
            self.good(loss, norm);
            return Verdict::Apply;
        };
        self.in_a_row += 1;
        let response = match action {
            SpikeAction::Stop => Response::Stop,
            _ if self.in_a_row > limit => Response::Limit(limit),
            SpikeAction::Log => Response::Log,
            SpikeAction::Skip => Response::Skip,
            SpikeAction::Rollback => Response::Rollback,
        };
        if response == Response::Log {
            self.losses.push(loss);
            self.norms.push(norm);
        }
        self.rolled_back |= response == Response::Rollback;
        Verdict::Alarm(Alarm { loss, norm, cause }, response)
    }

    fn cause(&self, loss: f64, norm: f64) -> Option<(Cause, SpikeAction, u32)> {
        if !loss.is_finite() || !norm.is_finite() {
            return Some((Cause::Nonfinite, self.on_nonfinite.action, self.on_nonfinite.limit));
        }
        let rule = self.on_spike?;
        let above = |window: &Window, value: f64, sigma: f32| {
            let (mean, sigmas) = window.z(value)?;
            (sigma > 0.0 && sigmas > f64::from(sigma)).then_some((mean, sigmas))
        };
        let cause = above(&self.losses, loss, rule.loss_sigma)
            .map(|(mean, sigmas)| Cause::Loss { sigmas, mean })
            .or_else(|| {
                above(&self.norms, norm, rule.norm_sigma).map(|(mean, sigmas)| Cause::Norm { sigmas, mean })
            })?;
        Some((cause, rule.action, rule.limit))
    }

    fn good(&mut self, loss: f64, norm: f64) {
        self.losses.push(loss);
        self.norms.push(norm);
        if !self.rolled_back {
            self.in_a_row = 0;
        }
    }

    /// A new checkpoint was begun: the run has got past the place it rolled back from.
    pub fn checkpointed(&mut self) {
        if self.rolled_back {
            self.rolled_back = false;
            self.in_a_row = 0;
        }
    }

    pub fn state(&self) -> WatchState {
        let bits = |window: &Window| window.values.iter().copied().map(Bits).collect();
        WatchState { losses: bits(&self.losses), norms: bits(&self.norms), in_a_row: self.in_a_row }
    }

    /// Takes the statistics of a checkpoint; after a rollback the count of alarms goes on.
    pub fn restore(&mut self, state: &WatchState) {
        self.losses.replace(&state.losses);
        self.norms.replace(&state.norms);
        if !self.rolled_back {
            self.in_a_row = state.in_a_row;
        }
    }
}

/// The last values, at most `capacity`.
#[derive(Debug)]
struct Window {
    values: VecDeque<f64>,
    capacity: usize,
}

impl Window {
    fn new(capacity: usize) -> Self {
        Self { values: VecDeque::with_capacity(capacity + 1), capacity }
    }

    fn push(&mut self, value: f64) {
        self.values.push_back(value);
        if self.values.len() > self.capacity {
            self.values.pop_front();
        }
    }

    fn replace(&mut self, values: &[Bits]) {
        self.values.clear();
        values.iter().for_each(|value| self.push(value.0));
    }

    /// Mean, and how many standard deviations `value` lies above it; nothing before the window is full or when all
    /// values are equal.
    fn z(&self, value: f64) -> Option<(f64, f64)> {
        if self.capacity == 0 || self.values.len() < self.capacity {
            return None;
        }
        let count = self.values.len() as f64;
        let mean = self.values.iter().sum::<f64>() / count;
        let variance = self.values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        (variance > 0.0).then(|| (mean, (value - mean) / variance.sqrt()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: OnNonfinite = OnNonfinite { action: SpikeAction::Stop, limit: 0 };

    fn watch(action: SpikeAction, limit: u32) -> Watch {
        let on_spike = OnSpike { loss_sigma: 6.0, norm_sigma: 6.0, window: 8, action, limit };
        let mut watch = Watch::new(Some(on_spike), STOP);
        for i in 0..8 {
            assert_eq!(
                watch.judge(2.0 + f64::from(i % 2) * 0.1, 1.0 + f64::from(i % 2) * 0.1),
                Verdict::Apply
            );
        }
        watch
    }

    fn response(verdict: Verdict) -> Response {
        match verdict {
            Verdict::Alarm(_, response) => response,
            Verdict::Apply => panic!("no alarm"),
        }
    }

    #[test]
    fn spikes_of_loss_or_norm_are_found_and_named() {
        let mut watch = watch(SpikeAction::Skip, 5);
        let Verdict::Alarm(alarm, Response::Skip) = watch.judge(3.0, 1.0) else { panic!() };
        assert!(matches!(alarm.cause, Cause::Loss { sigmas, .. } if sigmas > 18.0));
        let Verdict::Alarm(alarm, Response::Skip) = watch.judge(2.0, 9.0) else { panic!() };
        assert!(matches!(alarm.cause, Cause::Norm { .. }));
        assert_eq!(watch.judge(2.1, 1.1), Verdict::Apply);
    }

    #[test]
    fn nothing_is_a_spike_before_the_window_is_full() {
        let on_spike =
            OnSpike { loss_sigma: 1.0, norm_sigma: 0.0, window: 4, action: SpikeAction::Stop, limit: 0 };
        let mut watch = Watch::new(Some(on_spike), STOP);
        for loss in [1.0, 2.0, 100.0, 1.5] {
            assert_eq!(watch.judge(loss, 1.0), Verdict::Apply);
        }
        assert_eq!(response(watch.judge(1000.0, 1.0)), Response::Stop);
    }

    #[test]
    fn more_alarms_in_a_row_than_the_limit_stop_the_run_and_a_good_step_ends_the_row() {
        let mut watch = watch(SpikeAction::Skip, 2);
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Skip);
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Skip);
        assert_eq!(watch.judge(2.0, 1.0), Verdict::Apply);
        for _ in 0..2 {
            assert_eq!(response(watch.judge(9.0, 1.0)), Response::Skip);
        }
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Limit(2));
    }

    #[test]
    fn rollbacks_to_the_same_checkpoint_are_counted_though_steps_between_are_good() {
        let mut watch = watch(SpikeAction::Rollback, 1);
        let saved = watch.state();
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Rollback);
        watch.restore(&saved);
        assert_eq!(watch.judge(2.0, 1.0), Verdict::Apply);
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Limit(1));
        watch.checkpointed();
        assert_eq!(response(watch.judge(9.0, 1.0)), Response::Rollback);
    }

    #[test]
    fn a_restored_watch_goes_on_as_the_one_that_was_saved() {
        let mut first = watch(SpikeAction::Log, 100);
        let mut second = Watch::new(first.on_spike, STOP);
        second.restore(&first.state());
        for loss in [2.0, 2.05, 2.4, 9.0, 9.1, 2.0, 3.0] {
            assert_eq!(first.judge(loss, loss / 2.0), second.judge(loss, loss / 2.0));
        }
        assert_eq!(first.state(), second.state());
    }

    #[test]
    fn non_finite_values_follow_their_own_rule() {
        let rule = OnNonfinite { action: SpikeAction::Skip, limit: 1 };
        let mut watch = Watch::new(None, rule);
        assert_eq!(response(watch.judge(f64::NAN, 1.0)), Response::Skip);
        assert_eq!(response(watch.judge(1.0, f64::INFINITY)), Response::Limit(1));
    }
}
