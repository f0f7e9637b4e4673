//! Buckets: the parameters of a layer as one stretch of memory, and which replica owns which part of it.
//!
//! ```text
//! weights   │ norm │ qkv ········ │ output ···· │ … │    a bucket of one layer, in the arena
//! gradients │      │              │             │   │    the same stretch, element for element
//! parts     └── replica 0 ──┴── replica 1 ──┴─ … ──┘    cut between rows, about equal
//! ```
//! A bucket is what one collective reduces. Its owner writes a part to checkpoints and counts it in the gradient
//! norm; with ZeRO it alone keeps of the part:
//!
//! ```text
//! ZeRO-1   the moments, and updates it
//! ZeRO-2   also the gradients: the stretch above is one of two that the layers use in turn
//! ZeRO-3   also the weights, likewise
//! ```
//! What stands before and behind the layers (the embedding, the output layer) is in use during a whole step: its
//! weights and gradients stay whole on every replica.

use std::ops::Range;
use triax_model::Parameter;
use triax_plan::Layout;
use triax_tensor::{Class, DType, Table, View};

/// One stretch of parameters. All ranges are elements from its beginning.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// `layer.3`, or what its first parameter belongs to.
    pub name: String,
    /// f32 `[1, n]`.
    pub weights: View,
    /// f32 `[1, n]`.
    pub grads: View,
    pub members: Vec<Member>,
    /// Of each replica.
    pub parts: Vec<Range<usize>>,
    /// Whether it is a layer's.
    pub is_layer: bool,
    /// Weights that this replica keeps.
    pub weight: Stored,
    /// Gradients that this replica has when they are summed.
    pub gradient: Stored,
    /// Adam's running means of the gradient and of its square, of what this replica updates.
    pub moments: [Stored; 2],
    /// Sums of earlier groups, or micro-batches, that wait to be joined with later ones, by height in the tree.
    pub waiting: Vec<View>,
}

/// Elements of a bucket, and where their values are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub elements: Range<usize>,
    /// f32 `[1, elements]`.
    pub view: View,
}

impl Stored {
    /// The elements `elements` of the bucket, which must be stored here.
    pub(crate) fn at(&self, elements: &Range<usize>) -> View {
        self.view.flat_range(elements.start - self.elements.start, elements.len())
    }
}

/// A parameter in its bucket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// Among the rank's parameters.
    pub parameter: usize,
    pub elements: Range<usize>,
    /// Elements of one row: what ownership never cuts.
    pub row: usize,
}

impl Bucket {
    /// The stretch of `parameters[range]` on replica `own`; what it needs beside goes into `table`. `arrivals`: sums
    /// over the replicas in a step, of layers and of what is whole.
    fn new(
        parameters: &[Parameter],
        range: Range<usize>,
        layout: &Layout,
        own: usize,
        arrivals: [usize; 2],
        table: &mut Table,
    ) -> Self {
        let held = &parameters[range.clone()];
        let first = &held[0].weight;
        let flat = |begin: View, end: View| {
            let bytes = end.offset + end.bytes() - begin.offset;
            View { offset: begin.offset, rows: 1, cols: bytes / 4, dtype: DType::F32 }
        };
        let last = &held[held.len() - 1];
        let (weights, grads) = (flat(*first, last.weight), flat(held[0].grad, last.grad));
        let members: Vec<Member> = range
            .zip(held)
            .map(|(parameter, p)| {
                let begin = (p.weight.offset - weights.offset) / 4;
                let row = if p.dims.len() == 1 { 1 } else { p.weight.cols };
                Member { parameter, elements: begin..begin + p.weight.len(), row }
            })
            .collect();
        assert!(
            weights.cols == grads.cols
                && held.iter().zip(&members).all(|(p, m)| {
                    (p.grad.offset - grads.offset) / 4 == m.elements.start && p.grad.len() == m.elements.len()
                }),
            "weights and gradients are laid out alike"
        );
        let parts = parts(weights.cols, &members, layout.data);
        let name = name_of(&held[0].name);
        let is_layer = is_layer(&name);
        let mut add = |what: &str, class, len| table.add(format!("{name}.{what}"), class, DType::F32, 1, len);
        let (all, part) = (0..weights.cols, parts[own].clone());
        let in_place = |view: View, elements: &Range<usize>| Stored {
            view: view.flat_range(elements.start, elements.len()),
            elements: elements.clone(),
        };
        let weight = if layout.zero > 2 && is_layer {
            Stored { view: add("weights, own part", Class::Weights, part.len()), elements: part.clone() }
        } else {
            in_place(weights, &all)
        };
        let updated = if layout.zero > 0 { &part } else { &all };
        let gradient = if layout.zero > 1 && is_layer {
            Stored { view: add("grad, own part", Class::Gradients, part.len()), elements: part.clone() }
        } else {
            in_place(grads, updated)
        };
        let (heights, len) = match layout.zero {
            0 | 1 => (layout.waiting_groups(), weights.cols),
            _ if layout.in_turn => (layout.waiting_groups(), part.len()),
            _ => (usize::from(arrivals[usize::from(!is_layer)] > 1), part.len()),
        };
        let waiting = (0..heights)
            .map(|level| add(&format!("grad of an earlier group, level {level}"), Class::Gradients, len))
            .collect();
        let moments = ["m", "v"].map(|moment| Stored {
            view: add(moment, Class::Optimizer, updated.len()),
            elements: updated.clone(),
        });
        Self { name, weights, grads, members, parts, is_layer, weight, gradient, moments, waiting }
    }

