//! A run's layout on a world: how many ranks along each axis, which samples each replica takes, and whether the
//! result has the bits of every other layout that shares its trees.
//!
//! ```text
//! one step's batch ── data_groups equal groups, summed by a fixed tree ── micro-batches, summed in order
//! ```

use triax_spec::run::{NumericsMode, ScheduleKind};
use triax_spec::{Model, Run};

/// Numbers that fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub tensor: usize,
    pub pipeline: usize,
    pub data: usize,
    pub chunks: usize,
    pub schedule: ScheduleKind,
    pub sequence_parallel: bool,
    pub zero: usize,
    /// Sequences in a micro-batch.
    pub micro_batch: usize,
    /// Groups that a batch's gradients are summed in.
    pub data_groups: usize,
    /// Groups are dealt to the replicas in turn, not in runs: with every sum over replicas ZeRO-2 and 3 then finish a
    /// node of the tree, and keep one part of it.
    pub in_turn: bool,
    /// Virtual shards of sums that tensor parallelism may split.
    pub tensor_shards: usize,
    /// Why the bits are this layout's own; none when they are those of every layout with the same
    /// `tensor_shards` and `data_groups`.
    pub own_bits: Option<String>,
}

/// Numbers that make no layout, with what would work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "{world} ranks are not tensor {tensor} × pipeline {pipeline} × data {}: {}",
        if *data == 0 { "k".into() } else { data.to_string() },
        if *data == 0 {
            let one = tensor * pipeline;
            format!("use {} or {} ranks", (world / one * one).max(one), world.next_multiple_of(one).max(one))
        } else {
            format!("use {} ranks, or layout.data = 0 for what the world leaves", tensor * pipeline * data)
        }
    )]
    World { world: usize, tensor: usize, pipeline: usize, data: usize },
    #[error(
        "numerics.data_groups {groups} cannot be shared by data {data}: use {data} times a power of two, such as \
         {} or {}", data, 2 * data
    )]
    Groups { groups: usize, data: usize },
    #[error(
        "a global batch of {batch} cannot be shared by {groups} groups in micro-batches of {micro_batch}: use a \
         multiple of {}", groups * micro_batch
    )]
    Batch { batch: u64, groups: usize, micro_batch: usize },
    #[error(
        "the interleaved schedule runs micro-batches in groups of the {stages} stages, and a batch of {batch} gives \
         each replica {micro_batches}: use a batch of {}, or layout.schedule = \"1f1b\"",
        batch / *micro_batches as u64 * micro_batches.next_multiple_of(*stages) as u64
    )]
    Interleaved { stages: usize, micro_batches: usize, batch: u64 },
    #[error(
        "layout.zero = {zero} sums a layer's gradients over the replicas as soon as they are made, and layout.schedule = \
         \"zb-h1\" makes a part of them later: use layout.schedule = \"1f1b\" or layout.zero = 1"
    )]
    DeferredZero { zero: usize },
    #[error(
        "layout.schedule = \"zb-h1\" keeps what weight gradients are made of, and layout.recompute drops it: \
             use layout.recompute = \"none\" or layout.schedule = \"1f1b\""
    )]
    DeferredRecompute,
    #[error(
        "layout.schedule = \"interleaved\" needs at least two stages: use layout.pipeline = 2 or layout.chunks = 1"
    )]
    OneStage,
}

