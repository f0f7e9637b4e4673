//! What happens to a finished tile: bias, activation, dropout, residual, and the store.

#[cfg(target_arch = "x86_64")]
mod rows;

use super::super::isa::Isa;
use super::super::math::{self, Act};
use super::super::memory::{Block, SharedMut, overlap};
use super::microkernel::MAX_TILE;
use crate::{Activation, DType, Dropout, Gemm, View};

/// A row of the widest tile.
const WIDE: usize = 48;

/// A finished tile of a product, on its way to memory.
pub(crate) struct Tile<'a> {
    /// `[…, stride]`, of which `rows × cols` belong to the product.
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    /// The column panel.
    pub(crate) panel: usize,
    /// Position of the first value in the product.
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Takes finished tiles; every element of the product comes exactly once, from any worker.
pub(crate) trait Finish: Sync {
    fn finish(&self, tile: Tile<'_>);

    /// Called before a tile is computed, to bring what [`Finish::finish`] will touch nearer.
    fn prepare(&self, row: usize, col: usize, rows: usize) {
        let _ = (row, col, rows);
    }
}

/// Stores a product of `T` operands as `O`, after the steps of its [`crate::Epilogue`].
pub(crate) struct Store<'a, T, O> {
    isa: Isa,
    out: SharedMut<'a, O>,
    cols: usize,
    accumulate: bool,
    bias: Option<&'a [f32]>,
    activation: Applied<'a, T>,
    dropout: Option<Dropout>,
    /// May be `out` itself: every element is read just before it is written.
    residual: Option<SharedMut<'a, T>>,
}

