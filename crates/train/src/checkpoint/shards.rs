//! Which elements go into which file: a pure function of what a rank writes and the largest file size.
//!
//! ```text
//! weight/a ─┬─ shard 0: weight/a, weight/b[0..k]      pieces in order, cut where a file is full;
//! weight/b ─┘─ shard 1: weight/b[k..n], adam.m/a …    a shard is safetensors: length, JSON header, data
//! ```

use super::manifest::Slice;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;

/// What of a parameter a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The f32 master.
    Weight,
    /// Adam's running mean of the gradient.
    First,
    /// Adam's running mean of its square.
    Second,
}

impl Moment {
    pub const ALL: [Self; 3] = [Self::Weight, Self::First, Self::Second];

    /// The name of this moment of a parameter in a checkpoint.
    pub fn of(self, parameter: &str) -> String {
        let folder = match self {
            Self::Weight => "weight",
            Self::First => "adam.m",
            Self::Second => "adam.v",
        };
        format!("{folder}/{parameter}")
    }
}

/// A named f32 tensor, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    pub name: String,
    pub dims: Vec<usize>,
}

impl TensorShape {
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Every tensor whole.
pub(super) fn whole(tensors: &[TensorShape]) -> Vec<(usize, Range<usize>)> {
    tensors.iter().enumerate().map(|(index, shape)| (index, 0..shape.elements())).collect()
}

/// One file to write.
#[derive(Debug)]
pub(super) struct Shard {
    pub name: String,
    /// Length, JSON header and padding: what stands before the data.
    pub header: Vec<u8>,
    pub parts: Vec<Part>,
}

/// The elements `start..end` of tensor `tensor`.
#[derive(Debug)]
pub(super) struct Part {
    pub tensor: usize,
    pub start: usize,
    pub end: usize,
}

impl Shard {
    pub(super) fn bytes(&self) -> u64 {
        let elements: usize = self.parts.iter().map(|part| part.end - part.start).sum();
        (self.header.len() + 4 * elements) as u64
    }
}

/// Fills files of at most `most_bytes` of data each (at least one element a file) with `pieces` of the tensors:
/// (tensor, its elements). `writer`: number of the rank, where several write.
pub(super) fn arrange(
    tensors: &[TensorShape],
    pieces: &[(usize, Range<usize>)],
    most_bytes: usize,
    writer: Option<usize>,
) -> Vec<Shard> {
    let most = (most_bytes / 4).max(1);
    let mut files: Vec<Vec<Part>> = Vec::new();
    let mut room = 0;
    for (tensor, elements) in pieces {
        let mut start = elements.start;
        while start < elements.end {
            if room == 0 {
                files.push(Vec::new());
                room = most;
            }
            let end = elements.end.min(start + room);
            room -= end - start;
            files.last_mut().expect("a file was just begun").push(Part { tensor: *tensor, start, end });
            start = end;
        }
    }
    let writer = writer.map_or_else(String::new, |rank| format!("{rank:05}-"));
    let shard = |(number, parts): (usize, Vec<Part>)| Shard {
        name: format!("shard-{writer}{number:05}.safetensors"),
        header: header(tensors, &parts),
        parts,
    };
    files.into_iter().enumerate().map(shard).collect()
}

fn header(tensors: &[TensorShape], parts: &[Part]) -> Vec<u8> {
    let mut offset = 0;
    let infos = parts.iter().map(|part| {
        let shape = &tensors[part.tensor];
        let elements = part.end - part.start;
        let whole = elements == shape.elements();
        let info = TensorInfo {
            dtype: Dtype::F32,
            shape: if whole { shape.dims.clone() } else { vec![elements] },
            data_offsets: (offset, offset + 4 * elements),
        };
        offset += 4 * elements;
        let slice = Slice {
            file: String::new(),
            start: part.start as u64,
            end: part.end as u64,
            dtype: String::new(),
            blake3: String::new(),
        };
        (slice.key(&shape.name, shape.elements() as u64), info)
    });
    let producer = HashMap::from([("format".to_owned(), "triax checkpoint".to_owned())]);
    let metadata =
        Metadata::new(Some(producer), infos.collect()).expect("offsets follow one another without gaps");
    let mut json = serde_json::to_vec(&metadata).expect("names and numbers always serialize");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_hold_every_element_once_in_order(
            sizes in proptest::collection::vec((1usize..20, 1usize..20), 1..8),
            most in 4usize..700,
        ) {
            let tensors: Vec<TensorShape> = sizes
                .iter()
                .enumerate()
                .map(|(i, &(rows, cols))| TensorShape { name: format!("t{i}"), dims: vec![rows, cols] })
                .collect();
            let shards = arrange(&tensors, &whole(&tensors), most, None);
            let mut seen = Vec::new();
            for shard in &shards {
                prop_assert!(shard.bytes() as usize - shard.header.len() <= most);
                for part in &shard.parts {
                    seen.extend((part.start..part.end).map(|element| (part.tensor, element)));
                }
            }
            let all: Vec<_> = tensors
                .iter()
                .enumerate()
                .flat_map(|(i, shape)| (0..shape.elements()).map(move |element| (i, element)))
                .collect();
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn a_shard_is_a_safetensors_file() {
        let tensors = [
            TensorShape { name: "a".into(), dims: vec![2, 3] },
            TensorShape { name: "b".into(), dims: vec![4] },
        ];
        let shards = arrange(&tensors, &whole(&tensors), 32, None);
        let mut bytes = shards[0].header.clone();
        bytes.extend((0..8).flat_map(|i| (i as f32).to_le_bytes()));
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a").unwrap().shape(), [2, 3]);
        assert_eq!(read.tensor("b[0..2]").unwrap().data()[..4], 6f32.to_le_bytes());
    }
}
