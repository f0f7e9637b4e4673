//! Register tiles: the innermost loops of every product.
//!
//! Operands come packed in 4-byte *units*: an f32, or a pair of bf16 that are neighbours along the inner
//! dimension. A panel of the left operand is `[units][MR]` (tile registers have their own, see `amx.rs`), of the
//! right one `[units][NR]`:
//!
//! ```text
//!            B panel   48 columns = 3 registers          acc[8][3] stays in registers
//!   A panel  u ─▶  ┌────────────────────────┐            acc[i][j] += a[u][i] · b[u][j]
//!   8 rows    ◀─── │ broadcast · load · FMA │  × units
//! ```
//!
//! A finished sum is joined with the newest `joins` tiles below it on a small stack (see
//! [`crate::join_order`]), so that virtual shards cost one store and one load of a tile each.

use super::super::isa::Isa;
use crate::DType;

/// A register tile's geometry and instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Microkernel {
    /// 16 × 32, pairs of bf16, on tile registers.
    #[cfg(target_arch = "x86_64")]
    Bf16Amx,
    /// 8 × 48, pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Bf16Avx512,
    /// 8 × 48, f32.
    #[cfg(target_arch = "x86_64")]
    F32Avx512,
    /// 6 × 16, f32.
    #[cfg(target_arch = "x86_64")]
    F32Avx2,
    /// 4 × 16, f32.
    Portable,
}

/// Elements of the largest tile.
pub(crate) const MAX_TILE: usize = 16 * 32;

