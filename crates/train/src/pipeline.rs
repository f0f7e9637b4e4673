//! Executes a stage's list of actions, as the schedule has it.
//!
//! ```text
//! ReceiveActivation ─▶ slot ─▶ Forward ─▶ SendActivation … ReceiveGradient ─▶ Backward ─▶ SendGradient ─▶ slot is free
//! ```
//! A micro-batch in flight has a slot from its first action until its weight gradients are done. What was sent is
//! awaited only when its buffer is needed again; the next receive of the list is begun before something is computed,
//! so that it arrives meanwhile.

use crate::TrainError;
use crate::engine::{Batches, Engine, rank_of};
use crate::replicas::Hooks;
use std::collections::HashMap;
use std::time::Instant;
use triax_comm::{Axis, CommError, Handle};
use triax_model::{MicroBatch, Network, Rank};
use triax_plan::{Action, Work};

/// What is under way.
#[derive(Default)]
struct Flight {
    slots: HashMap<Work, usize>,
    free: Vec<usize>,
    /// Activations being sent, by slot.
    sent: HashMap<usize, Handle>,
    /// The gradient of the residual stream in use, and those being sent.
    residual: usize,
    sent_gradients: Vec<Option<Handle>>,
    /// A receive that was begun before its turn.
    posted: Option<Posted>,
}

struct Posted {
    handle: Handle,
    /// Which gradient of the residual stream arrives, if it is one.
    residual: Option<usize>,
}

/// A border between two chunks of layers, and the direction in which it is crossed.
#[derive(Clone, Copy)]
struct Border {
    /// The chunk before it, counted over all stages.
    before: usize,
    gradient: bool,
}

impl Border {
    fn tag(self) -> u64 {
        2 * self.before as u64 + u64::from(self.gradient)
    }

    fn what(self) -> &'static str {
        if self.gradient { "gradient of a stage" } else { "activation of a stage" }
    }
}

impl Engine {
    /// Runs one group's micro-batches (its number, and how many they are) through the schedule. `overlap`: gradients are reduced over the replicas as soon as
    /// a layer's are finished.
    pub(crate) fn run_schedule(
        &mut self,
        batches: &mut dyn Batches,
        (group, count): (usize, usize),
        grad_scale: f32,
        overlap: bool,
    ) -> Result<(), TrainError> {
        let stage = self.mesh.coordinate(Axis::Pipeline);
        if self.schedule.stages == 1 {
            return self.run_alone(batches, (group, count), grad_scale, overlap);
        }
        let mut flight = Flight {
            free: (0..self.schedule.peak_in_flight(stage)).rev().collect(),
            sent_gradients: (0..self.network.residual_gradients()).map(|_| None).collect(),
            ..Flight::default()
        };
        let last = self.schedule.micro_batches - 1;
        for index in 0..self.schedule.actions[stage].len() {
            let (action, begin) = (self.schedule.actions[stage][index], Instant::now());
            match action {
                Action::ReceiveActivation(work) => {
                    let slot = self.slot(&mut flight, work, batches, group)?;
                    let input = self.network.input(slot);
                    if let Some(Posted { handle, .. }) = flight.posted.take() {
                        self.collective.wait(&mut *self.device, handle)?;
                        let received = self.network.received().expect("was posted there");
                        self.device.cast(received.row_range(0, input.rows), input);
                    } else {
                        let handle = self.receive(self.before(stage, work.chunk), input)?;
                        self.collective.wait(&mut *self.device, handle)?;
                    }
                }
                Action::Forward(work) => {
                    self.receive_ahead(&mut flight, stage, index)?;
                    let slot = self.slot(&mut flight, work, batches, group)?;
                    self.forward(slot, work.chunk, grad_scale)?;
                }
                Action::SendActivation(work) => {
                    let slot = flight.slots[&work];
                    let view = self.network.output(slot, work.chunk);
                    let handle = self.send(self.after(stage, work.chunk), view)?;
                    flight.sent.insert(slot, handle);
                }
                Action::ReceiveGradient(work) => {
                    let handle = match flight.posted.take() {
                        Some(Posted { handle, residual }) => {
                            flight.residual = residual.expect("the next receive of the list is a gradient");
                            handle
                        }
                        None => {
                            self.turn(&mut flight)?;
                            self.receive_gradient(stage, work, flight.slots[&work], flight.residual)?
                        }
                    };
                    self.collective.wait(&mut *self.device, handle)?;
                }
                Action::Backward(work) | Action::BackwardInput(work) => {
                    if self.is_last(stage, work.chunk) {
                        self.turn(&mut flight)?;
                    }
                    self.receive_ahead(&mut flight, stage, index)?;
                    let slot = flight.slots[&work];
                    let overlap = overlap && work.micro_batch == last;
                    self.backward(slot, work.chunk, flight.residual, overlap)?;
                    let weights_done = matches!(action, Action::Backward(_));
                    let sends = matches!(
                        self.schedule.actions[stage].get(index + 1),
                        Some(Action::SendGradient(next)) if *next == work
                    );
                    if weights_done && !sends {
                        self.release(&mut flight, work)?;
                    }
                }
                Action::SendGradient(work) => {
                    let view = self.network.residual_gradient(flight.slots[&work], flight.residual);
                    let mut border = self.before(stage, work.chunk);
                    border.0.gradient = true;
                    let handle = self.send(border, view)?;
                    flight.sent_gradients[flight.residual] = Some(handle);
                    if matches!(self.schedule.actions[stage][index - 1], Action::Backward(_)) {
                        self.release(&mut flight, work)?;
                    }
                }
                Action::BackwardWeight(work) => {
                    self.receive_ahead(&mut flight, stage, index)?;
                    let slot = flight.slots[&work];
                    self.backward_weight(slot, work.chunk, overlap && work.micro_batch == last)?;
                    self.release(&mut flight, work)?;
                }
                // The engine does these when the schedule is through.
                Action::ReduceGradients | Action::Step => continue,
            }
            self.note(action, begin);
        }
        for handle in flight.sent.into_values().chain(flight.sent_gradients.into_iter().flatten()) {
            self.collective.wait(&mut *self.device, handle)?;
        }
        Ok(())
    }

