//! What a run needs, before anything is allocated: the network, the optimizer's moments and the memory table.

use crate::TrainError;
use serde::Serialize;
use std::fmt;
use triax_model::{Network, Options};
use triax_spec::Run;
use triax_spec::run::Precision;
use triax_tensor::{Class, DType, Device, Table, View};

/// Tokens whose logits are held at a time.
const LOSS_CHUNK: usize = 512;

/// A planned run on one device. `Display` is the memory table by class.
pub struct Plan {
    pub(crate) run: Run,
    pub(crate) network: Network,
    /// Adam's running means of the gradient and of its square, one pair for each parameter.
    pub(crate) moments: Vec<[View; 2]>,
    table: Table,
    scratch_bytes: usize,
}

impl Plan {
    pub fn new(run: &Run, device: &dyn Device) -> Result<Self, TrainError> {
        let train = &run.train;
        let largest = train.global_batch.start.max(train.global_batch.end);
        let micro_batch = run.layout.micro_batch;
        let options = Options {
            dtype: match train.precision {
                Precision::Bf16 => DType::Bf16,
                Precision::F16 => DType::F16,
                Precision::F32 => DType::F32,
            },
            sequence: train.sequence,
            micro_batch,
            micro_batches: largest.div_ceil(micro_batch.max(1) as u64) as usize,
            recompute: run.layout.recompute,
            tensor_shards: run.numerics.tensor_shards,
            loss_chunk: LOSS_CHUNK.min(micro_batch * train.sequence),
            seed: train.seed,
            training: true,
        };
        let mut table = Table::new();
        let network = Network::plan(&run.model, &options, device, &mut table)?;
        let moments = network
            .parameters()
            .iter()
            .map(|parameter| {
                ["m", "v"].map(|moment| {
                    let name = format!("{}.{moment}", parameter.name);
                    let View { rows, cols, .. } = parameter.weight;
                    table.add(name, Class::Optimizer, DType::F32, rows, cols)
                })
            })
            .collect();
        let scratch_bytes = network.scratch_bytes(device);
        Ok(Self { run: run.clone(), network, moments, table, scratch_bytes })
    }

    /// Every buffer of the arena.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Bytes beside the arena for operations in flight.
    pub const fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// Bytes of the copy that the checkpoint writer works from: weights and moments. Taken at the first save.
    pub fn staging_bytes(&self) -> usize {
        3 * self.table.class_bytes(Class::Weights)
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

    fn rows(&self) -> impl Iterator<Item = (&'static str, usize)> {
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

    pub(crate) fn to_json(&self) -> Vec<u8> {
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
        let mut text = serde_json::to_vec_pretty(&memory).expect("names and numbers always serialize");
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