impl Microkernel {
    pub(crate) const fn new(isa: Isa, dtype: DType) -> Self {
        match (isa, dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, DType::Bf16) => Self::Bf16Amx,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, DType::Bf16) => Self::Bf16Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512, _) => Self::F32Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => Self::F32Avx2,
            (Isa::Portable, _) => Self::Portable,
        }
    }

    /// Rows of a tile.
    pub(crate) const fn mr(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => super::amx::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Avx512 | Self::F32Avx512 => 8,
            #[cfg(target_arch = "x86_64")]
            Self::F32Avx2 => 6,
            Self::Portable => 4,
        }
    }

    /// Columns of a tile.
    pub(crate) const fn nr(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => super::amx::COLS,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Avx512 | Self::F32Avx512 => 48,
            #[cfg(target_arch = "x86_64")]
            Self::F32Avx2 => 16,
            Self::Portable => 16,
        }
    }

    /// f32 from one tile to the next on a stack.
    pub(crate) const fn tile_len(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => super::amx::TILE,
            _ => self.mr() * self.nr(),
        }
    }

    /// Elements of the inner dimension in one unit.
    pub(crate) const fn group(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx | Self::Bf16Avx512 => 2,
            _ => 1,
        }
    }

    /// Units that hold `inner` elements.
    pub(crate) const fn units(self, inner: usize) -> usize {
        inner.div_ceil(self.group())
    }

    /// Units that a row of the left block takes for a segment of `units`: tile registers want whole steps.
    pub(crate) const fn left_units(self, units: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => units.next_multiple_of(super::super::amx::SIDE),
            _ => units,
        }
    }

    /// Units of the left block that a worker keeps in its L2 cache, and the most rows in it. Tile registers use up
    /// the right operand so fast that it must be read seldom.
    pub(crate) const fn left_block(self) -> (usize, usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => (196_608, 512),
            _ => (65_536, 192),
        }
    }

    /// Rows that an item has at least, where there are so many, before panels are shared out too; by the bytes of the right
    /// operand, which two MiB of L2 cache hold or not.
    pub(crate) fn fewest_rows(self, right_bytes: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => 128 * (right_bytes >> 21).max(1),
            _ => self.left_block().1,
        }
    }

    /// Items for each worker that a product is cut into, so that all are busy to its end.
    pub(crate) const fn items(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => 4,
            _ => 6,
        }
    }

    /// The most rows and columns of an item whose unfinished tiles are kept in memory.
    pub(crate) const fn long_block(self) -> (usize, usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => (256, 384),
            _ => (128, 768),
        }
    }

    /// Bytes that [`Self::tile`] brings nearer while it runs over `units`.
    pub(crate) const fn bytes_ahead(self, units: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => units.div_ceil(super::super::amx::SIDE) * super::amx::LINES_AHEAD * 64,
            _ => units * 64,
        }
    }

    /// What a worker must hold while it runs tiles.
    ///
    /// # Safety
    /// The machine has the kernel's instructions.
    pub(crate) unsafe fn set_up(self) -> impl Sized {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on from this function's contract.
        return (self == Self::Bf16Amx)
            .then(|| unsafe { super::super::amx::Tiles::new(&super::super::amx::Shapes::FULL) });
    }

    /// Units of a right panel that a worker runs all its row panels over before it goes on, so that they stay in L1.
    /// A multiple of the step; sums do not depend on it.
    pub(crate) const fn chunk(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Amx => 192,
            _ => usize::MAX,
        }
    }

    /// Computes one tile over `units` (continuing the sums at `top` if it says so), joins it with the `joins` tiles just
    /// below `top` (each `MR · NR` f32, the newest nearest), and stores the result in place of the lowest of them (`top`
    /// itself when `joins` is 0). Meanwhile brings the [`Self::bytes_ahead`] at `ahead` nearer (any address is fine).
    ///
    /// # Safety
    /// `a` points to `left_units(units) · MR` units, `b` to `units · NR`, `top` to one tile (of sums, if they are
    /// continued) with `joins` initialised tiles before it, [`Self::tile_len`] apart; the machine has the kernel's
    /// instructions, and this thread holds what [`Self::set_up`] gave.
    #[inline(always)]
    pub(crate) unsafe fn tile(
        self,
        units: usize,
        a: *const u32,
        b: *const u32,
        top: *mut f32,
        continued: bool,
        joins: usize,
        ahead: *const u8,
    ) {
        // SAFETY: passed on from this function's contract.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Bf16Amx => super::amx::tile(units, a, b, top, continued, joins, ahead),
                #[cfg(target_arch = "x86_64")]
                Self::Bf16Avx512 => x86::bf16_avx512(units, a, b, top, continued, joins, ahead),
                #[cfg(target_arch = "x86_64")]
                Self::F32Avx512 => x86::f32_avx512(units, a, b, top, continued, joins, ahead),
                #[cfg(target_arch = "x86_64")]
                Self::F32Avx2 => x86::f32_avx2(units, a, b, top, continued, joins, ahead),
                Self::Portable => portable(units, a, b, top, continued, joins),
            }
        }
    }
}