impl Layout {
    /// The layout of a run on `world` ranks; 0: as many as the run file names (one replica unless it says more).
    pub fn new(run: &Run, world: usize) -> Result<Self, LayoutError> {
        let layout = &run.layout;
        let (tensor, pipeline, chunks) = (layout.tensor, layout.pipeline, layout.chunks);
        let world = if world == 0 { tensor * pipeline * layout.data.max(1) } else { world };
        let data = world / (tensor * pipeline);
        if data == 0 || data * tensor * pipeline != world || (layout.data != 0 && layout.data != data) {
            return Err(LayoutError::World { world, tensor, pipeline, data: layout.data });
        }
        let groups = match run.numerics.data_groups {
            0 => data,
            groups => groups,
        };
        if !groups.is_multiple_of(data) || !(data == 1 || (groups / data).is_power_of_two()) {
            return Err(LayoutError::Groups { groups, data });
        }
        let mut found = Self {
            tensor,
            pipeline,
            data,
            chunks,
            schedule: layout.schedule,
            sequence_parallel: layout.sequence_parallel && tensor > 1,
            zero: if data > 1 { layout.zero } else { 0 },
            micro_batch: layout.micro_batch,
            data_groups: groups,
            in_turn: false,
            tensor_shards: match run.numerics.mode {
                NumericsMode::Exact => run.numerics.tensor_shards,
                // One sum a rank.
                NumericsMode::Fast => tensor.next_power_of_two(),
            },
            own_bits: own_bits(run, tensor),
        };
        let batches = &run.train.global_batch;
        for batch in [batches.start, batches.step, batches.end] {
            if !batch.is_multiple_of((groups * layout.micro_batch) as u64) {
                let micro_batch = layout.micro_batch;
                return Err(LayoutError::Batch { batch, groups, micro_batch });
            }
            let micro_batches = found.micro_batches(batch);
            if chunks > 1 && batch > 0 && !micro_batches.is_multiple_of(pipeline) {
                return Err(LayoutError::Interleaved { stages: pipeline, micro_batches, batch });
            }
        }
        if chunks > 1 && pipeline == 1 {
            return Err(LayoutError::OneStage);
        }
        if found.zero > 1 {
            match found.dealt_in_turn(run) {
                Ok(()) => found.in_turn = true,
                Err(reason) => found.own_bits = found.own_bits.or(Some(reason)),
            }
            if layout.schedule == ScheduleKind::ZeroBubbleH1 && pipeline > 1 {
                return Err(LayoutError::DeferredZero { zero: found.zero });
            }
        }
        if layout.schedule == ScheduleKind::ZeroBubbleH1
            && layout.recompute != triax_spec::run::Recompute::None
        {
            return Err(LayoutError::DeferredRecompute);
        }
        Ok(found)
    }

    /// Whether sums over replicas that are made after every micro-batch are nodes of the tree over the groups: a group
    /// must be one micro-batch, and `data` consecutive groups a subtree.
    fn dealt_in_turn(&self, run: &Run) -> Result<(), String> {
        let (zero, data) = (self.zero, self.data);
        let batches = &run.train.global_batch;
        if [batches.start, batches.end].iter().any(|&batch| self.micro_batches(batch) > 1) {
            let end = batches.end;
            let groups = end / self.micro_batch as u64;
            let batch = if batches.start == end {
                String::new()
            } else {
                format!(" and a batch of {end} throughout")
            };
            return Err(format!(
                "ZeRO-{zero} sums every micro-batch over the replicas, and a group has several: \
                 numerics.data_groups = {groups}{batch} makes them one"
            ));
        }
        if self.groups() > 1 && !data.is_power_of_two() {
            return Err(format!(
                "ZeRO-{zero} sums {data} neighbouring groups at a time, which is no power of two"
            ));
        }
        Ok(())
    }

    /// Number of ranks.
    pub const fn world(&self) -> usize {
        self.tensor * self.pipeline * self.data
    }

    /// Groups that one replica sums.
    pub const fn groups(&self) -> usize {
        self.data_groups / self.data
    }

    /// Sums of earlier groups that wait at once to be joined with later ones.
    pub fn waiting_groups(&self) -> usize {
        (1..self.groups()).map(|done| done.count_ones() as usize).max().unwrap_or(0)
    }

    /// The number of replica `data`'s `group`-th group among all.
    pub const fn group(&self, data: usize, group: usize) -> usize {
        if self.in_turn { group * self.data + data } else { data * self.groups() + group }
    }

    /// Micro-batches of one group in a step of `batch` samples.
    pub const fn micro_batches(&self, batch: u64) -> usize {
        (batch / (self.data_groups * self.micro_batch) as u64) as usize
    }