enum Applied<'a, T> {
    None,
    Gelu(SharedMut<'a, T>),
    GeluGradient(&'a [T]),
}

impl<'a, T: Act, O: Act> Store<'a, T, O> {
    pub(crate) fn new(isa: Isa, arena: &'a Block, gemm: &Gemm) -> Self {
        let (rows, cols) = (gemm.left.outer(), gemm.right.outer());
        let Gemm { out, accumulate, epilogue, .. } = *gemm;
        assert_eq!((out.rows, out.cols), (rows, cols), "shape of {out:?}");
        assert!(!accumulate || out.dtype == DType::F32, "accumulating into {out:?}");
        let same_shape = |view: View| {
            assert_eq!((view.rows, view.cols), (rows, cols), "shape of {view:?} beside {out:?}");
            view
        };
        let apart = |view: View| {
            assert!(!overlap(view, out), "{view:?} overlaps {out:?}");
            view
        };
        // SAFETY: views are checked not to overlap the output (the residual may be the output itself), and
        // `&mut` of the device is held for the whole product.
        unsafe {
            let bias = epilogue.bias.map(|bias| {
                assert_eq!(bias.len(), cols, "length of the bias {bias:?}");
                arena.slice(apart(bias))
            });
            let activation = match epilogue.activation {
                Activation::None => Applied::None,
                Activation::Gelu { pre } => Applied::Gelu(arena.shared(apart(same_shape(pre)))),
                Activation::GeluGradient { pre } => {
                    Applied::GeluGradient(arena.slice(apart(same_shape(pre))))
                }
            };
            let residual = epilogue.residual.map(|residual| {
                let whole = residual.offset == out.offset && T::DTYPE == O::DTYPE;
                arena.shared(if whole { same_shape(residual) } else { apart(same_shape(residual)) })
            });
            let dropout = epilogue.dropout;
            Self { isa, out: arena.shared(out), cols, accumulate, bias, activation, dropout, residual }
        }
    }

    /// Bias and activation, in the tile. Costly functions run over the whole tile in one loop whose
    /// length the compiler does not know, which is what makes it vectorise them.
    #[inline(always)]
    fn activate(&self, tile: &mut Tile<'_>) {
        if let Some(bias) = self.bias {
            let bias = &bias[tile.col..tile.col + tile.cols];
            for r in 0..tile.rows {
                for (x, &b) in tile.values[r * tile.stride..][..tile.cols].iter_mut().zip(bias) {
                    *x += b;
                }
            }
        }
        let len = tile.rows * tile.stride;
        match &self.activation {
            Applied::None => {}
            Applied::Gelu(pre) => {
                for r in 0..tile.rows {
                    let at = (tile.row + r) * self.cols + tile.col;
                    // SAFETY: every element of the product is finished once, so nobody else has this range.
                    let pre = unsafe { pre.range(at..at + tile.cols) };
                    let values = &mut tile.values[r * tile.stride..][..tile.cols];
                    math::narrow(self.isa, values, pre);
                    for (x, pre) in values.iter_mut().zip(pre) {
                        *x = pre.to_f32();
                    }
                }
                for x in &mut tile.values[..len] {
                    *x = math::gelu(*x);
                }
            }
            Applied::GeluGradient(pre) => {
                let mut slopes = [0.0f32; MAX_TILE];
                for r in 0..tile.rows {
                    let at = (tile.row + r) * self.cols + tile.col;
                    let pre = &pre[at..at + tile.cols];
                    for (slope, pre) in slopes[r * tile.stride..].iter_mut().zip(pre) {
                        *slope = pre.to_f32();
                    }
                }
                for slope in &mut slopes[..len] {
                    *slope = math::gelu_gradient(*slope);
                }
                for (x, slope) in tile.values[..len].iter_mut().zip(&slopes) {
                    *x *= slope;
                }
            }
        }
    }

    /// [`Self::store`] of all rows, which are `COLS` long.
    #[inline(always)]
    fn store_rows<const COLS: usize>(&self, tile: &mut Tile<'_>) {
        for (r, values) in tile.values.chunks_exact_mut(tile.stride).take(tile.rows).enumerate() {
            if let Some((values, _)) = values.split_first_chunk_mut::<COLS>() {
                self.store(tile.row + r, tile.col, values);
            }
        }
    }

    /// Dropout, residual and the store of some values of one row.
    #[inline(always)]
    fn store(&self, row: usize, col: usize, x: &mut [f32]) {
        let range = row * self.cols + col..row * self.cols + col + x.len();
        if let Some(dropout) = &self.dropout {
            for (i, x) in x.iter_mut().enumerate() {
                *x *= dropout.factor(row, col + i);
            }
        }
        if let Some(residual) = &self.residual {
            // SAFETY: every element of the product is finished once, so nobody else has this range; when the
            // residual is the output, this read ends before the write below.
            let residual = unsafe { residual.range(range.clone()) };
            for (x, r) in x.iter_mut().zip(residual) {
                *x += r.to_f32();
            }
        }
        // SAFETY: as above.
        let out = unsafe { self.out.range(range) };
        if self.accumulate {
            for (out, &x) in out.iter_mut().zip(&*x) {
                *out = O::from_f32(out.to_f32() + x);
            }
        } else {
            math::narrow(self.isa, x, out);
        }
    }
}

impl<T: Act, O: Act> Finish for Store<'_, T, O> {
    #[inline(always)]
    fn finish(&self, mut tile: Tile<'_>) {
        self.activate(&mut tile);
        #[cfg(target_arch = "x86_64")]
        if self.dropout.is_none() && rows::knows::<T, O>(self.isa, &tile) {
            // SAFETY: the machine has the instructions, the types are known, and every element of the product is finished once.
            unsafe {
                if self.accumulate {
                    rows::store::<T, O, true>(&tile, self.out, self.residual, self.cols);
                } else {
                    rows::store::<T, O, false>(&tile, self.out, self.residual, self.cols);
                }
            }
            return;
        }
        // A length known to the compiler turns the short loops of `store` into a few instructions; those of 32 it
        // would unroll into scalars.
        if tile.cols == WIDE {
            self.store_rows::<WIDE>(&mut tile);
        } else {
            for r in 0..tile.rows {
                self.store(tile.row + r, tile.col, &mut tile.values[r * tile.stride..][..tile.cols]);
            }
        }
    }

    #[inline(always)]
    fn prepare(&self, row: usize, col: usize, rows: usize) {
        for row in row..row + rows {
            let at = row * self.cols + col;
            if self.accumulate {
                prefetch::<O>(self.out.address(at));
            }
            if let Some(residual) = &self.residual {
                prefetch::<T>(residual.address(at));
            }
            if let Applied::GeluGradient(pre) = &self.activation {
                prefetch::<T>(pre.as_ptr().wrapping_add(at));
            }
        }
    }
}

/// Brings a row of the widest tile nearer.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..(WIDE * size_of::<T>()).div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(64 * line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
