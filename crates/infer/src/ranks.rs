//! A [`Network`] on several ranks, which are threads of this process: tensor ranks share each layer, stages follow
//! each other.
//!
//! ```text
//!            ┌ stage 0: tensor 0 ─border─▶ stage 1: tensor 0 ─ logits of its ids ┐
//! pass ──────┤             ⇅ sums                       ⇅ sums                   ├──▶ rows of logits
//!            └          tensor 1 ─border─▶           tensor 1 ─ logits of its ids ┘
//! ```
//! Every rank gets every pass and takes them in order, so blocks mean the same on all; a stage begins its next pass
//! while the one behind it is still in the last.

use crate::decoder::wanted_rows;
use crate::{Loading, Network, Part, Shape, load};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use triax_comm::local::{LocalRank, World};
use triax_comm::{Axis, Collective, CommError, Group, Layout, Mesh, Options as Peers};
use triax_model::{Decoder, ModelError, Portion, Rank, Span, Stage, TensorSource, TensorSplit};
use triax_plan::InferenceLayout;
use triax_spec::model::Model;
use triax_tensor::Device;

/// Opens the network on the ranks of `layout`, one device each, with the weights of `source`; each rank reads its own
/// part of them. Results have the bits of [`load`]. A rank that is silent for longer than `peers` allows ends all.
///
/// # Errors
/// As [`load`], and when the weights are quantised and tensor ranks would share them.
///
/// # Panics
/// When there is not one device for each rank.
pub fn load_in_ranks(
    model: &Model,
    loading: &Loading,
    layout: InferenceLayout,
    peers: Peers,
    mut devices: Vec<Box<dyn Device>>,
    source: &dyn TensorSource,
) -> Result<Box<dyn Network>, ModelError> {
    assert_eq!(devices.len(), layout.world(), "devices of {layout:?}");
    if layout == InferenceLayout::SINGLE {
        return load(model, loading, devices.remove(0), source);
    }
    let (shape, options) = loading.plan(model);
    let stages = layout.stages(model, loading.context);
    let places = Layout { tensor: layout.tensor(), data: 1, pipeline: layout.pipeline() };
    let mut opened = Vec::new();
    for (rank, mut device) in devices.into_iter().enumerate() {
        let mesh = Mesh::new(places, rank);
        let stage = mesh.coordinate(Axis::Pipeline);
        let portion = Portion {
            stage: Stage {
                chunks: vec![stages[stage].clone()],
                first: stage == 0,
                last: stage + 1 == stages.len(),
            },
            tensor: TensorSplit {
                size: layout.tensor(),
                index: mesh.coordinate(Axis::Tensor),
                sequence: false,
            },
        };
        opened.push((mesh, Decoder::open_portion(model, &options, portion, source, &mut *device)?, device));
    }
    let mut ranks = Ranks {
        shape,
        most: options.max_logits,
        passes: Vec::new(),
        logits: Vec::new(),
        threads: Vec::new(),
        row: vec![0.0; model.vocab],
    };
    for ((mesh, decoder, device), collective) in opened.into_iter().zip(World::new(layout.world(), peers)) {
        ranks.start(mesh, decoder, device, collective);
    }
    Ok(Box::new(ranks))
}

/// What all ranks are told of a pass.
struct Pass {
    parts: Vec<OwnedPart>,
    /// Rows whose logits are wanted.
    wanted: Vec<usize>,
    rows: usize,
}

struct OwnedPart {
    tokens: Vec<u32>,
    past: usize,
    blocks: Vec<u32>,
}

/// This end of the ranks.
struct Ranks {
    shape: Shape,
    /// Most rows of logits at a time.
    most: usize,
    passes: Vec<Sender<Arc<Pass>>>,
    /// The ids of each tensor rank of the last stage, and where their logits come from.
    logits: Vec<(Range<usize>, Receiver<Vec<f32>>)>,
    threads: Vec<JoinHandle<Result<(), CommError>>>,
    /// `[vocab]`.
    row: Vec<f32>,
}

