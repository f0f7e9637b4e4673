//! Rows of activations rounded to int8, group by group.

use super::super::isa::Isa;
use super::super::math::Act;
use super::super::memory::{Block, SharedMut};
#[cfg(target_arch = "x86_64")]
use super::wide_rounding;
use crate::{DType, View};

/// Groups whose largest magnitude is below this count as zero, so that its inverse is finite.
pub(super) const SMALLEST: f32 = 1e-30;
/// Adding it rounds to an integer, which is left in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// Rounded rows while they are written.
#[derive(Clone, Copy)]
pub(super) struct Rounded<'a> {
    /// Groups of 32 in a row.
    groups: usize,
    /// Sums of a group: one for each scale of the weights.
    parts: usize,
    codes: SharedMut<'a, u8>,
    scales: SharedMut<'a, f32>,
    counts: SharedMut<'a, u32>,
    sums: SharedMut<'a, f32>,
}

/// Rounded rows to be read: row r's codes are `[groups · 32]` from `r · groups · 32` on, and so on.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    pub(super) groups: usize,
    pub(super) parts: usize,
    /// i8.
    pub(super) codes: &'a [u8],
    /// `[rows][groups]`.
    pub(super) scales: &'a [f32],
    /// `[rows][groups · parts]`: sums of codes, i32.
    pub(super) counts: &'a [u32],
    /// The same, times the scale.
    pub(super) sums: &'a [f32],
}

impl<'a> Rounded<'a> {
    /// Scratch memory for `rows` rows; `share`: weights that share a scale.
    pub(super) const fn bytes(rows: usize, inner: usize, share: usize) -> usize {
        let groups = inner.div_ceil(32);
        rows * groups * (32 + 4 + 8 * (32 / share)) + 3 * 64
    }

    /// The rows at the start of the scratch memory.
    pub(super) fn place(scratch: &Block, rows: usize, inner: usize, share: usize) -> Self {
        let (groups, parts) = (inner.div_ceil(32), 32 / share);
        let mut at = 0;
        let mut view = |cols: usize, dtype: DType| {
            let view = View { offset: at, rows, cols, dtype };
            at += view.bytes().next_multiple_of(64);
            view
        };
        let codes = view(groups * 8, DType::U32);
        let (scales, counts) = (view(groups, DType::F32), view(groups * parts, DType::U32));
        let sums = view(groups * parts, DType::F32);
        // SAFETY: nobody else uses the scratch memory during an operation; the four ranges are disjoint.
        unsafe {
            Self {
                groups,
                parts,
                codes: scratch.bytes_of(codes.offset, codes.bytes()),
                scales: scratch.shared(scales),
                counts: scratch.shared(counts),
                sums: scratch.shared(sums),
            }
        }
    }

    /// Rounds one row; different rows may be rounded at the same time.
    #[inline(always)]
    pub(super) fn round<T: Act>(&self, isa: Isa, row: usize, x: &[T]) {
        let Self { groups, parts, .. } = *self;
        let sums = row * groups * parts..(row + 1) * groups * parts;
        // SAFETY: a row is rounded by one thread.
        let (codes, scales, counts, sums) = unsafe {
            (
                self.codes.range(row * groups * 32..(row + 1) * groups * 32),
                self.scales.range(row * groups..(row + 1) * groups),
                self.counts.range(sums.clone()),
                self.sums.range(sums),
            )
        };
        let mut note = |group: usize, scale: f32, halves: [i32; 2]| {
            scales[group] = scale;
            for part in 0..parts {
                let count = if parts == 1 { halves[0] + halves[1] } else { halves[part] };
                counts[group * parts + part] = count as u32;
                sums[group * parts + part] = scale * count as f32;
            }
        };
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if matches!(isa, Isa::Amx | Isa::Avx512 | Isa::Avx512Bf16) {
            const TOGETHER: usize = wide_rounding::TOGETHER;
            for x in x.as_chunks::<{ 32 * TOGETHER }>().0 {
                let mut values = [0.0f32; 32 * TOGETHER];
                values.iter_mut().zip(x).for_each(|(v, x)| *v = x.to_f32());
                let codes = codes[done * 32..].first_chunk_mut().expect("every group has 32 codes");
                // SAFETY: the machine has the instructions.
                let found = unsafe { wide_rounding::round_together(&values, codes) };
                for i in 0..TOGETHER {
                    note(done + i, found.scales[i], [found.counts[0][i], found.counts[1][i]]);
                }
                done += TOGETHER;
            }
        }
        for (group, x) in (done..).zip(x[done * 32..].chunks(32)) {
            let mut values = [0.0f32; 32];
            values.iter_mut().zip(x).for_each(|(v, x)| *v = x.to_f32());
            let codes = codes[group * 32..].first_chunk_mut().expect("every group has 32 codes");
            let Group { scale, counts: halves } = match isa {
                // SAFETY: the machine has the instructions.
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Avx512 | Isa::Avx512Bf16 => unsafe { wide_rounding::round(&values, codes) },
                _ => plain(&values, codes),
            };
            note(group, scale, halves);
        }
    }

    /// All rows, once they are rounded.
    pub(super) fn read(&self) -> Activations<'a> {
        // SAFETY: rounding is over; nobody writes until the operation ends.
        unsafe {
            Activations {
                groups: self.groups,
                parts: self.parts,
                codes: self.codes.range(0..self.codes.len()),
                scales: self.scales.range(0..self.scales.len()),
                counts: self.counts.range(0..self.counts.len()),
                sums: self.sums.range(0..self.sums.len()),
            }
        }
    }
}

/// What a group was rounded with.
pub(super) struct Group {
    /// No number where a value was none.
    pub(super) scale: f32,
    /// Sums of the codes of each half.
    pub(super) counts: [i32; 2],
}

#[inline(always)]
pub(super) fn plain(values: &[f32; 32], codes: &mut [u8; 32]) -> Group {
    let (mut largest, mut poison) = ([0.0f32; 16], [0.0f32; 16]);
    for half in values.as_chunks::<16>().0 {
        for l in 0..16 {
            largest[l] = if half[l].abs() > largest[l] { half[l].abs() } else { largest[l] };
            // 0, or NaN for what no code can stand for.
            poison[l] += half[l] * 0.0;
        }
    }
    let most = largest.iter().copied().fold(0.0f32, f32::max);
    let (scale, inverse) = if most < SMALLEST { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
    let mut rounded = [0i32; 32];
    for l in 0..32 {
        rounded[l] = (values[l] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    }
    for (code, &r) in codes.iter_mut().zip(&rounded) {
        *code = r as u8;
    }
    // What the kernels see: the low byte.
    let count = |half: &[i32]| half.iter().map(|&r| i32::from(r as i8)).sum();
    let (low, high) = rounded.split_at(16);
    Group { scale: scale + poison.iter().sum::<f32>(), counts: [count(low), count(high)] }
}
