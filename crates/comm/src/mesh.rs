//! The mesh: ranks numbered along named axes, tensor innermost, then data, pipeline outermost, as MT-NLG
//! placed them (tensor inside a node, pipeline between nodes):
//!
//! ```text
//! rank = (pipeline · data_size + data) · tensor_size + tensor
//! ```

use std::fmt;

/// A direction in which work is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Ranks that share each layer.
    Tensor,
    /// Ranks that hold the same part of the model and see other samples.
    Data,
    /// Ranks that hold consecutive layers.
    Pipeline,
}

impl Axis {
    /// All axes, innermost (neighbouring rank numbers) first.
    pub const ALL: [Self; 3] = [Self::Tensor, Self::Data, Self::Pipeline];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Data => "data",
            Self::Pipeline => "pipeline",
        }
    }
}

/// How many ranks lie along each axis; each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub tensor: usize,
    pub data: usize,
    pub pipeline: usize,
}

impl Layout {
    /// One rank.
    pub const SINGLE: Self = Self { tensor: 1, data: 1, pipeline: 1 };

    pub const fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tensor => self.tensor,
            Axis::Data => self.data,
            Axis::Pipeline => self.pipeline,
        }
    }

    /// Number of ranks.
    pub const fn world(&self) -> usize {
        self.tensor * self.data * self.pipeline
    }

    /// Distance in rank numbers between neighbours along an axis.
    const fn stride(&self, axis: Axis) -> usize {
        match axis {
            Axis::Tensor => 1,
            Axis::Data => self.tensor,
            Axis::Pipeline => self.tensor * self.data,
        }
    }
}

/// Ranks that take part in an operation together, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// In the order of their coordinates; sums are joined in this order.
    pub ranks: Vec<usize>,
    /// Which of `ranks` is this rank.
    pub index: usize,
    /// For messages; members must agree on it.
    pub name: &'static str,
}

impl Group {
    /// Ranks `0..world` as seen by `rank`.
    ///
    /// # Panics
    /// When the rank is not in the world.
    pub fn world(world: usize, rank: usize) -> Self {
        assert!(rank < world, "rank {rank} of a world of {world}");
        Self { ranks: (0..world).collect(), index: rank, name: "world" }
    }

    pub fn size(&self) -> usize {
        self.ranks.len()
    }
}

/// One rank's place in a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh {
    layout: Layout,
    rank: usize,
}

impl Mesh {
    /// # Panics
    /// When the rank is not in the layout's world (an axis of size 0 has no ranks).
    pub fn new(layout: Layout, rank: usize) -> Self {
        assert!(rank < layout.world(), "rank {rank} of {layout:?}");
        Self { layout, rank }
    }

    pub const fn layout(&self) -> Layout {
        self.layout
    }

    pub const fn rank(&self) -> usize {
        self.rank
    }

    pub const fn world(&self) -> usize {
        self.layout.world()
    }

    pub const fn size(&self, axis: Axis) -> usize {
        self.layout.size(axis)
    }

    pub const fn coordinate(&self, axis: Axis) -> usize {
        self.rank / self.layout.stride(axis) % self.layout.size(axis)
    }

    /// The rank whose coordinate along `axis` is `coordinate` and whose others are mine.
    ///
    /// # Panics
    /// When the coordinate is outside the axis.
    pub fn at(&self, axis: Axis, coordinate: usize) -> usize {
        assert!(coordinate < self.size(axis), "{} {coordinate} of {:?}", axis.name(), self.layout);
        let stride = self.layout.stride(axis);
        self.rank - self.coordinate(axis) * stride + coordinate * stride
    }

    /// The ranks that differ from mine only along `axis`.
    pub fn group(&self, axis: Axis) -> Group {
        self.group_of(&[axis])
    }

    /// The ranks that differ from mine only along `axes`; no axis gives this rank alone, all the world.
    pub fn group_of(&self, axes: &[Axis]) -> Group {
        let along = |axis| axes.contains(&axis);
        let name = match (along(Axis::Tensor), along(Axis::Data), along(Axis::Pipeline)) {
            (false, false, false) => "self",
            (true, false, false) => Axis::Tensor.name(),
            (false, true, false) => Axis::Data.name(),
            (false, false, true) => Axis::Pipeline.name(),
            (true, true, false) => "tensor×data",
            (true, false, true) => "tensor×pipeline",
            (false, true, true) => "data×pipeline",
            (true, true, true) => "world",
        };
        let mut ranks = vec![self.rank];
        // From the innermost axis outwards, so that the numbers come out ascending.
        for axis in Axis::ALL.into_iter().filter(|axis| along(*axis)) {
            let stride = self.layout.stride(axis);
            let origins: Vec<usize> =
                ranks.iter().map(|rank| rank - self.coordinate(axis) * stride).collect();
            ranks = (0..self.size(axis))
                .flat_map(|coordinate| origins.iter().map(move |origin| origin + coordinate * stride))
                .collect();
        }
        self.as_group(ranks, name)
    }