impl Ranks {
    fn start(&mut self, mesh: Mesh, decoder: Decoder, device: Box<dyn Device>, collective: LocalRank) {
        let (send, passes) = channel();
        let is_last = mesh.neighbour(Axis::Pipeline, 1).is_none();
        let logits = is_last.then(|| {
            // One chunk waits while the next is made.
            let (send, receive) = sync_channel(1);
            self.logits.push((decoder.ids(), receive));
            send
        });
        let tensor = mesh.group(Axis::Tensor);
        let name = format!("rank {}", mesh.rank());
        let worker = Worker { mesh, tensor, decoder, device, collective, most: self.most, logits };
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(&passes));
        self.passes.push(send);
        self.threads.push(thread.expect("the operating system can start a thread"));
    }

    /// Ends all ranks; the first that failed says why.
    fn end(&mut self) -> Result<(), CommError> {
        self.passes.clear();
        self.logits.clear();
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(result) => outcome = outcome.and(result),
                Err(panic) if !std::thread::panicking() => std::panic::resume_unwind(panic),
                Err(_) => {}
            }
        }
        outcome
    }

    /// A rank has ended before its time.
    fn fail(&mut self) -> ! {
        match self.end() {
            Err(error) => panic!("the ranks of the network: {error}"),
            Ok(()) => unreachable!("a rank ends by itself only with an error"),
        }
    }
}

impl Network for Ranks {
    fn shape(&self) -> Shape {
        self.shape
    }

    /// # Panics
    /// When a rank has panicked or a rank's message did not come in time: nothing can be said of what is in memory.
    fn step(&mut self, parts: &[Part<'_>], each: &mut dyn FnMut(usize, &[f32])) {
        let own = |part: &Part<'_>| OwnedPart {
            tokens: part.tokens.to_vec(),
            past: part.past,
            blocks: part.blocks.to_vec(),
        };
        let pass = Arc::new(Pass {
            parts: parts.iter().map(own).collect(),
            wanted: wanted_rows(parts),
            rows: parts.iter().map(|part| part.tokens.len()).sum(),
        });
        if self.passes.iter().any(|passes| passes.send(Arc::clone(&pass)).is_err()) {
            self.fail();
        }
        let mut row = 0;
        for rows in pass.wanted.chunks(self.most) {
            let chunks: Result<Vec<Vec<f32>>, _> = self.logits.iter().map(|(_, from)| from.recv()).collect();
            let Ok(chunks) = chunks else { self.fail() };
            for index in 0..rows.len() {
                for ((ids, _), chunk) in self.logits.iter().zip(&chunks) {
                    self.row[ids.clone()].copy_from_slice(&chunk[index * ids.len()..][..ids.len()]);
                }
                each(row, &self.row);
                row += 1;
            }
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // Whoever drops it wants nothing of it any more.
        let _ = self.end();
    }
}

/// One rank on its own thread.
struct Worker {
    mesh: Mesh,
    tensor: Group,
    decoder: Decoder,
    device: Box<dyn Device>,
    collective: LocalRank,
    most: usize,
    /// Of a last stage.
    logits: Option<SyncSender<Vec<f32>>>,
}

/// Passes follow each other in order, so one tag does for all borders.
const BORDER: u64 = 0;

impl Worker {
    fn run(mut self, passes: &Receiver<Arc<Pass>>) -> Result<(), CommError> {
        while let Ok(pass) = passes.recv() {
            self.step(&pass)?;
        }
        self.collective.leave()
    }

    fn step(&mut self, pass: &Pass) -> Result<(), CommError> {
        let spans: Vec<Span<'_>> = pass
            .parts
            .iter()
            .map(|part| Span { tokens: &part.tokens, position: part.past, blocks: &part.blocks })
            .collect();
        let border = self.decoder.border(pass.rows);
        let device = &mut *self.device;
        if let Some(before) = self.mesh.neighbour(Axis::Pipeline, -1) {
            let handle = self.collective.receive(device, before, border, BORDER, "border of a stage")?;
            self.collective.wait(device, handle)?;
        }
        let tensor = (self.tensor.size() > 1).then_some(&self.tensor);
        let mut rank = Rank { device, collective: Some(&mut self.collective), tensor };
        self.decoder.step_of_rank(&mut rank, &spans)?;
        let device = &mut *self.device;
        if let Some(after) = self.mesh.neighbour(Axis::Pipeline, 1) {
            let handle = self.collective.send(device, after, border, BORDER, "border of a stage")?;
            return self.collective.wait(device, handle);
        }
        for rows in pass.wanted.chunks(self.most) {
            let mut logits = vec![0.0; rows.len() * self.decoder.ids().len()];
            self.decoder.logits(device, rows, &mut logits);
            if self.logits.as_ref().is_some_and(|to| to.send(logits).is_err()) {
                // Nobody listens any more: the end of all passes is near.
                break;
            }
        }
        Ok(())
    }
}
