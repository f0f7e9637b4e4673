//! Packing: bringing an operand's panels into the units that register tiles read.
//!
//! A panel holds `width` neighbours of the outer dimension (MR for left, NR for right operands) over a range
//! of units: `[units][width]`, or for tile registers on the left `[steps][width][16]`, see [`blocks`].
//! Elements beyond the matrix are zero. The conversion to bf16 or f32 happens here.

#[cfg(target_arch = "x86_64")]
mod blocks;

use super::super::math::Act;
use super::microkernel::Microkernel;
use crate::DType;
use half::{bf16, f16};

/// A row-major matrix to be packed, by address.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) pointer: *const u8,
    pub(crate) dtype: DType,
    /// The operand's type: elements are rounded to it, whatever the kernel computes in.
    pub(crate) rounded: DType,
    pub(crate) inner: usize,
    pub(crate) outer: usize,
    /// Stored `[inner, outer]` instead of `[outer, inner]`.
    pub(crate) inner_rows: bool,
}

// SAFETY: a source is only read, and whoever makes one keeps its memory unchanged while it lives.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

/// The part of an operand that goes into one panel.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub(crate) first_outer: usize,
    pub(crate) first_unit: usize,
    pub(crate) units: usize,
    /// Outer neighbours in the panel; those beyond the matrix become zero.
    pub(crate) width: usize,
}

/// Packs one panel.
///
/// # Safety
/// `source` describes readable memory, `to` points to `units · width` writable units that do not overlap it,
/// and the machine has the kernel's instructions.
pub(crate) unsafe fn panel(kernel: Microkernel, source: &Source, part: Part, to: *mut u32) {
    // SAFETY: passed on; the element type is the source's.
    unsafe {
        match source.dtype {
            DType::F32 => typed::<f32>(kernel, source, part, to),
            DType::Bf16 => typed::<bf16>(kernel, source, part, to),
            DType::F16 => typed::<f16>(kernel, source, part, to),
            other => panic!("operands are f32, bf16 or f16, not {other}"),
        }
    }
}

