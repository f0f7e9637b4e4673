//! Runs a schedule against a clock: every stage works through its list, waiting for what it receives.

use crate::{Action, Schedule, Work};
use std::collections::HashMap;

/// Time of one chunk of one micro-batch, in any unit. Transfers take `transfer` and do not occupy a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    pub forward: f64,
    pub backward_input: f64,
    pub backward_weight: f64,
    pub transfer: f64,
}

/// One action in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub action: Action,
    pub start: f64,
    pub end: f64,
}

/// When everything happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Computing, for each stage.
    pub spans: Vec<Vec<Span>>,
    /// End of the last action.
    pub end: f64,
    /// Most (micro-batch, chunk) pairs each stage held at once, from forward until the weight gradients.
    pub peak_in_flight: Vec<usize>,
}

impl Timeline {
    /// Time in which a stage computes nothing, of the stage where it is largest.
    pub fn bubble(&self) -> f64 {
        let busy = |spans: &Vec<Span>| spans.iter().map(|s| s.end - s.start).sum::<f64>();
        self.spans.iter().map(|spans| self.end - busy(spans)).fold(0.0, f64::max)
    }
}

/// A schedule that does not finish, or does something twice or too early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    #[error("deadlock: stage {stage} waits for {action}, which nobody sends any more")]
    Deadlock { stage: usize, action: Action },
    #[error("stage {stage} runs {action} before what it needs, or twice")]
    Order { stage: usize, action: Action },
    #[error("stage {stage} ends without {missing} of its {total} pieces of work")]
    Missing { stage: usize, missing: usize, total: usize },
}

/// What a stage knows of one piece of work.
#[derive(Clone, Copy, Default, PartialEq)]
struct State {
    forward: bool,
    input: bool,
    weight: bool,
    has_activation: bool,
    has_gradient: bool,
}