/// # Safety
/// As [`Microkernel::tile`] with MR = 4, NR = 16.
unsafe fn portable(units: usize, a: *const u32, b: *const u32, top: *mut f32, continued: bool, joins: usize) {
    const MR: usize = 4;
    const NR: usize = 16;
    let mut acc = [[0.0f32; NR]; MR];
    if continued {
        // SAFETY: `top` holds sums, by the contract.
        acc = unsafe { top.cast::<[[f32; NR]; MR]>().read() };
    }
    for u in 0..units {
        // SAFETY: u < units, see the contract; units are f32 bit patterns here.
        let (left, right) =
            unsafe { (&*a.add(u * MR).cast::<[f32; MR]>(), &*b.add(u * NR).cast::<[f32; NR]>()) };
        for (row, &x) in acc.iter_mut().zip(left) {
            for (sum, &y) in row.iter_mut().zip(right) {
                // AArch64 has a fused form in its base set; x86-64's base set would call a library.
                *sum = if cfg!(target_arch = "aarch64") { x.mul_add(y, *sum) } else { x * y + *sum };
            }
        }
    }
    for join in 1..=joins {
        // SAFETY: `joins` tiles lie before `top`.
        let below = unsafe { &*top.sub(join * MR * NR).cast::<[[f32; NR]; MR]>() };
        for (row, below) in acc.iter_mut().zip(below) {
            for (sum, &other) in row.iter_mut().zip(below) {
                *sum += other;
            }
        }
    }
    // SAFETY: `top` and the tiles before it are writable.
    unsafe { top.sub(joins * MR * NR).cast::<[[f32; NR]; MR]>().write(acc) };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// One register-tile loop for `$rows × ($vectors · $lanes)`.
    macro_rules! tile {
        ($name:ident, $features:literal, $rows:literal, $vectors:literal, $lanes:literal,
         $zero:expr, $load:ident, $store:ident, $add:ident, $broadcast:expr, $multiply_add:expr) => {
            /// # Safety
            /// As `Microkernel::tile`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                units: usize,
                a: *const u32,
                b: *const u32,
                top: *mut f32,
                continued: bool,
                joins: usize,
                ahead: *const u8,
            ) {
                const TILE: usize = $rows * $vectors * $lanes;
                let mut acc = [[$zero; $vectors]; $rows];
                if continued {
                    for i in 0..$rows {
                        for j in 0..$vectors {
                            // SAFETY: `top` holds sums, by the contract.
                            acc[i][j] = unsafe { $load(top.add((i * $vectors + j) * $lanes)) };
                        }
                    }
                }
                let (mut a, mut b, mut ahead) = (a, b, ahead);
                for _ in 0..units {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(64);
                    // SAFETY: the operands hold `units` groups, and the pointers have moved by fewer.
                    unsafe {
                        let mut right = [$zero; $vectors];
                        for j in 0..$vectors {
                            right[j] = $load(b.add(j * $lanes).cast());
                        }
                        for i in 0..$rows {
                            let left = $broadcast(a.add(i));
                            for j in 0..$vectors {
                                acc[i][j] = $multiply_add(acc[i][j], left, right[j]);
                            }
                        }
                        a = a.add($rows);
                        b = b.add($vectors * $lanes);
                    }
                }
                for join in 1..=joins {
                    for i in 0..$rows {
                        for j in 0..$vectors {
                            let at = (i * $vectors + j) * $lanes;
                            // SAFETY: `joins` tiles lie before `top`.
                            let below = unsafe { $load(top.sub(join * TILE).add(at)) };
                            acc[i][j] = $add(below, acc[i][j]);
                        }
                    }
                }
                for i in 0..$rows {
                    for j in 0..$vectors {
                        // SAFETY: `top` and the tiles before it are writable.
                        unsafe { $store(top.sub(joins * TILE).add((i * $vectors + j) * $lanes), acc[i][j]) };
                    }
                }
            }
        };
    }

    tile!(
        bf16_avx512,
        "avx512f,avx512bf16",
        8,
        3,
        16,
        _mm512_setzero_ps(),
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        |p: *const u32| _mm512_set1_epi32(p.read() as i32),
        |acc, x: __m512i, y: __m512| _mm512_dpbf16_ps(
            acc,
            std::mem::transmute::<__m512i, __m512bh>(x),
            std::mem::transmute::<__m512, __m512bh>(y)
        )
    );
    tile!(
        f32_avx512,
        "avx512f",
        8,
        3,
        16,
        _mm512_setzero_ps(),
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        |p: *const u32| _mm512_set1_ps(p.cast::<f32>().read()),
        |acc, x, y| _mm512_fmadd_ps(x, y, acc)
    );
    tile!(
        f32_avx2,
        "avx2,fma",
        6,
        2,
        8,
        _mm256_setzero_ps(),
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        |p: *const u32| _mm256_set1_ps(p.cast::<f32>().read()),
        |acc, x, y| _mm256_fmadd_ps(x, y, acc)
    );
}