    /// One stage: each micro-batch through all layers and back.
    fn run_alone(
        &mut self,
        batches: &mut dyn Batches,
        (group, count): (usize, usize),
        grad_scale: f32,
        overlap: bool,
    ) -> Result<(), TrainError> {
        for micro_batch in 0..count {
            let batch = batches.micro_batch(group, micro_batch)?;
            self.network.upload(&mut *self.device, 0, &batch);
            self.forward(0, 0, grad_scale)?;
            self.backward(0, 0, 0, overlap && micro_batch + 1 == count)?;
        }
        Ok(())
    }

    /// The network, this rank as it sees it, and what happens around layers.
    fn parts(&mut self, last: bool) -> (&mut Network, Rank<'_>, Hooks<'_>) {
        let rank = rank_of(&mut *self.device, &mut *self.collective, &self.groups);
        (&mut self.network, rank, self.replicas.hooks(last))
    }

    fn forward(&mut self, slot: usize, chunk: usize, grad_scale: f32) -> Result<(), CommError> {
        let (network, mut rank, mut hooks) = self.parts(false);
        network.forward(&mut rank, slot, chunk, grad_scale, &mut hooks)
    }

    fn backward(&mut self, slot: usize, chunk: usize, residual: usize, last: bool) -> Result<(), CommError> {
        let (network, mut rank, mut hooks) = self.parts(last);
        network.backward(&mut rank, slot, chunk, residual, &mut hooks)
    }

    fn backward_weight(&mut self, slot: usize, chunk: usize, last: bool) -> Result<(), CommError> {
        let (network, mut rank, mut hooks) = self.parts(last);
        network.backward_weight(&mut rank, slot, chunk, &mut hooks)
    }

    /// The slot of a piece of work; a new one gets its micro-batch.
    fn slot(
        &mut self,
        flight: &mut Flight,
        work: Work,
        batches: &mut dyn Batches,
        group: usize,
    ) -> Result<usize, TrainError> {
        if let Some(&slot) = flight.slots.get(&work) {
            return Ok(slot);
        }
        let slot = flight.free.pop().expect("no more in flight than the schedule's peak");
        flight.slots.insert(work, slot);
        let batch = batches.micro_batch(group, work.micro_batch)?;
        self.network.upload(&mut *self.device, slot, &batch);
        Ok(slot)
    }

    fn release(&mut self, flight: &mut Flight, work: Work) -> Result<(), CommError> {
        let slot = flight.slots.remove(&work).expect("work in flight has a slot");
        if let Some(handle) = flight.sent.remove(&slot) {
            self.collective.wait(&mut *self.device, handle)?;
        }
        flight.free.push(slot);
        Ok(())
    }