/// Runs the whole schedule.
pub fn simulate(schedule: &Schedule, costs: Costs) -> Result<Timeline, Stuck> {
    let stages = schedule.stages;
    // When a message to (stage, chunk) is there: one map for activations, one for gradients.
    let mut arrivals: [HashMap<(usize, Work), f64>; 2] = Default::default();
    let mut states: Vec<HashMap<Work, State>> = vec![HashMap::new(); stages];
    let (mut position, mut clock) = (vec![0; stages], vec![0.0f64; stages]);
    let (mut in_flight, mut peak) = (vec![0usize; stages], vec![0usize; stages]);
    let mut spans: Vec<Vec<Span>> = vec![Vec::new(); stages];
    loop {
        let mut moved = false;
        for stage in 0..stages {
            while let Some(&action) = schedule.actions[stage].get(position[stage]) {
                let wrong = Stuck::Order { stage, action };
                let now = &mut clock[stage];
                match action {
                    Action::ReceiveActivation(w) | Action::ReceiveGradient(w) => {
                        let gradient = matches!(action, Action::ReceiveGradient(_));
                        let Some(&at) = arrivals[usize::from(gradient)].get(&(stage, w)) else { break };
                        *now = now.max(at);
                        let state = states[stage].entry(w).or_default();
                        let seen = if gradient { &mut state.has_gradient } else { &mut state.has_activation };
                        if std::mem::replace(seen, true) {
                            return Err(wrong);
                        }
                    }
                    Action::SendActivation(w) | Action::SendGradient(w) => {
                        let gradient = matches!(action, Action::SendGradient(_));
                        let state = states[stage].get(&w).copied().unwrap_or_default();
                        let to = if gradient {
                            schedule.previous(stage, w.chunk).filter(|_| state.input)
                        } else {
                            schedule.next(stage, w.chunk).filter(|_| state.forward)
                        };
                        let (to, chunk) = to.ok_or(wrong.clone())?;
                        let key = (to, Work { chunk, ..w });
                        let at = *now + costs.transfer;
                        if arrivals[usize::from(gradient)].insert(key, at).is_some() {
                            return Err(wrong);
                        }
                    }
                    Action::Forward(w) => {
                        let first = schedule.previous(stage, w.chunk).is_none();
                        let state = states[stage].entry(w).or_default();
                        if state.forward || !(first || state.has_activation) {
                            return Err(wrong);
                        }
                        state.forward = true;
                        in_flight[stage] += 1;
                        peak[stage] = peak[stage].max(in_flight[stage]);
                    }
                    Action::BackwardInput(w) | Action::Backward(w) => {
                        let last = schedule.next(stage, w.chunk).is_none();
                        let state = states[stage].entry(w).or_default();
                        if !state.forward || state.input || !(last || state.has_gradient) {
                            return Err(wrong);
                        }
                        state.input = true;
                        if matches!(action, Action::Backward(_)) {
                            state.weight = true;
                            in_flight[stage] -= 1;
                        }
                    }
                    Action::BackwardWeight(w) => {
                        let state = states[stage].entry(w).or_default();
                        if !state.input || state.weight {
                            return Err(wrong);
                        }
                        state.weight = true;
                        in_flight[stage] -= 1;
                    }
                    Action::ReduceGradients | Action::Step => {
                        let total = schedule.micro_batches * schedule.chunks;
                        let done = states[stage].values().filter(|s| s.weight).count();
                        if done != total {
                            return Err(Stuck::Missing { stage, missing: total - done, total });
                        }
                    }
                }
                let cost = match action {
                    Action::Forward(_) => costs.forward,
                    Action::BackwardInput(_) => costs.backward_input,
                    Action::BackwardWeight(_) => costs.backward_weight,
                    Action::Backward(_) => costs.backward_input + costs.backward_weight,
                    _ => 0.0,
                };
                if cost > 0.0 {
                    spans[stage].push(Span { action, start: clock[stage], end: clock[stage] + cost });
                    clock[stage] += cost;
                }
                position[stage] += 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    for (stage, &at) in position.iter().enumerate() {
        if let Some(&action) = schedule.actions[stage].get(at) {
            return Err(Stuck::Deadlock { stage, action });
        }
    }
    let end = clock.into_iter().fold(0.0, f64::max);
    Ok(Timeline { spans, end, peak_in_flight: peak })
}

#[cfg(test)]
mod tests {
    use super::*;
    use triax_spec::run::ScheduleKind as Kind;

    /// Every schedule that exists for stages 1–16, chunks 1–4 and micro-batches 1–64.
    fn grid() -> impl Iterator<Item = Schedule> {
        let kinds = [Kind::GPipe, Kind::OneForwardOneBackward, Kind::Interleaved, Kind::ZeroBubbleH1];
        kinds.into_iter().flat_map(|kind| {
            (1..=16).flat_map(move |p| {
                (1..=4).flat_map(move |v| (1..=64).filter_map(move |m| Schedule::new(kind, p, v, m).ok()))
            })
        })
    }

    const COSTS: Costs = Costs { forward: 1.0, backward_input: 1.0, backward_weight: 1.0, transfer: 0.0 };

    #[test]
    fn every_schedule_of_the_grid_finishes_in_order_within_its_published_memory() {
        let mut checked = 0;
        for schedule in grid() {
            let timeline = simulate(&schedule, COSTS).unwrap_or_else(|e| panic!("{e}\n{schedule}"));
            for stage in 0..schedule.stages {
                assert_eq!(
                    timeline.peak_in_flight[stage],
                    schedule.peak_in_flight(stage),
                    "stage {stage} of {schedule}"
                );
            }
            checked += 1;
        }
        assert!(checked > 4000, "{checked}");
    }

    #[test]
    fn the_bubble_is_the_published_formula() {
        // All costs are per chunk, so the formulas' whole-stage times are chunks times as long.
        for schedule in grid().filter(|s| s.micro_batches >= s.stages) {
            let timeline = simulate(&schedule, COSTS).unwrap_or_else(|e| panic!("{e}"));
            let p = schedule.stages as f64;
            let expected = match schedule.kind {
                // (p-1)(F+B), and over v chunks (p-1)(F+B)/v.
                Kind::GPipe | Kind::OneForwardOneBackward | Kind::Interleaved => (p - 1.0) * 3.0,
                // (p-1)(F+I-W).
                Kind::ZeroBubbleH1 => p - 1.0,
            };
            assert!((timeline.bubble() - expected).abs() < 1e-9, "{} for {schedule}", timeline.bubble());
        }
    }

    #[test]
    fn a_list_that_waits_for_nobody_is_a_deadlock() {
        let mut schedule = Schedule::new(Kind::OneForwardOneBackward, 2, 1, 2).expect("valid");
        schedule.actions[0].retain(|a| !matches!(a, Action::SendActivation(w) if w.micro_batch == 1));
        assert!(matches!(simulate(&schedule, COSTS), Err(Stuck::Deadlock { .. })));
    }

    #[test]
    fn work_done_twice_or_left_out_is_found() {
        let good = Schedule::new(Kind::ZeroBubbleH1, 3, 1, 4).expect("valid");
        let weight = |a: &&Action| matches!(a, Action::BackwardWeight(_));
        let mut twice = good.clone();
        let repeated = *twice.actions[1].iter().find(weight).expect("has one");
        twice.actions[1].push(repeated);
        assert!(matches!(simulate(&twice, COSTS), Err(Stuck::Order { stage: 1, .. })));
        let mut missing = good;
        let at = missing.actions[2].iter().position(|a| weight(&a)).expect("has one");
        missing.actions[2].remove(at);
        assert!(matches!(simulate(&missing, COSTS), Err(Stuck::Missing { stage: 2, missing: 1, total: 4 })));
    }
}
