//! What happens to a finished tile: bias, activation, dropout, residual, and the store.

use super::super::math::{self, Act};
use super::super::memory::{Block, SharedMut, overlap};
use crate::{Activation, DType, Dropout, Gemm, View};

/// Values of the lanes that are worked on at once.
const LANES: usize = 16;

/// A finished tile of a product, on its way to memory.
pub(crate) struct Tile<'a> {
    /// `[…, stride]`, of which `rows × cols` belong to the product.
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    /// Position of the first value in the product.
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// Takes finished tiles; every element of the product comes exactly once, from any worker.
pub(crate) trait Finish: Sync {
    fn finish(&self, tile: Tile<'_>);
}

/// Stores a product of `T` operands as `O`, after the steps of its [`crate::Epilogue`].
pub(crate) struct Store<'a, T, O> {
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
    pub(crate) fn new(arena: &'a Block, gemm: &Gemm) -> Self {
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
            Self { out: arena.shared(out), cols, accumulate, bias, activation, dropout, residual }
        }
    }

    /// One row's values `at .. at + x.len()`; at most `LANES` of them.
    #[inline(always)]
    fn lanes(&self, row: usize, col: usize, x: &mut [f32]) {
        let range = row * self.cols + col..row * self.cols + col + x.len();
        if let Some(bias) = self.bias {
            for (x, &b) in x.iter_mut().zip(&bias[col..]) {
                *x += b;
            }
        }
        match &self.activation {
            Applied::None => {}
            Applied::Gelu(pre) => {
                // SAFETY: every element of the product is finished once, so nobody else has this range.
                let pre = unsafe { pre.range(range.clone()) };
                for (x, pre) in x.iter_mut().zip(pre) {
                    *pre = T::from_f32(*x);
                    *x = math::gelu(pre.to_f32());
                }
            }
            Applied::GeluGradient(pre) => {
                for (x, pre) in x.iter_mut().zip(&pre[range.clone()]) {
                    *x *= math::gelu_gradient(pre.to_f32());
                }
            }
        }
        if let Some(dropout) = &self.dropout {
            for (i, x) in x.iter_mut().enumerate() {
                *x *= dropout.factor(row, col + i);
            }
        }
        if let Some(residual) = &self.residual {
            // SAFETY: as for `pre`; when the residual is the output, this read ends before the write below.
            let residual = unsafe { residual.range(range.clone()) };
            for (x, r) in x.iter_mut().zip(residual) {
                *x += r.to_f32();
            }
        }
        // SAFETY: as for `pre`.
        let out = unsafe { self.out.range(range) };
        if self.accumulate {
            for (out, &x) in out.iter_mut().zip(&*x) {
                *out = O::from_f32(out.to_f32() + x);
            }
        } else {
            for (out, &x) in out.iter_mut().zip(&*x) {
                *out = O::from_f32(x);
            }
        }
    }
}

impl<T: Act, O: Act> Finish for Store<'_, T, O> {
    #[inline(always)]
    fn finish(&self, tile: Tile<'_>) {
        for r in 0..tile.rows {
            let values = &mut tile.values[r * tile.stride..][..tile.cols];
            let mut col = tile.col;
            let mut chunks = values.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                // A length known to the compiler: the loops of `lanes` become single instructions.
                let chunk: &mut [f32; LANES] = chunk.try_into().expect("chunks_exact gives whole chunks");
                self.lanes(tile.row + r, col, chunk);
                col += LANES;
            }
            let rest = chunks.into_remainder();
            if !rest.is_empty() {
                self.lanes(tile.row + r, col, rest);
            }
        }
    }
}