    /// The rank `steps` further along `axis`; `None` beyond the ends.
    pub fn neighbour(&self, axis: Axis, steps: isize) -> Option<usize> {
        let coordinate = self.coordinate(axis).checked_add_signed(steps)?;
        (coordinate < self.size(axis)).then(|| self.at(axis, coordinate))
    }

    /// First and last stage of my tensor and data coordinates, which share tied embeddings: one rank when
    /// there is one stage, `None` for the stages between.
    pub fn embedding_group(&self) -> Option<Group> {
        let last = self.size(Axis::Pipeline) - 1;
        let stage = self.coordinate(Axis::Pipeline);
        (stage == 0 || stage == last).then(|| {
            let mut ranks = vec![self.at(Axis::Pipeline, 0), self.at(Axis::Pipeline, last)];
            ranks.dedup();
            self.as_group(ranks, "embedding")
        })
    }

    fn as_group(&self, ranks: Vec<usize>, name: &'static str) -> Group {
        let index = ranks.iter().position(|rank| *rank == self.rank);
        Group { index: index.expect("a rank is in its own groups"), ranks, name }
    }
}

/// The placement as a table: a block of rows per stage, a row per data coordinate, a column per tensor
/// coordinate; my own rank in brackets.
impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Layout { tensor, data, pipeline } = self.layout;
        writeln!(
            f,
            "{} ranks: tensor {tensor} (innermost) × data {data} × pipeline {pipeline}",
            self.world()
        )?;
        let width = (self.world() - 1).to_string().len() + 2;
        for stage in 0..pipeline {
            for replica in 0..data {
                write!(f, "stage {stage:>3}  data {replica:>3} ")?;
                for shard in 0..tensor {
                    let rank = (stage * data + replica) * tensor + shard;
                    let cell = if rank == self.rank { format!("[{rank}]") } else { format!("{rank} ") };
                    write!(f, " {cell:>width$}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { tensor: 2, data: 3, pipeline: 4 };

    fn meshes() -> impl Iterator<Item = Mesh> {
        (0..LAYOUT.world()).map(|rank| Mesh::new(LAYOUT, rank))
    }

    #[test]
    fn tensor_ranks_are_neighbours_and_stages_are_far_apart() {
        let mesh = Mesh::new(LAYOUT, 9);
        assert_eq!(Axis::ALL.map(|axis| mesh.coordinate(axis)), [1, 1, 1]);
        assert_eq!(mesh.group(Axis::Tensor).ranks, [8, 9]);
        assert_eq!(mesh.group(Axis::Data).ranks, [7, 9, 11]);
        assert_eq!(mesh.group(Axis::Pipeline).ranks, [3, 9, 15, 21]);
        assert_eq!(mesh.neighbour(Axis::Pipeline, 1), Some(15));
        assert_eq!(mesh.neighbour(Axis::Pipeline, -1), Some(3));
        assert_eq!(Mesh::new(LAYOUT, 3).neighbour(Axis::Pipeline, -1), None);
        assert_eq!(Mesh::new(LAYOUT, 21).neighbour(Axis::Pipeline, 1), None);
    }

    #[test]
    fn members_see_the_same_group_each_at_its_own_index() {
        for axes in [&[][..], &[Axis::Data], &[Axis::Pipeline, Axis::Tensor], &Axis::ALL] {
            for mesh in meshes() {
                let group = mesh.group_of(axes);
                assert_eq!(group.ranks[group.index], mesh.rank());
                assert!(group.ranks.is_sorted());
                let size: usize = axes.iter().map(|axis| LAYOUT.size(*axis)).product();
                assert_eq!(group.size(), size);
                for rank in &group.ranks {
                    let theirs = Mesh::new(LAYOUT, *rank).group_of(axes);
                    assert_eq!((theirs.ranks, theirs.name), (group.ranks.clone(), group.name));
                }
            }
        }
    }

    #[test]
    fn embeddings_are_shared_by_the_first_and_last_stage() {
        assert_eq!(Mesh::new(LAYOUT, 1).embedding_group().unwrap().ranks, [1, 19]);
        assert_eq!(Mesh::new(LAYOUT, 19).embedding_group().unwrap().index, 1);
        assert_eq!(Mesh::new(LAYOUT, 7).embedding_group(), None);
        let flat = Layout { pipeline: 1, ..LAYOUT };
        assert_eq!(Mesh::new(flat, 1).embedding_group().unwrap().ranks, [1]);
    }

    #[test]
    fn the_placement_prints_as_a_table() {
        let mesh = Mesh::new(Layout { tensor: 2, data: 1, pipeline: 2 }, 2);
        assert_eq!(
            mesh.to_string(),
            "4 ranks: tensor 2 (innermost) × data 1 × pipeline 2\n\
             stage   0  data   0   0   1 \n\
             stage   1  data   0  [2]  3 \n"
        );
    }
}
