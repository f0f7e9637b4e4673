//! What a rank of a run needs, before anything is allocated: its part of the network, the optimizer's moments, the
//! schedule and the memory table.

use crate::TrainError;
use crate::buckets::{Bucket, buckets};
use crate::checkpoint::Saver;
use crate::poison::Checks;
use serde::Serialize;
use std::fmt;
use triax_comm::{Axis, Mesh};
use triax_model::{Network, Options, Shared, Stage, TensorSplit};
use triax_plan::{Layout, Schedule, StageCosts, split_layers};
use triax_spec::Run;
use triax_spec::run::{Precision, ScheduleKind};
use triax_tensor::{Class, DType, Device, Table, View};

/// Tokens whose logits are held at a time.
const LOSS_CHUNK: usize = 512;

/// What one rank of a run needs. `Display` is the memory table by class.
pub struct Plan {
    pub(crate) run: Run,
    pub(crate) layout: Layout,
    pub(crate) mesh: Mesh,
    stage: Stage,
    /// Of the largest step's groups.
    pub(crate) schedule: Schedule,
    pub(crate) network: Network,
    pub(crate) buckets: Vec<Bucket>,
    /// What finds out where gradients were not finite before they were summed over the replicas.
    pub(crate) checks: Option<Checks>,
    /// F64 `[1, most rows of a piece]`.
    pub(crate) squares: View,
    table: Table,
    scratch_bytes: usize,
}

impl Plan {
    /// A run on one rank.
    pub fn new(run: &Run, device: &dyn Device) -> Result<Self, TrainError> {
        Self::of_rank(run, &Layout::new(run, 1)?, 0, device)
    }

    /// Rank `rank` of a run.
    pub fn of_rank(run: &Run, layout: &Layout, rank: usize, device: &dyn Device) -> Result<Self, TrainError> {
        let Layout { tensor, data, pipeline, chunks, .. } = *layout;
        let mesh = Mesh::new(triax_comm::Layout { tensor, data, pipeline }, rank);
        let train = &run.train;
        let largest = train.global_batch.start.max(train.global_batch.end);
        let micro_batches = layout.micro_batches(largest);
        let schedule = Schedule::new(layout.schedule, pipeline, chunks, micro_batches)?;
        let stage = stage(run, layout, mesh.coordinate(Axis::Pipeline));
        let options = Options {
            dtype: match train.precision {
                Precision::Bf16 => DType::Bf16,
                Precision::F16 => DType::F16,
                Precision::F32 => DType::F32,
            },
            sequence: train.sequence,
            micro_batch: layout.micro_batch,
            micro_batches: micro_batches * layout.groups(),
            recompute: run.layout.recompute,
            tensor_shards: layout.tensor_shards,
            loss_chunk: LOSS_CHUNK.min(layout.micro_batch * train.sequence),
            seed: train.seed,
            training: true,
            tensor: TensorSplit {
                size: tensor,
                index: mesh.coordinate(Axis::Tensor),
                sequence: layout.sequence_parallel,
            },
            deferred: layout.schedule == ScheduleKind::ZeroBubbleH1 && pipeline > 1,
            shared: Shared { gradients: layout.zero > 1, weights: layout.zero > 2 },
        };
        let slots = schedule.peak_in_flight(mesh.coordinate(Axis::Pipeline));
        let mut table = Table::new();
        let network = Network::plan_stage(&run.model, &options, &stage, slots, device, &mut table)?;
        let own = mesh.coordinate(Axis::Data);
        let arrivals = [micro_batches * layout.groups(), layout.groups()];
        let buckets = buckets(network.parameters(), layout, own, arrivals, &mut table);
        let rounds = if layout.zero > 1 { arrivals[0] } else { 1 };
        let checks = (data > 1).then(|| Checks::plan(&mut table, rounds, network.parameters().len()));
        let rows = buckets
            .iter()
            .flat_map(|bucket| {
                bucket.pieces(&bucket.parts[own]).map(|piece| piece.elements.len() / piece.row)
            })
            .fold(1, usize::max);
        let squares = table.add("gradient squares", Class::Workspace, DType::F64, 1, rows);
        let scratch_bytes = network.scratch_bytes(device);
        let (run, layout) = (run.clone(), layout.clone());
        Ok(Self {
            run,
            layout,
            mesh,
            stage,
            schedule,
            network,
            buckets,
            checks,
            squares,
            table,
            scratch_bytes,
        })
    }

