//! A pipeline schedule: for each stage the list of what it does, in order.
//!
//! ```text
//! 1F1B, 3 stages, 4 micro-batches (F forward, B backward):
//! stage 0   F0 F1 F2          B0 F3 B1    B2    B3
//! stage 1      F0 F1    B0 F2 B1 F3 B2    B3
//! stage 2         F0 B0 F1 B1 F2 B2 F3 B3
//! ```
//! Layers are cut into `stages · chunks` equal runs; run `chunk · stages + stage` belongs to `stage`. What a
//! stage receives and sends follows from that order, so every list also says when.
//!
//! Sources: GPipe (Huang et al. 2019), 1F1B and its interleaved form (Narayanan et al., SC 2021), ZB-H1 (Qi et
//! al., "Zero bubble pipeline parallelism", 2024).

mod interleaved;
mod one_forward_one_backward;
mod zero_bubble;

use std::fmt;
use triax_spec::run::ScheduleKind as Kind;

/// One micro-batch in one of a stage's chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    pub micro_batch: usize,
    pub chunk: usize,
}

/// One entry of a stage's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    ReceiveActivation(Work),
    Forward(Work),
    SendActivation(Work),
    ReceiveGradient(Work),
    /// Gradient of the stage's input alone.
    BackwardInput(Work),
    /// Gradients of the weights, whose inputs [`Action::BackwardInput`] left behind.
    BackwardWeight(Work),
    /// Both at once.
    Backward(Work),
    SendGradient(Work),
    /// Joins the gradients of the data-parallel replicas.
    ReduceGradients,
    /// The optimizer.
    Step,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, work) = match self {
            Self::ReceiveActivation(w) => ("ra", w),
            Self::Forward(w) => ("F", w),
            Self::SendActivation(w) => ("sa", w),
            Self::ReceiveGradient(w) => ("rg", w),
            Self::BackwardInput(w) => ("I", w),
            Self::BackwardWeight(w) => ("W", w),
            Self::Backward(w) => ("B", w),
            Self::SendGradient(w) => ("sg", w),
            Self::ReduceGradients => return f.write_str("reduce"),
            Self::Step => return f.write_str("step"),
        };
        write!(f, "{name}{}", work.micro_batch)?;
        if work.chunk > 0 { write!(f, ".{}", work.chunk) } else { Ok(()) }
    }
}

/// Numbers that make no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("{what} is 0; it must be at least 1")]
    Zero { what: &'static str },
    #[error("{kind} runs one chunk a stage, not {chunks}; use interleaved for more")]
    Chunks { kind: Kind, chunks: usize },
    #[error(
        "interleaved runs micro-batches in groups of the {stages} stages, and {micro_batches} are no \
         multiple of that; use {} or {}, or 1f1b", micro_batches / stages * stages, micro_batches.next_multiple_of(*stages)
    )]
    Group { stages: usize, micro_batches: usize },
}

/// Every stage's actions for one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub kind: Kind,
    pub stages: usize,
    pub chunks: usize,
    pub micro_batches: usize,
    /// One list for each stage.
    pub actions: Vec<Vec<Action>>,
}

impl Schedule {
    pub fn new(
        kind: Kind,
        stages: usize,
        chunks: usize,
        micro_batches: usize,
    ) -> Result<Self, ScheduleError> {
        for (what, value) in [("stages", stages), ("chunks", chunks), ("micro_batches", micro_batches)] {
            if value == 0 {
                return Err(ScheduleError::Zero { what });
            }
        }
        if kind != Kind::Interleaved && chunks != 1 {
            return Err(ScheduleError::Chunks { kind, chunks });
        }
        if kind == Kind::Interleaved && chunks > 1 && !micro_batches.is_multiple_of(stages) {
            return Err(ScheduleError::Group { stages, micro_batches });
        }
        let mut schedule = Self { kind, stages, chunks, micro_batches, actions: Vec::new() };
        schedule.actions = (0..stages)
            .map(|stage| {
                let compute = match kind {
                    Kind::GPipe => one_forward_one_backward::stage(micro_batches, micro_batches),
                    Kind::OneForwardOneBackward => {
                        one_forward_one_backward::stage(micro_batches, stages - 1 - stage)
                    }
                    Kind::Interleaved => interleaved::stage(stages, stage, chunks, micro_batches),
                    Kind::ZeroBubbleH1 => zero_bubble::stage(stages, stage, micro_batches),
                };
                schedule.with_transfers(stage, &compute)
            })
            .collect();
        Ok(schedule)
    }

    /// Puts receives in front of the work that needs them, sends behind the work that makes them, and the
    /// step at the end.
    fn with_transfers(&self, stage: usize, compute: &[Action]) -> Vec<Action> {
        let mut actions = Vec::with_capacity(3 * compute.len() + 2);
        let has_previous = |w: Work| stage > 0 || w.chunk > 0;
        let has_next = |w: Work| stage + 1 < self.stages || w.chunk + 1 < self.chunks;
        for &action in compute {
            match action {
                Action::Forward(w) => {
                    actions.extend(has_previous(w).then_some(Action::ReceiveActivation(w)));
                    actions.push(action);
                    actions.extend(has_next(w).then_some(Action::SendActivation(w)));
                }
                Action::Backward(w) | Action::BackwardInput(w) => {
                    actions.extend(has_next(w).then_some(Action::ReceiveGradient(w)));
                    actions.push(action);
                    actions.extend(has_previous(w).then_some(Action::SendGradient(w)));
                }
                other => actions.push(other),
            }
        }
        actions.extend([Action::ReduceGradients, Action::Step]);
        actions
    }

    /// The stage and chunk that run after `chunk` of `stage`.
    pub fn next(&self, stage: usize, chunk: usize) -> Option<(usize, usize)> {
        if stage + 1 < self.stages {
            Some((stage + 1, chunk))
        } else {
            (chunk + 1 < self.chunks).then_some((0, chunk + 1))
        }
    }

    /// The stage and chunk that run before `chunk` of `stage`.
    pub fn previous(&self, stage: usize, chunk: usize) -> Option<(usize, usize)> {
        if stage > 0 { Some((stage - 1, chunk)) } else { chunk.checked_sub(1).map(|c| (self.stages - 1, c)) }
    }

    /// Most (micro-batch, chunk) pairs whose activations a stage holds at once, as published: GPipe m; 1F1B
    /// p - stage; interleaved one more than its warm-up of 2(p - stage - 1) + (v - 1)p; ZB-H1 p; never more than
    /// there are.
    pub fn peak_in_flight(&self, stage: usize) -> usize {
        let (p, v, m) = (self.stages, self.chunks, self.micro_batches);
        match self.kind {
            Kind::GPipe => m,
            Kind::OneForwardOneBackward => (p - stage).min(m),
            Kind::Interleaved => (interleaved::warm_up(p, stage, v, m) + 1).min(m * v),
            Kind::ZeroBubbleH1 => p.min(m),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} stages, {} chunks, {} micro-batches",
            self.kind, self.stages, self.chunks, self.micro_batches
        )?;
        for (stage, actions) in self.actions.iter().enumerate() {
            write!(f, "stage {stage}:")?;
            for action in actions {
                write!(f, " {action}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