    /// The members' elements inside `part`, member after member.
    pub(crate) fn pieces(&self, part: &Range<usize>) -> impl Iterator<Item = Piece> + '_ {
        let part = part.clone();
        self.members.iter().filter_map(move |member| {
            let begin = part.start.max(member.elements.start);
            let end = part.end.min(member.elements.end);
            (begin < end).then(|| Piece {
                parameter: member.parameter,
                elements: begin - member.elements.start..end - member.elements.start,
                row: member.row,
                place: begin..end,
            })
        })
    }
}

/// Whole rows of a parameter inside a part of its bucket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub parameter: usize,
    /// Of the rank's parameter, row by row.
    pub elements: Range<usize>,
    pub row: usize,
    /// The same elements of the bucket.
    pub place: Range<usize>,
}

/// `replicas` consecutive parts of `0..len`, about equal, cut only where a row of a member begins.
fn parts(len: usize, members: &[Member], replicas: usize) -> Vec<Range<usize>> {
    let border = |wanted: usize| {
        // The last row that begins at or before `wanted`.
        let member = members
            .iter()
            .rev()
            .find(|member| member.elements.start <= wanted && !member.elements.is_empty());
        member.map_or(0, |member| {
            let inside = wanted.min(member.elements.end) - member.elements.start;
            member.elements.start + inside / member.row * member.row
        })
    };
    let mut borders: Vec<usize> = (0..replicas).map(|index| border(len * index / replicas)).collect();
    borders[0] = 0;
    borders.push(len);
    borders.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Cuts a rank's parameters into buckets: what stands before the layers, each layer, what stands behind them.
/// The rest as in [`Bucket::new`].
pub(crate) fn buckets(
    parameters: &[Parameter],
    layout: &Layout,
    own: usize,
    arrivals: [usize; 2],
    table: &mut Table,
) -> Vec<Bucket> {
    let mut found = Vec::new();
    let mut begin = 0;
    for end in 1..=parameters.len() {
        if end == parameters.len() || is_border(&parameters[begin].name, &parameters[end].name) {
            found.push(Bucket::new(parameters, begin..end, layout, own, arrivals, table));
            begin = end;
        }
    }
    found
}

/// `layer.3` of `layer.3.attention.norm.weight`, otherwise the first word.
fn name_of(parameter: &str) -> String {
    let words = if parameter.starts_with("layer.") { 2 } else { 1 };
    parameter.split('.').take(words).collect::<Vec<_>>().join(".")
}

fn is_layer(name: &str) -> bool {
    name.starts_with("layer.")
}

fn is_border(before: &str, after: &str) -> bool {
    (is_layer(before) || is_layer(after)) && name_of(before) != name_of(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(sizes: &[(usize, usize)]) -> (usize, Vec<Member>) {
        let mut end = 0usize;
        let members = sizes
            .iter()
            .enumerate()
            .map(|(parameter, &(rows, row))| {
                let begin = end.next_multiple_of(16);
                end = begin + rows * row;
                Member { parameter, elements: begin..end, row }
            })
            .collect();
        (end, members)
    }

    proptest! {
        #[test]
        fn parts_follow_each_other_and_cut_no_row(
            sizes in proptest::collection::vec((1usize..9, 1usize..40), 1..8), replicas in 1usize..9
        ) {
            let (len, members) = members(&sizes);
            let parts = parts(len, &members, replicas);
            prop_assert_eq!(parts.len(), replicas);
            prop_assert_eq!(parts[0].start, 0);
            prop_assert_eq!(parts[replicas - 1].end, len);
            prop_assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            for border in parts.iter().map(|part| part.start) {
                let inside = members.iter().find(|m| m.elements.contains(&border));
                prop_assert!(inside.is_none_or(|m| (border - m.elements.start).is_multiple_of(m.row)));
            }
        }
    }

    #[test]
    fn equal_rows_are_shared_out_equally() {
        let (len, members) = members(&[(64, 16)]);
        let parts = parts(len, &members, 4);
        assert!(parts.iter().all(|part| part.len() == 256), "{parts:?}");
    }
}