    /// The layers of this rank.
    pub const fn stage(&self) -> &Stage {
        &self.stage
    }

    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// This rank's place.
    pub const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Every buffer of the arena.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Bytes beside the arena for operations in flight.
    pub const fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of what is on its way to the checkpoint writer during a save: a third of the weights and moments that
    /// this rank writes, or all of it if that is little.
    pub fn staging_bytes(&self) -> usize {
        let own = self.mesh.coordinate(Axis::Data);
        Saver::staging_bytes(3 * self.buckets.iter().map(|bucket| bucket.parts[own].len()).sum::<usize>())
    }

    pub fn total_bytes(&self) -> usize {
        self.table.bytes() + self.scratch_bytes + self.staging_bytes()
    }

    /// Refuses a plan that does not fit into `available` bytes.
    pub fn check_memory(&self, available: usize) -> Result<(), TrainError> {
        let needed = self.total_bytes();
        if needed > available {
            let micro_batch = self.run.layout.micro_batch;
            return Err(TrainError::Memory { needed, available, micro_batch });
        }
        Ok(())
    }

    /// Bytes by class, scratch memory and the copy that checkpoints are written from.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, usize)> {
        Class::ALL
            .iter()
            .map(|&class| (class.name(), self.table.class_bytes(class)))
            .chain([("scratch", self.scratch_bytes), ("checkpoint copy", self.staging_bytes())])
    }

    /// One line for each buffer, in the order of the arena.
    pub fn detail(&self) -> String {
        let line = |entry: &triax_tensor::Entry| {
            format!("{:>14}  {:<15}  {}\n", entry.bytes, entry.class.name(), entry.name)
        };
        self.table.entries().iter().map(line).collect()
    }

    /// The memory table with every buffer.
    pub fn to_value(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Memory<'a> {
            total_bytes: usize,
            classes: Vec<Row<'a>>,
            buffers: Vec<Buffer<'a>>,
        }
        #[derive(Serialize)]
        struct Row<'a> {
            name: &'a str,
            bytes: usize,
        }
        #[derive(Serialize)]
        struct Buffer<'a> {
            name: &'a str,
            class: &'static str,
            offset: usize,
            bytes: usize,
        }
        let memory = Memory {
            total_bytes: self.total_bytes(),
            classes: self.rows().map(|(name, bytes)| Row { name, bytes }).collect(),
            buffers: self
                .table
                .entries()
                .iter()
                .map(|entry| Buffer {
                    name: &entry.name,
                    class: entry.class.name(),
                    offset: entry.offset,
                    bytes: entry.bytes,
                })
                .collect(),
        };
        serde_json::to_value(&memory).expect("names and numbers always serialize")
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(&self.to_value()).expect("a value always serializes");
        text.push(b'\n');
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        for (name, bytes) in self.rows() {
            writeln!(f, "{name:<16} {:>12.1} MiB", mib(bytes))?;
        }
        writeln!(f, "{:<16} {:>12.1} MiB", "total", mib(self.total_bytes()))
    }
}

/// The layers of pipeline stage `stage`.
fn stage(run: &Run, layout: &Layout, stage: usize) -> Stage {
    let (stages, chunks) = (layout.pipeline, layout.chunks);
    let costs = StageCosts::of(&run.model, run.train.sequence);
    let cuts = split_layers(run.model.layers, stages * chunks, costs);
    Stage {
        chunks: (0..chunks).map(|chunk| cuts[chunk * stages + stage].clone()).collect(),
        first: stage == 0,
        last: stage + 1 == stages,
    }
}

/// Memory that can be had without swapping, in bytes: what the kernel says, within the control group's limit.
/// Nothing where the system does not say.
pub fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024;
    let group = |file: &str| -> Option<usize> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
    };
    let limited = group("memory.max").zip(group("memory.current")).map(|(max, now)| max.saturating_sub(now));
    Some(limited.map_or(machine, |limited| machine.min(limited)))
}
