//! Lays the operands of one case out in a device's arena, with a guard after each.

use half::{bf16, f16};
use triax_tensor::philox::Stream;
use triax_tensor::{Coding, DType, Device, Need, Operand, Packed, Quantised, View};

/// Fills what an operation must write or must not touch: NaN in every floating-point type.
const UNTOUCHED: u8 = 0xff;
const GUARD: usize = 64;

/// An operand as the device holds it.
pub(crate) struct Input {
    pub(crate) view: View,
    /// The stored values.
    pub(crate) values: Vec<f64>,
}

impl Input {
    pub(crate) fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.view.cols + col]
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.view.cols..(row + 1) * self.view.cols]
    }
}

/// What an operation wrote and how far each element may be from the reference.
pub(crate) struct Output {
    pub(crate) name: &'static str,
    pub(crate) view: View,
    /// Absolute, before the rounding of storage; 0: the same bits.
    pub(crate) bound: Vec<f64>,
}

impl Output {
    pub(crate) fn new(name: &'static str, view: View, bound: impl Fn(usize, usize) -> f64) -> Self {
        let bound = (0..view.len()).map(|i| bound(i / view.cols, i % view.cols)).collect();
        Self { name, view, bound }
    }

    pub(crate) fn exact(name: &'static str, view: View) -> Self {
        Self::new(name, view, |_, _| 0.0)
    }
}

/// The arena of a device under test.
pub(crate) struct Arena<'d> {
    pub(crate) device: &'d mut dyn Device,
    bytes: usize,
    end: usize,
    /// Every uploaded byte, to see that only outputs change.
    uploaded: Vec<(View, Vec<u8>)>,
}

impl<'d> Arena<'d> {
    pub(crate) fn new(device: &'d mut dyn Device, bytes: usize, needs: &[Need]) -> Self {
        let scratch = needs.iter().map(|&need| device.scratch_bytes(need)).max().unwrap_or(0);
        device.allocate(bytes, scratch).unwrap();
        Self { device, bytes, end: 0, uploaded: Vec::new() }
    }

    fn reserve(&mut self, bytes: usize) -> usize {
        let offset = self.end;
        let guard = (offset + bytes).next_multiple_of(GUARD);
        self.end = guard + GUARD;
        assert!(self.end <= self.bytes, "the case needs more than its {} bytes", self.bytes);
        self.upload(
            View { offset: guard, rows: 1, cols: GUARD / 4, dtype: DType::U32 },
            vec![UNTOUCHED; GUARD],
        );
        offset
    }

    fn upload(&mut self, view: View, bytes: Vec<u8>) {
        self.device.upload(view, &bytes);
        self.uploaded.push((view, bytes));
    }

    /// A buffer the operation has to write completely.
    pub(crate) fn output(&mut self, dtype: DType, rows: usize, cols: usize) -> View {
        let offset = self.reserve(rows * cols * dtype.bytes());
        let view = View { offset, rows, cols, dtype };
        self.upload(view, vec![UNTOUCHED; view.bytes()]);
        view
    }

    /// A buffer of these values, rounded to the dtype.
    pub(crate) fn input(&mut self, dtype: DType, rows: usize, cols: usize, values: &[f64]) -> Input {
        assert_eq!(values.len(), rows * cols);
        let offset = self.reserve(rows * cols * dtype.bytes());
        let view = View { offset, rows, cols, dtype };
        let bytes = values.iter().flat_map(|&value| encode(value, dtype)).collect::<Vec<u8>>();
        let values = decode(&bytes, dtype);
        self.upload(view, bytes);
        Input { view, values }
    }

    /// Normal numbers that depend on `name` only.
    pub(crate) fn normal(&mut self, name: &str, dtype: DType, rows: usize, cols: usize, std: f64) -> Input {
        let stream = Stream::named(7, name);
        let values: Vec<f64> = (0..rows * cols).map(|i| std * stream.normal(i as u64)).collect();
        self.input(dtype, rows, cols, &values)
    }

    pub(crate) fn ids(&mut self, ids: &[u32]) -> View {
        let offset = self.reserve(4 * ids.len());
        let view = View { offset, rows: 1, cols: ids.len(), dtype: DType::U32 };
        self.upload(view, ids.iter().flat_map(|id| id.to_le_bytes()).collect());
        view
    }

    /// Packs a matrix with the device under test.
    pub(crate) fn packed(&mut self, from: Operand, dtype: DType) -> Packed {
        self.packed_in(from, 1, dtype)
    }

    /// Packs it in virtual shards of its outer dimension.
    pub(crate) fn packed_in(&mut self, from: Operand, outer_shards: usize, dtype: DType) -> Packed {
        let unplaced = Packed::new(self.device, from.inner(), from.outer(), outer_shards, dtype);
        let to = Packed { offset: self.reserve(unplaced.bytes), ..unplaced };
        self.device.pack(from, to);
        to
    }

    /// Makes a quantised matrix on the device under test.
    pub(crate) fn quantised(
        &mut self,
        inner: usize,
        outer: usize,
        coding: Coding,
        blocks: &[u8],
    ) -> Quantised {
        let unplaced = Quantised::new(self.device, inner, outer, coding);
        let to = Quantised { offset: self.reserve(unplaced.bytes), ..unplaced };
        self.device.upload_quantised(to, blocks);
        to
    }

    pub(crate) fn download(&self, view: View) -> Vec<u8> {
        let mut bytes = vec![0; view.bytes()];
        self.device.download(view, &mut bytes);
        bytes
    }

    /// Everything outside the outputs must be as it was uploaded.
    pub(crate) fn assert_only_changed(&self, outputs: &[Output], device: &str) {
        for (view, bytes) in &self.uploaded {
            let written = outputs.iter().any(|output| output.view.offset == view.offset);
            assert!(
                written || self.download(*view) == *bytes,
                "{device} wrote to {view:?}, which is no output"
            );
        }
    }
}

/// The value as the dtype stores it.
pub(crate) fn stored(value: f64, dtype: DType) -> f64 {
    decode(&encode(value, dtype), dtype)[0]
}

fn encode(value: f64, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => (value as f32).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        DType::F64 => value.to_le_bytes().to_vec(),
        DType::U32 => (value as u32).to_le_bytes().to_vec(),
    }
}

pub(crate) fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let of = |chunk: &[u8]| match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(chunk.try_into().unwrap())),
        DType::Bf16 => bf16::from_le_bytes(chunk.try_into().unwrap()).to_f64(),
        DType::F16 => f16::from_le_bytes(chunk.try_into().unwrap()).to_f64(),
        DType::F64 => f64::from_le_bytes(chunk.try_into().unwrap()),
        DType::U32 => f64::from(u32::from_le_bytes(chunk.try_into().unwrap())),
    };
    bytes.chunks(dtype.bytes()).map(of).collect()
}
