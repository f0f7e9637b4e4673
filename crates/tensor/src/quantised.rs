//! Weight-only quantised matrices: blocks of codes with scales, in the layouts of ggml, row by row.
//!
//! ```text
//! weight = scale · (code - zero) + minimum          one scale (and minimum) a group of 16 or 32 weights
//! ```
//!
//! | coding | block | bytes | codes | group | scale, minimum |
//! |--------|-------|-------|-------|-------|----------------|
//! | Q8_0   | 32    | 34    | i8    | 32    | f16            |
//! | Q4_0   | 32    | 18    | u4-8  | 32    | f16            |
//! | Q4_1   | 32    | 20    | u4    | 32    | f16, f16       |
//! | Q4_K   | 256   | 144   | u4    | 32    | f16 · u6, f16 · u6 |
//! | Q6_K   | 256   | 210   | u6-32 | 16    | f16 · i8       |
//! | wide   | 16    | 24    | u8    | 16    | f32, f32; our own: any of the others exactly |

use crate::Device;
use half::f16;

/// How the weights of a [`Quantised`] matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q6K,
    Wide,
}

/// A quantised matrix in a device's arena, the right operand of products: `outer` rows of `inner` weights,
/// blocks along the inner dimension (the last one filled up). The layout is the device's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantised {
    pub offset: usize,
    pub bytes: usize,
    pub inner: usize,
    pub outer: usize,
    pub coding: Coding,
}

impl Quantised {
    /// A matrix of the device's size for it, not yet placed in an arena.
    pub fn new(device: &dyn Device, inner: usize, outer: usize, coding: Coding) -> Self {
        let bytes = device.quantised_bytes(inner, outer, coding);
        Self { offset: 0, bytes, inner, outer, coding }
    }
}

/// Most weights of a block.
const LONGEST: usize = 256;

/// One block taken apart.
#[derive(Clone, Debug)]
pub struct Cells {
    /// The first [`Coding::block`] count.
    pub codes: [u8; LONGEST],
    /// Group by group.
    pub scales: [f32; LONGEST / 16],
    /// 0 where the coding has none.
    pub minima: [f32; LONGEST / 16],
}

impl Default for Cells {
    fn default() -> Self {
        Self { codes: [0; LONGEST], scales: [0.0; LONGEST / 16], minima: [0.0; LONGEST / 16] }
    }
}

