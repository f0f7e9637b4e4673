//! Transposing a square of 16 × 16 four-byte units in place, in registers where the machine has them.

use super::super::isa::Isa;

pub(super) const SIDE: usize = 16;

pub(super) fn square(isa: Isa, units: &mut [u32; SIDE * SIDE]) {
    match isa {
        // SAFETY: a value of these variants proves that the machine has the instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => unsafe { avx512(units) },
        _ => {
            for i in 0..SIDE {
                for j in 0..i {
                    units.swap(i * SIDE + j, j * SIDE + i);
                }
            }
        }
    }
}

/// Four rounds of interleaving: units, pairs of units, then 128-bit parts twice.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(units: &mut [u32; SIDE * SIDE]) {
    use std::arch::x86_64::*;
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (row, units) in rows.iter_mut().zip(units.chunks_exact(SIDE)) {
        // SAFETY: a chunk has 64 bytes.
        *row = unsafe { _mm512_loadu_si512(units.as_ptr().cast()) };
    }
    let mut next = rows;
    for i in 0..SIDE / 2 {
        next[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        next[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..SIDE / 4 {
        for half in 0..2 {
            let (a, b) = (next[4 * i + half], next[4 * i + 2 + half]);
            rows[4 * i + 2 * half] = _mm512_unpacklo_epi64(a, b);
            rows[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(a, b);
        }
    }
    // Now rows[4 * i + c] holds, in 128-bit part p, column 4 * p + c of rows 4 * i .. 4 * i + 4.
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(rows[c], rows[4 + c]);
        let high = _mm512_shuffle_i32x4::<0xdd>(rows[c], rows[4 + c]);
        let low2 = _mm512_shuffle_i32x4::<0x88>(rows[8 + c], rows[12 + c]);
        let high2 = _mm512_shuffle_i32x4::<0xdd>(rows[8 + c], rows[12 + c]);
        next[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        next[4 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        next[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low2);
        next[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high, high2);
    }
    for (row, units) in next.iter().zip(units.chunks_exact_mut(SIDE)) {
        // SAFETY: a chunk has 64 bytes.
        unsafe { _mm512_storeu_si512(units.as_mut_ptr().cast(), *row) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Kernel;

    #[test]
    fn rows_become_columns() {
        for kernel in [Kernel::Auto, Kernel::Portable] {
            let mut units: [u32; SIDE * SIDE] = std::array::from_fn(|i| i as u32);
            square(Isa::choose(kernel).unwrap(), &mut units);
            for (i, unit) in units.iter().enumerate() {
                assert_eq!(*unit as usize, i % SIDE * SIDE + i / SIDE);
            }
        }
    }
}