    /// The first sample of micro-batch `micro_batch` of the `group`-th group of replica `data`, in a step whose
    /// batch of `batch` samples begins at `first`.
    pub const fn first_sample(
        &self,
        first: u64,
        batch: u64,
        data: usize,
        group: usize,
        micro_batch: usize,
    ) -> u64 {
        first
            + self.group(data, group) as u64 * (batch / self.data_groups as u64)
            + (micro_batch * self.micro_batch) as u64
    }
}

fn own_bits(run: &Run, tensor: usize) -> Option<String> {
    match run.numerics.mode {
        NumericsMode::Fast => Some("numerics.mode = \"fast\"".into()),
        NumericsMode::Exact => {
            let shards = run.numerics.tensor_shards;
            partial_shards("numerics.tensor_shards", shards, tensor).or_else(|| odd_rows(&run.model, tensor))
        }
    }
}

/// A rank's part of a sum is a node of the tree over the virtual shards only if it holds whole ones.
pub(crate) fn partial_shards(what: &str, shards: usize, tensor: usize) -> Option<String> {
    (!shards.is_multiple_of(tensor)).then(|| format!("tensor {tensor} does not divide {what} {shards}"))
}

/// Products are summed in shards that end at even elements, and so must the ranks' parts of them.
pub(crate) fn odd_rows(model: &Model, tensor: usize) -> Option<String> {
    let inner = [("heads · head_dim", model.heads * model.head_dim), ("ffn", model.ffn)];
    let (what, size) =
        inner.into_iter().find(|(_, size)| !(size / tensor).is_multiple_of(2) && tensor > 1)?;
    Some(format!("{what} = {size} is cut by tensor {tensor} into odd parts of {}", size / tensor))
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, pipeline, data, .. } = self;
        write!(f, "{} ranks: tensor {tensor} × pipeline {pipeline} × data {data}", self.world())?;
        if self.sequence_parallel {
            write!(f, ", sequence parallel")?;
        }
        if *pipeline > 1 {
            write!(f, ", schedule {}", self.schedule)?;
        }
        if self.chunks > 1 {
            write!(f, " of {} chunks", self.chunks)?;
        }
        if self.zero > 0 {
            write!(f, ", ZeRO-{}", self.zero)?;
        }
        match &self.own_bits {
            None => write!(
                f,
                "; bits of every layout with tensor_shards {} and data_groups {}",
                self.tensor_shards, self.data_groups
            ),
            Some(reason) => write!(f, "; bits of its own: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &str) -> Run {
        let text = format!(
            "model.preset = \"gpt2-124m\"\ndata.blend = [ {{ path = \"a\" }} ]\ntrain.global_batch = 64\n{lines}"
        );
        Run::parse("run.toml", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn refused(lines: &str, world: usize) -> String {
        Layout::new(&run(lines), world).unwrap_err().to_string()
    }

    #[test]
    fn the_data_axis_is_what_the_world_leaves() {
        let layout = Layout::new(&run("layout.tensor = 2\nlayout.pipeline = 4"), 16).unwrap();
        assert_eq!((layout.data, layout.world(), layout.data_groups, layout.groups()), (2, 16, 2, 1));
        assert_eq!(Layout::new(&run("layout.tensor = 2"), 0).unwrap().world(), 2);
    }

    #[test]
    fn numbers_that_do_not_fit_say_what_would_work() {
        for (lines, world, says) in [
            ("layout.tensor = 4\nlayout.pipeline = 2", 12, "use 8 or 16 ranks"),
            ("layout.data = 3", 4, "use 3 ranks, or layout.data = 0"),
            ("numerics.data_groups = 6", 4, "such as 4 or 8"),
            ("numerics.data_groups = 12", 4, "such as 4 or 8"),
            ("layout.data = 3", 3, "use a multiple of 3"),
            (
                "layout.pipeline = 4\nlayout.schedule = \"interleaved\"\nlayout.chunks = 2\nlayout.micro_batch = 32",
                4,
                "use a batch of 128",
            ),
            (
                "layout.pipeline = 2\nlayout.schedule = \"zb-h1\"\nlayout.zero = 2",
                4,
                "use layout.schedule = \"1f1b\" or layout.zero = 1",
            ),
            (
                "layout.pipeline = 2\nlayout.schedule = \"zb-h1\"\nlayout.recompute = \"full\"",
                2,
                "layout.recompute = \"none\"",
            ),
        ] {
            let message = refused(lines, world);
            assert!(message.contains(says), "{lines} on {world}: {message}");
        }
    }

    #[test]
    fn replicas_and_groups_take_every_sample_once_in_order() {
        for (data, groups, zero) in [(1, 4, 0), (2, 4, 0), (4, 4, 1), (2, 32, 2), (4, 32, 3), (2, 4, 2)] {
            let lines = format!(
                "layout.data = {data}\nnumerics.data_groups = {groups}\nlayout.micro_batch = 2\nlayout.zero = {zero}"
            );
            let layout = Layout::new(&run(&lines), 0).unwrap();
            assert_eq!((layout.in_turn, layout.own_bits.is_none()), (groups == 32, zero < 2 || groups == 32));
            let mut firsts = Vec::new();
            for replica in 0..data {
                for group in 0..layout.groups() {
                    for micro_batch in 0..layout.micro_batches(64) {
                        firsts.push(layout.first_sample(1000, 64, replica, group, micro_batch));
                    }
                }
            }
            if layout.in_turn {
                // What is summed over the replicas at once are neighbours.
                for (index, &first) in firsts.iter().enumerate() {
                    let (replica, group) = (index / layout.groups(), index % layout.groups());
                    assert_eq!(first, 1000 + 2 * (group * data + replica) as u64);
                }
                firsts.sort_unstable();
            }
            assert_eq!(firsts, (0..32).map(|i| 1000 + 2 * i).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn bits_are_promised_where_tensor_ranks_hold_whole_shards() {
        assert_eq!(Layout::new(&run("layout.tensor = 4"), 0).unwrap().own_bits, None);
        let own = Layout::new(&run("layout.tensor = 3"), 0).unwrap().own_bits.unwrap();
        assert_eq!(own, "tensor 3 does not divide numerics.tensor_shards 8");
        assert!(Layout::new(&run("numerics.mode = \"fast\""), 0).unwrap().own_bits.is_some());
        let mut odd = run("layout.tensor = 2");
        odd.model.ffn = 6;
        let own = Layout::new(&odd, 0).unwrap().own_bits.unwrap();
        assert_eq!(own, "ffn = 6 is cut by tensor 2 into odd parts of 3");
        (odd.model.ffn, odd.model.heads, odd.model.head_dim) = (8, 2, 5);
        let own = Layout::new(&odd, 0).unwrap().own_bits.unwrap();
        assert!(own.starts_with("heads · head_dim = 10"), "{own}");
    }

    #[test]
    fn sums_after_every_micro_batch_keep_the_bits_where_a_group_is_one_of_them() {
        let own = |lines: &str| Layout::new(&run(lines), 0).unwrap().own_bits;
        let several = own("layout.data = 2\nlayout.zero = 2\nlayout.micro_batch = 4").unwrap();
        assert!(several.contains("numerics.data_groups = 16 makes them one"), "{several}");
        let one = "layout.data = 2\nlayout.zero = 3\nlayout.micro_batch = 4\nnumerics.data_groups = 16";
        assert_eq!(own(one), None);
        let mut thirds = run("layout.data = 3\nlayout.zero = 2\nnumerics.data_groups = 6");
        thirds.train.global_batch = triax_spec::run::GlobalBatch::constant(6);
        thirds.layout.micro_batch = 1;
        let own = Layout::new(&thirds, 0).unwrap().own_bits.unwrap();
        assert!(own.contains("no power of two"), "{own}");
    }
}
