//! Watches the demo's training: the bar a person sees, and the curves the report shows.

use crate::console::{Progress, count, duration};
use std::collections::BTreeMap;
use std::time::Instant;
use triax_spec::Run;
use triax_train::{Evaluation, Observer, Started, StepReport};

/// Points of a curve in the report.
const POINTS: usize = 300;

/// What happened, step by step.
pub(crate) struct Course {
    bar: Option<Progress>,
    begin: Instant,
    end: u64,
    /// Relative weights of the held-out sources, by path.
    weights: BTreeMap<std::path::PathBuf, f64>,
    /// Losses of the evaluation under way: step, Σ weight · loss, Σ weight.
    pending: (u64, f64, f64),
    shares: Vec<f64>,
    /// Of all steps, evaluation left out.
    pub(crate) seconds: f64,
    /// (step, nats per token).
    pub(crate) loss: Vec<(f64, f64)>,
    /// The same on held-out text, the sources weighted as in the blend.
    pub(crate) held_out: Vec<(f64, f64)>,
    /// (step, tokens per second).
    pub(crate) speed: Vec<(f64, f64)>,
}

impl Course {
    pub(crate) fn new(run: &Run) -> Self {
        let weights = run.data.validation.iter().map(|source| (source.path.clone(), source.weight)).collect();
        Self {
            bar: None,
            begin: Instant::now(),
            end: 0,
            weights,
            pending: (0, 0.0, 0.0),
            shares: Vec::new(),
            seconds: 0.0,
            loss: Vec::new(),
            held_out: Vec::new(),
            speed: Vec::new(),
        }
    }

    /// Removes the bar; the curves stay.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            let loss = self.smooth_loss().last().map_or(f64::NAN, |point| point.1);
            bar.finish(&format!(
                "     loss {loss:.3} after {}",
                duration(self.begin.elapsed().as_secs_f64())
            ));
        }
        self.speed = thinned(&self.speed);
    }

    /// Mean share of the machine's peak; NaN (null in JSON) where the peak is not known.
    pub(crate) fn flops_share(&self) -> f64 {
        self.shares.iter().sum::<f64>() / self.shares.len() as f64
    }

    /// The training loss as means over equal numbers of steps: single small batches say little.
    pub(crate) fn smooth_loss(&self) -> Vec<(f64, f64)> {
        thinned(&self.loss)
    }
}

/// At most [`POINTS`] points, each the mean of its neighbourhood; the first stays as it is.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let Some((first, rest)) = points.split_first() else { return Vec::new() };
    let group = rest.len().div_ceil(POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let count = group.len() as f64;
        (
            group.iter().map(|point| point.0).sum::<f64>() / count,
            group.iter().map(|point| point.1).sum::<f64>() / count,
        )
    };
    std::iter::once(*first).chain(rest.chunks(group).map(mean)).collect()
}

impl Observer for Course {
    fn started(&mut self, started: &Started) {
        self.end = started.end.step;
        self.begin = Instant::now();
        self.bar = Some(Progress::new("training", self.end));
    }

    fn step(&mut self, step: &StepReport) {
        self.seconds += step.step_s;
        self.loss.push((step.step as f64, step.loss));
        self.speed.push((step.step as f64, step.tokens_per_s));
        self.shares.extend(step.flops_share);
        let left =
            self.begin.elapsed().as_secs_f64() / step.step as f64 * self.end.saturating_sub(step.step) as f64;
        let held_out = self.held_out.last().copied();
        if let Some(bar) = &mut self.bar {
            bar.set(step.step, || {
                let held_out = held_out.map_or(String::new(), |(_, loss)| format!(", held out {loss:.2}"));
                let share = step
                    .flops_share
                    .map_or(String::new(), |share| format!(" ({:.0} % of peak)", 100.0 * share));
                let speed = count(step.tokens_per_s);
                format!("loss {:.2}{held_out}, {speed} tokens/s{share}, {} left", step.loss, duration(left))
            });
        }
    }

    fn evaluation(&mut self, evaluation: &Evaluation) {
        if self.pending.0 != evaluation.step {
            self.pending = (evaluation.step, 0.0, 0.0);
            self.held_out.push((evaluation.step as f64, f64::NAN));
        }
        let weight = self.weights.get(&evaluation.source).copied().unwrap_or(1.0);
        self.pending.1 += weight * evaluation.loss;
        self.pending.2 += weight;
        if let Some(last) = self.held_out.last_mut() {
            last.1 = self.pending.1 / self.pending.2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_first_point_and_the_mean() {
        let points: Vec<(f64, f64)> = (0..=1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&points);
        assert_eq!(thin[0], (0.0, 0.0));
        assert!(thin.len() <= POINTS + 1);
        assert!((thin[10].1 - 0.5).abs() < 0.3);
        assert!(thinned(&[]).is_empty());
    }
}
