//! A finished tile's rows by vectors of 16: residual or sum so far added, rounded, stored.
//!
//! ```text
//! tile      │ 16 f32 │ 16 f32 │    + residual (T) or what `out` holds (O)    ─▶  out   one row of 32 is two vectors
//! ```
//! The short loops of [`super::Store::store`] say the same for every type, machine and width; this is the form that keeps up
//! with tile registers and with integer dot products. Beside the former alone it is used for bf16, which is rounded by the
//! machine's own instruction, as in [`super::math::narrow`].

use super::super::super::memory::SharedMut;
use super::Tile;
use crate::DType;
use crate::cpu::isa::Isa;
use crate::cpu::math::Act;
use std::arch::x86_64::*;

/// Elements of a vector.
const LANES: usize = 16;

/// Whether the machine has what [`store`] needs, which knows the types, and the tile's columns are whole vectors.
#[inline(always)]
pub(super) fn knows<T: Act, O: Act>(isa: Isa, tile: &Tile<'_>) -> bool {
    let types = match isa {
        Isa::Amx => T::DTYPE != DType::F16 && O::DTYPE != DType::F16,
        Isa::Avx512Bf16 => T::DTYPE == DType::F32 && O::DTYPE == DType::F32,
        _ => false,
    };
    types && tile.cols.is_multiple_of(LANES)
}

/// Stores a tile into `out`, whose rows are `cols` long, with `residual` of the same shape or, where `ACCUMULATE`, what is there
/// already added.
///
/// # Safety
/// [`knows`] said yes; nobody else has the tile's part of `out` and `residual`.
///
/// # Panics
/// When the tile leaves one of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn store<T: Act, O: Act, const ACCUMULATE: bool>(
    tile: &Tile<'_>,
    out: SharedMut<'_, O>,
    residual: Option<SharedMut<'_, T>>,
    cols: usize,
) {
    let end = (tile.row + tile.rows - 1) * cols + tile.col + tile.cols;
    assert!(end <= out.len() && residual.is_none_or(|residual| end <= residual.len()), "{end} elements");
    for (row, values) in tile.values.chunks_exact(tile.stride).take(tile.rows).enumerate() {
        let first = (tile.row + row) * cols + tile.col;
        for (number, values) in values[..tile.cols].chunks_exact(LANES).enumerate() {
            let at = first + number * LANES;
            // SAFETY: `at` and the 15 elements behind it lie before `end`, and are this tile's alone; when the residual is the
            // output, it is read before the write.
            unsafe {
                let to = out.address(at).cast_mut();
                let mut x = _mm512_loadu_ps(values.as_ptr());
                if let Some(residual) = residual {
                    x = _mm512_add_ps(x, widen(residual.address(at)));
                }
                if ACCUMULATE {
                    x = _mm512_add_ps(widen(to.cast_const()), x);
                }
                if O::DTYPE == DType::F32 {
                    _mm512_storeu_ps(to.cast(), x);
                } else {
                    let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
                    _mm256_storeu_si256(to.cast(), rounded);
                }
            }
        }
    }
}

/// Sixteen f32 or bf16 as f32.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn widen<A: Act>(at: *const A) -> __m512 {
    // SAFETY: by the contract.
    unsafe {
        if A::DTYPE == DType::F32 {
            _mm512_loadu_ps(at.cast())
        } else {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
}