/// Packs `count` neighbouring panels of the left operand, one behind the other, from `part` on.
///
/// # Safety
/// As [`panel`], with room for `count` panels.
pub(crate) unsafe fn panels(kernel: Microkernel, source: &Source, part: Part, count: usize, to: *mut u32) {
    #[cfg(target_arch = "x86_64")]
    if kernel == Microkernel::Bf16Amx {
        // SAFETY: passed on.
        unsafe { blocks::panels(source, part, count, to) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    let done = {
        let whole = (source.outer - part.first_outer.min(source.outer)) / part.width;
        let units_exist = 2 * (part.first_unit + part.units) <= source.inner;
        let narrow = kernel == Microkernel::Bf16Avx512 && part.width == 8;
        if narrow && source.inner_rows && source.dtype == DType::Bf16 && units_exist {
            let count = count.min(whole) / 2 * 2;
            // SAFETY: whole panels and whole units, all inside the matrix; room by this function's contract.
            unsafe { x86::panels_inner_rows(source, part, count, to) };
            count
        } else {
            0
        }
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    for index in done..count {
        let part = Part { first_outer: part.first_outer + index * part.width, ..part };
        // SAFETY: passed on; panel `index` has its own room.
        unsafe { panel(kernel, source, part, to.add(index * part.units * part.width)) };
    }
}

/// # Safety
/// As [`panel`], with `T` the source's element type.
unsafe fn typed<T: Act>(kernel: Microkernel, source: &Source, part: Part, to: *mut u32) {
    let matrix = Matrix::<T> { pointer: source.pointer.cast(), source: *source };
    let covered = part.width.min(source.outer - part.first_outer.min(source.outer));
    // What the vector loops below do: whole blocks of 8 outer neighbours, whole units.
    let mut done = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if matches!(kernel, Microkernel::Bf16Amx | Microkernel::Bf16Avx512) && T::DTYPE != DType::F16 {
        let whole_units = (source.inner / 2).saturating_sub(part.first_unit).min(part.units);
        // SAFETY: passed on; blocks stay inside the matrix and the panel.
        done = unsafe {
            if source.inner_rows {
                x86::pairs_inner_rows(&matrix, part, covered / 8 * 8, whole_units, to)
            } else {
                x86::pairs_inner_cols(&matrix, part, covered / 8 * 8, whole_units / 8 * 8, to)
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if matches!(kernel, Microkernel::F32Avx512 | Microkernel::F32Avx2) && T::DTYPE != DType::F16 {
        let whole_units = source.inner.saturating_sub(part.first_unit).min(part.units);
        // SAFETY: passed on; blocks stay inside the matrix and the panel, and both kernels' machines have AVX2.
        done = unsafe {
            match source.rounded {
                DType::F16 => (0, 0),
                DType::Bf16 => x86::singles::<T, bf16>(&matrix, part, covered / 8 * 8, whole_units, to),
                _ => x86::singles::<T, f32>(&matrix, part, covered / 8 * 8, whole_units, to),
            }
        };
    }
    let (done_outer, done_units) = done;
    let group = kernel.group();
    for u in 0..part.units {
        let first = if u < done_units { done_outer } else { 0 };
        for o in first..part.width {
            let unit = if o >= covered {
                0
            } else {
                let (k, outer) = ((part.first_unit + u) * group, part.first_outer + o);
                // SAFETY: `outer` is inside the matrix; `get` checks k.
                unsafe {
                    if group == 2 {
                        let low = bf16::bits_of(matrix.get(k, outer));
                        let high = bf16::bits_of(matrix.get(k + 1, outer));
                        u32::from(low) | (u32::from(high) << 16)
                    } else {
                        let value = matrix.get(k, outer);
                        match source.rounded {
                            DType::Bf16 => <bf16 as Act>::from_f32(value).to_f32().to_bits(),
                            DType::F16 => <f16 as Act>::from_f32(value).to_f32().to_bits(),
                            _ => value.to_bits(),
                        }
                    }
                }
            };
            // SAFETY: inside the panel.
            unsafe { to.add(u * part.width + o).write(unit) };
        }
    }
}

trait RoundedBits {
    /// The bf16 bit pattern of a value, rounded as everywhere.
    fn bits_of(value: f32) -> u16;
}

impl RoundedBits for bf16 {
    fn bits_of(value: f32) -> u16 {
        <Self as Act>::from_f32(value).to_bits()
    }
}

struct Matrix<T> {
    pointer: *const T,
    source: Source,
}

impl<T: Act> Matrix<T> {
    /// Element (k, outer) as f32; zero beyond the inner dimension.
    ///
    /// # Safety
    /// `outer` is inside the matrix.
    #[inline(always)]
    unsafe fn get(&self, k: usize, outer: usize) -> f32 {
        if k >= self.source.inner {
            return 0.0;
        }
        let index = if self.source.inner_rows {
            k * self.source.outer + outer
        } else {
            outer * self.source.inner + k
        };
        // SAFETY: k and outer are inside the matrix.
        unsafe { self.pointer.add(index).read() }.to_f32()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Act, DType, Matrix, Part};
    use std::arch::x86_64::*;

    /// Eight units of one row: 16 neighbours along the inner dimension as bf16.
    ///
    /// # Safety
    /// 16 elements are readable at `at`; T is f32 or bf16.
    #[inline(always)]
    unsafe fn eight_units<T: Act>(at: *const T) -> __m256i {
        // SAFETY: by the contract; the instructions are enabled by the callers below.
        unsafe {
            if T::DTYPE == DType::F32 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(at.cast())))
            } else {
                _mm256_loadu_si256(at.cast())
            }
        }
    }

    /// Stored `[outer, inner]`: transposes 8 × 8 blocks of units. Returns what was done.
    ///
    /// # Safety
    /// As `super::panel`; `outer` and `units` are multiples of 8 inside the part and the matrix.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2")]
    pub(super) unsafe fn pairs_inner_cols<T: Act>(
        matrix: &Matrix<T>,
        part: Part,
        outer: usize,
        units: usize,
        to: *mut u32,
    ) -> (usize, usize) {
        let stride = matrix.source.inner;
        for o in (0..outer).step_by(8) {
            for u in (0..units).step_by(8) {
                // SAFETY: the block of 8 rows by 16 elements is inside the matrix, the 8 × 8 units inside
                // the panel.
                unsafe {
                    let at = matrix.pointer.add((part.first_outer + o) * stride + (part.first_unit + u) * 2);
                    let mut rows = [_mm256_setzero_ps(); 8];
                    for (i, row) in rows.iter_mut().enumerate() {
                        *row = _mm256_castsi256_ps(eight_units(at.add(i * stride)));
                    }
                    let columns = transpose(rows);
                    for (i, column) in columns.iter().enumerate() {
                        _mm256_storeu_ps(to.add((u + i) * part.width + o).cast(), *column);
                    }
                }
            }
        }
        (outer, units)
    }

    /// Stored `[inner, outer]`, bf16: `count` panels of 8, an even number, read along the rows so that every
    /// cache line is used at once.
    ///
    /// # Safety
    /// All panels and units lie inside the matrix, and `to` has room for the panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
    pub(super) unsafe fn panels_inner_rows(source: &super::Source, part: Part, count: usize, to: *mut u32) {
        let first: *const u16 = source.pointer.cast();
        let panel = part.units * 8;
        for u in 0..part.units {
            // SAFETY: both rows are inside the matrix, and every store inside its panel.
            unsafe {
                let even = first.add((part.first_unit + u) * 2 * source.outer + part.first_outer);
                let odd = even.add(source.outer);
                for pair in 0..count / 2 {
                    let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.add(16 * pair).cast()));
                    let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.add(16 * pair).cast()));
                    let units = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                    let at = to.add(2 * pair * panel + u * 8);
                    _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(units));
                    _mm256_storeu_si256(at.add(panel).cast(), _mm512_extracti64x4_epi64::<1>(units));
                }
            }
        }
    }

    /// Stored `[inner, outer]`: interleaves rows 2u and 2u + 1. Returns what was done.
    ///
    /// # Safety
    /// As `super::panel`; `outer` is a multiple of 8, rows up to `2 · (first_unit + units)` exist.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2")]
    pub(super) unsafe fn pairs_inner_rows<T: Act>(
        matrix: &Matrix<T>,
        part: Part,
        outer: usize,
        units: usize,
        to: *mut u32,
    ) -> (usize, usize) {
        let stride = matrix.source.outer;
        for u in 0..units {
            // SAFETY: both rows are inside the matrix, the units inside the panel.
            unsafe {
                let even = matrix.pointer.add((part.first_unit + u) * 2 * stride + part.first_outer);
                let odd = even.add(stride);
                let to = to.add(u * part.width);
                let mut o = 0;
                while o + 16 <= outer {
                    let low = _mm512_cvtepu16_epi32(eight_units(even.add(o)));
                    let high = _mm512_cvtepu16_epi32(eight_units(odd.add(o)));
                    _mm512_storeu_si512(
                        to.add(o).cast(),
                        _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)),
                    );
                    o += 16;
                }
                if o < outer {
                    let half = |at: *const T| {
                        if T::DTYPE == DType::F32 {
                            let eight = _mm256_cvtneps_pbh(_mm256_loadu_ps(at.cast()));
                            std::mem::transmute::<__m128bh, __m128i>(eight)
                        } else {
                            _mm_loadu_si128(at.cast())
                        }
                    };
                    let low = _mm256_cvtepu16_epi32(half(even.add(o)));
                    let high = _mm256_cvtepu16_epi32(half(odd.add(o)));
                    _mm256_storeu_si256(
                        to.add(o).cast(),
                        _mm256_or_si256(low, _mm256_slli_epi32::<16>(high)),
                    );
                }
            }
        }
        (outer, units)
    }

    /// Eight neighbours as f32, rounded to `R`.
    ///
    /// # Safety
    /// 8 elements are readable at `at`.
    #[inline(always)]
    unsafe fn eight<T: Act, R: Act>(at: *const T) -> __m256 {
        let mut values = [0.0f32; 8];
        for (i, value) in values.iter_mut().enumerate() {
            // SAFETY: by the contract.
            *value = R::from_f32(unsafe { at.add(i).read() }.to_f32()).to_f32();
        }
        // SAFETY: eight f32; the instruction is enabled by the caller below.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    /// Units of one f32: rows copied as they lie where the inner dimension comes first, else 8 × 8 blocks transposed.
    /// Returns what was done.
    ///
    /// # Safety
    /// As `super::panel`; `outer` is a multiple of 8, and it and `units` lie inside the part and the matrix.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn singles<T: Act, R: Act>(
        matrix: &Matrix<T>,
        part: Part,
        outer: usize,
        units: usize,
        to: *mut u32,
    ) -> (usize, usize) {
        if matrix.source.inner_rows {
            let stride = matrix.source.outer;
            for u in 0..units {
                // SAFETY: the row is inside the matrix, the units inside the panel.
                unsafe {
                    let row = matrix.pointer.add((part.first_unit + u) * stride + part.first_outer);
                    for o in (0..outer).step_by(8) {
                        _mm256_storeu_ps(to.add(u * part.width + o).cast(), eight::<T, R>(row.add(o)));
                    }
                }
            }
            return (outer, units);
        }
        let (stride, units) = (matrix.source.inner, units / 8 * 8);
        for o in (0..outer).step_by(8) {
            for u in (0..units).step_by(8) {
                // SAFETY: the block of 8 rows by 8 elements is inside the matrix, the 8 × 8 units inside the panel.
                unsafe {
                    let at = matrix.pointer.add((part.first_outer + o) * stride + part.first_unit + u);
                    let mut rows = [_mm256_setzero_ps(); 8];
                    for (i, row) in rows.iter_mut().enumerate() {
                        *row = eight::<T, R>(at.add(i * stride));
                    }
                    for (i, column) in transpose(rows).iter().enumerate() {
                        _mm256_storeu_ps(to.add((u + i) * part.width + o).cast(), *column);
                    }
                }
            }
        }
        (outer, units)
    }

    /// Transposes 8 × 8 units.
    #[target_feature(enable = "avx2")]
    fn transpose(r: [__m256; 8]) -> [__m256; 8] {
        let mut pairs = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut fours = [_mm256_setzero_ps(); 8];
        for half in 0..2 {
            let p = &pairs[4 * half..4 * half + 4];
            fours[4 * half] = _mm256_shuffle_ps::<0x44>(p[0], p[2]);
            fours[4 * half + 1] = _mm256_shuffle_ps::<0xEE>(p[0], p[2]);
            fours[4 * half + 2] = _mm256_shuffle_ps::<0x44>(p[1], p[3]);
            fours[4 * half + 3] = _mm256_shuffle_ps::<0xEE>(p[1], p[3]);
        }
        let mut out = [_mm256_setzero_ps(); 8];
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
            out[4 + i] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
        }
        out
    }
}