    /// Begins the next receive of the list behind `index`, where something is computed.
    fn receive_ahead(&mut self, flight: &mut Flight, stage: usize, index: usize) -> Result<(), CommError> {
        if flight.posted.is_some() {
            return Ok(());
        }
        let later = &self.schedule.actions[stage][index + 1..];
        let receives =
            |action: &&Action| matches!(action, Action::ReceiveActivation(_) | Action::ReceiveGradient(_));
        let Some(&next) = later.iter().find(receives) else { return Ok(()) };
        let posted = match next {
            Action::ReceiveActivation(work) => {
                let received = self.network.received().expect("a chunk that receives its input");
                Posted { handle: self.receive(self.before(stage, work.chunk), received)?, residual: None }
            }
            Action::ReceiveGradient(work) => {
                // A backward pass before it takes the gradient that it would arrive in.
                let taken = later
                    .iter()
                    .take_while(|action| !receives(action))
                    .any(|action| matches!(action, Action::Backward(_) | Action::BackwardInput(_)));
                let (Some(&slot), false) = (flight.slots.get(&work), taken) else { return Ok(()) };
                // Chunks make a ring of the stages: one in which all wait for their sends before they receive.
                let other = (flight.residual + 1) % flight.sent_gradients.len();
                if self.schedule.chunks > 1 && flight.sent_gradients[other].is_some() {
                    return Ok(());
                }
                let residual = self.free_residual(flight)?;
                let handle = self.receive_gradient(stage, work, slot, residual)?;
                Posted { handle, residual: Some(residual) }
            }
            _ => return Ok(()),
        };
        flight.posted = Some(posted);
        Ok(())
    }

    fn receive_gradient(
        &mut self,
        stage: usize,
        work: Work,
        slot: usize,
        residual: usize,
    ) -> Result<Handle, CommError> {
        let view = self.network.residual_gradient(slot, residual);
        let mut border = self.after(stage, work.chunk);
        border.0.gradient = true;
        self.receive(border, view)
    }

    /// Takes the other gradient of the residual stream.
    fn turn(&mut self, flight: &mut Flight) -> Result<(), CommError> {
        flight.residual = self.free_residual(flight)?;
        Ok(())
    }

    /// The gradient of the residual stream that is not in use, once it has been sent.
    fn free_residual(&mut self, flight: &mut Flight) -> Result<usize, CommError> {
        let other = (flight.residual + 1) % flight.sent_gradients.len();
        if let Some(handle) = flight.sent_gradients[other].take() {
            self.collective.wait(&mut *self.device, handle)?;
        }
        Ok(other)
    }

    fn is_last(&self, stage: usize, chunk: usize) -> bool {
        self.schedule.next(stage, chunk).is_none()
    }

    /// The border in front of a chunk, and the rank behind it.
    fn before(&self, stage: usize, chunk: usize) -> (Border, usize) {
        let (before, other) = self.schedule.previous(stage, chunk).expect("the first chunk receives nothing");
        let border = Border { before: other * self.schedule.stages + before, gradient: false };
        (border, self.mesh.at(Axis::Pipeline, before))
    }

    /// The border behind a chunk, and the rank behind it.
    fn after(&self, stage: usize, chunk: usize) -> (Border, usize) {
        let (after, _) = self.schedule.next(stage, chunk).expect("the last chunk sends nothing on");
        let border = Border { before: chunk * self.schedule.stages + stage, gradient: false };
        (border, self.mesh.at(Axis::Pipeline, after))
    }

    fn send(&mut self, (border, to): (Border, usize), view: triax_tensor::View) -> Result<Handle, CommError> {
        self.collective.send(&mut *self.device, to, view, border.tag(), border.what())
    }

    fn receive(
        &mut self,
        (border, from): (Border, usize),
        view: triax_tensor::View,
    ) -> Result<Handle, CommError> {
        self.collective.receive(&mut *self.device, from, view, border.tag(), border.what())
    }

    /// The sum of the losses of a micro-batch, without dropout and gradients, on its replica's last stage; none on the
    /// others. All ranks of a replica call it together, not between `step` and `update`.
    pub(crate) fn evaluate(
        &mut self,
        batch: &MicroBatch<'_>,
        losses: &mut [f32],
    ) -> Result<Option<f64>, TrainError> {
        self.network.upload_evaluation(&mut *self.device, batch);
        let stage = self.mesh.coordinate(Axis::Pipeline);
        for chunk in 0..self.schedule.chunks {
            if self.schedule.previous(stage, chunk).is_some() {
                let handle = self.receive(self.before(stage, chunk), self.network.input(0))?;
                self.collective.wait(&mut *self.device, handle)?;
            }
            let (network, mut rank, mut hooks) = self.parts(false);
            network.evaluate(&mut rank, chunk, &mut hooks)?;
            if !self.is_last(stage, chunk) {
                let handle = self.send(self.after(stage, chunk), self.network.output(0, chunk))?;
                self.collective.wait(&mut *self.device, handle)?;
            }
        }
        if !self.is_last(stage, self.schedule.chunks - 1) {
            return Ok(None);
        }
        self.network.token_losses(&*self.device, losses);
        Ok(Some(losses.iter().map(|&loss| f64::from(loss)).sum()))
    }
}