impl Coding {
    pub const ALL: [Self; 6] = [Self::Q8_0, Self::Q4_0, Self::Q4_1, Self::Q4K, Self::Q6K, Self::Wide];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
            Self::Wide => "wide",
        }
    }

    /// Weights of a block.
    pub const fn block(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4K | Self::Q6K => 256,
            Self::Wide => 16,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4K => 144,
            Self::Q6K => 210,
            Self::Wide => 24,
        }
    }

    /// Bytes of a row of `inner` weights.
    pub const fn row_bytes(self, inner: usize) -> usize {
        inner.div_ceil(self.block()) * self.block_bytes()
    }

    /// Weights that share a scale.
    pub const fn group(self) -> usize {
        match self {
            Self::Q6K | Self::Wide => 16,
            _ => 32,
        }
    }

    /// The code that stands for the minimum alone.
    pub const fn zero(self) -> u8 {
        match self {
            Self::Q8_0 => 128,
            Self::Q4_0 => 8,
            Self::Q6K => 32,
            Self::Q4_1 | Self::Q4K | Self::Wide => 0,
        }
    }

    pub const fn has_minima(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q4K | Self::Wide)
    }

    /// Takes one block apart.
    ///
    /// # Panics
    /// When `block` is not [`Coding::block_bytes`] long.
    pub fn unpack(self, block: &[u8], cells: &mut Cells) {
        assert_eq!(block.len(), self.block_bytes(), "bytes of a {} block", self.name());
        match self {
            Self::Q8_0 => {
                cells.scales[0] = half(block, 0);
                cells.codes.iter_mut().zip(&block[2..]).for_each(|(code, &b)| *code = b ^ 0x80);
            }
            Self::Q4_0 => {
                cells.scales[0] = half(block, 0);
                nibbles(&block[2..], &mut cells.codes);
            }
            Self::Q4_1 => {
                (cells.scales[0], cells.minima[0]) = (half(block, 0), half(block, 2));
                nibbles(&block[4..], &mut cells.codes);
            }
            Self::Q4K => unpack_q4k(block, cells),
            Self::Q6K => unpack_q6k(block, cells),
            Self::Wide => {
                (cells.scales[0], cells.minima[0]) = (single(block, 0), single(block, 4));
                cells.codes[..16].copy_from_slice(&block[8..]);
            }
        }
    }

    /// The weights of a row of blocks, each rounded once to f32.
    ///
    /// # Panics
    /// When `blocks` is not [`Coding::row_bytes`] of the values' length.
    pub fn dequantise(self, blocks: &[u8], values: &mut [f32]) {
        assert_eq!(blocks.len(), self.row_bytes(values.len()), "a row of {} weights", values.len());
        let mut cells = Cells::default();
        let (group, zero) = (self.group(), i32::from(self.zero()));
        for (block, values) in blocks.chunks_exact(self.block_bytes()).zip(values.chunks_mut(self.block())) {
            self.unpack(block, &mut cells);
            for (i, value) in values.iter_mut().enumerate() {
                let code = f64::from(i32::from(cells.codes[i]) - zero);
                let (scale, minimum) = (cells.scales[i / group], cells.minima[i / group]);
                *value = (f64::from(scale) * code + f64::from(minimum)) as f32;
            }
        }
    }

    /// Whether [`Coding::quantise`] can make it.
    pub const fn can_quantise(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_1)
    }

    /// Appends a row of blocks that stand for `values`: Q8_0 by the largest magnitude of a block, Q4_1 by its
    /// smallest and largest value; codes are the nearest to the scale as stored.
    ///
    /// # Panics
    /// For other codings.
    pub fn quantise(self, values: &[f32], blocks: &mut Vec<u8>) {
        for values in values.chunks(self.block()) {
            match self {
                Self::Q8_0 => {
                    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let scale = f16::from_f32(largest / 127.0);
                    blocks.extend(scale.to_le_bytes());
                    let scale = scale.to_f32();
                    let code = |v: f32| if scale > 0.0 { (v / scale).round_ties_even() } else { 0.0 };
                    let codes = values.iter().map(|&v| code(v).clamp(-127.0, 127.0) as i8 as u8);
                    blocks.extend(codes.chain(std::iter::repeat(0)).take(32));
                }
                Self::Q4_1 => {
                    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
                    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let (scale, minimum) = (f16::from_f32((most - least) / 15.0), f16::from_f32(least));
                    blocks.extend(scale.to_le_bytes());
                    blocks.extend(minimum.to_le_bytes());
                    let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
                    let mut codes = [0u8; 32];
                    for (code, v) in codes.iter_mut().zip(values) {
                        let nearest =
                            if scale > 0.0 { ((v - minimum) / scale).round_ties_even() } else { 0.0 };
                        *code = nearest.clamp(0.0, 15.0) as u8;
                    }
                    blocks.extend((0..16).map(|i| codes[i] | (codes[16 + i] << 4)));
                }
                other => panic!("{} is read, not made", other.name()),
            }
        }
    }

    /// The same weights as [`Coding::Wide`], for rows that must share one coding.
    pub fn widen(self, blocks: &[u8]) -> Vec<u8> {
        let mut cells = Cells::default();
        let mut wide = Vec::new();
        for block in blocks.chunks_exact(self.block_bytes()) {
            self.unpack(block, &mut cells);
            for (index, codes) in cells.codes[..self.block()].chunks_exact(16).enumerate() {
                let group = index * 16 / self.group();
                let scale = cells.scales[group];
                // Scales have at most 18 significant bits, so that both products are exact.
                let minimum = cells.minima[group] - scale * f32::from(self.zero());
                wide.extend(scale.to_le_bytes());
                wide.extend(minimum.to_le_bytes());
                wide.extend(codes);
            }
        }
        wide
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn single(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Low nibbles first, then high nibbles.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

fn unpack_q4k(block: &[u8], cells: &mut Cells) {
    let (scale, minimum, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    for group in 0..8 {
        // Eight 6-bit scales and minima in twelve bytes: the last four have their high bits with the first.
        let (s, m) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            (
                (packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4),
                (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4),
            )
        };
        cells.scales[group] = scale * f32::from(s);
        cells.minima[group] = -minimum * f32::from(m);
    }
    for (bytes, codes) in block[16..].chunks_exact(32).zip(cells.codes.chunks_exact_mut(64)) {
        nibbles(bytes, codes);
    }
}

fn unpack_q6k(block: &[u8], cells: &mut Cells) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let scale = half(rest, 16);
    for (to, &s) in cells.scales.iter_mut().zip(&rest[..16]) {
        *to = scale * f32::from(s as i8);
    }
    cells.minima.fill(0.0);
    for (part, codes) in cells.codes.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&low[64 * part..][..64], &high[32 * part..][..32]);
        for i in 0..32 {
            for quarter in 0..4 {
                let nibble = low[i + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                codes[32 * quarter + i] = nibble | ((high[i] >> (2 * quarter) & 3) << 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Stream;

    fn values(count: usize) -> Vec<f32> {
        (0..count as u64).map(|i| Stream::named(3, "weights").uniform(i) * 2.0 - 0.7).collect()
    }

    #[test]
    fn quantised_values_are_within_half_a_step() {
        for (coding, steps) in [(Coding::Q8_0, 254.0), (Coding::Q4_1, 15.0)] {
            let values = values(100);
            let mut blocks = Vec::new();
            coding.quantise(&values, &mut blocks);
            assert_eq!(blocks.len(), coding.row_bytes(100));
            let mut back = vec![0.0; 100];
            coding.dequantise(&blocks, &mut back);
            for (back, value) in back.iter().zip(&values) {
                // Values span at most 2.6 around zero (Q8_0), 2 in all (Q4_1); scale and minimum are f16.
                let step = 2.6 / steps;
                assert!((back - value).abs() <= 0.5 * step + 2.6 / 1024.0, "{back} for {value}");
            }
        }
    }

    #[test]
    fn blocks_of_zeros_and_of_one_value_come_back() {
        for value in [0.0, 0.5, -2.0] {
            for coding in [Coding::Q8_0, Coding::Q4_1] {
                let mut blocks = Vec::new();
                coding.quantise(&[value; 32], &mut blocks);
                let mut back = [9.0; 32];
                coding.dequantise(&blocks, &mut back);
                assert!(back.iter().all(|b| (b - value).abs() < 1e-3), "{back:?} for {value}");
            }
        }
    }

    #[test]
    fn widened_blocks_have_the_same_values() {
        for coding in Coding::ALL {
            let stream = Stream::named(5, "blocks");
            let count = 2 * coding.block();
            let mut blocks: Vec<u8> =
                (0..coding.row_bytes(count) as u64).map(|i| stream.word(i) as u8).collect();
            plain_scales(coding, &mut blocks);
            let (mut expected, mut found) = (vec![0.0; count], vec![0.0; count]);
            coding.dequantise(&blocks, &mut expected);
            Coding::Wide.dequantise(&coding.widen(&blocks), &mut found);
            assert_eq!(expected, found, "{}", coding.name());
        }
    }

    /// Replaces random scales, which may be infinite, by small numbers.
    fn plain_scales(coding: Coding, blocks: &mut [u8]) {
        let halves: &[usize] = match coding {
            Coding::Q8_0 | Coding::Q4_0 => &[0],
            Coding::Q4_1 | Coding::Q4K => &[0, 2],
            Coding::Q6K => &[208],
            Coding::Wide => &[],
        };
        for (index, block) in blocks.chunks_exact_mut(coding.block_bytes()).enumerate() {
            for (i, &at) in halves.iter().enumerate() {
                let value = f16::from_f32(0.01 * (1 + index + i) as f32);
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
            if coding == Coding::Wide {
                block[..4].copy_from_slice(&0.25f32.to_le_bytes());
                block[4..8].copy_from_slice(&(-3.5f32).to_le_bytes());
            }
        }
    }

    #[test]
    fn the_six_bit_scales_of_q4k_are_taken_from_their_places() {
        let mut block = vec![0u8; 144];
        block[..2].copy_from_slice(&f16::ONE.to_le_bytes());
        block[2..4].copy_from_slice(&f16::ONE.to_le_bytes());
        // Scale of group 0: 63, of group 4: 0b11_0001; minimum of group 7: 0b10_0101.
        block[4] = 63 | (0b11 << 6);
        block[4 + 8] = 0b0001;
        block[4 + 11] = 0b0101 << 4;
        block[4 + 7] = 0b10 << 6;
        let mut cells = Cells::default();
        Coding::Q4K.unpack(&block, &mut cells);
        assert_eq!((cells.scales[0], cells.scales[4]), (63.0, f32::from(0b11_0001u8)));
        assert_eq!((cells.minima[7], cells.minima[3]), (-f32::from(0b10_0101u8), 0.0));
    }
}
