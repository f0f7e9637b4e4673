//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers
//! addressed by a counter, so that any of them can be drawn on any rank in any order.
//!
//! A [`Stream`] is one use of randomness (a tensor's initial values, one dropout site); a number in it is
//! addressed by its global index, never by the order of calls. Nothing here calls a mathematical library, whose last bits
//! depend on its version: machines of any kind draw the same numbers.

use std::f64::consts::{LN_2, SQRT_2, TAU};

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds over one counter block: four random words.
#[inline(always)]
pub fn block(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = (key, counter);
    for _ in 0..10 {
        let first = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let second = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [
            (second >> 32) as u32 ^ c[1] ^ k[0],
            second as u32,
            (first >> 32) as u32 ^ c[3] ^ k[1],
            first as u32,
        ];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// One named sequence of random words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub seed: u64,
    /// What the numbers are for; see [`Stream::named`].
    pub purpose: u64,
}

impl Stream {
    /// The stream of `name` under `seed` (FNV-1a over the name).
    pub fn named(seed: u64, name: &str) -> Self {
        let purpose = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { seed, purpose }
    }

    /// Words `4 * index .. 4 * index + 4`.
    #[inline(always)]
    pub fn four(&self, index: u64) -> [u32; 4] {
        block(
            [self.seed as u32, (self.seed >> 32) as u32],
            [index as u32, (index >> 32) as u32, self.purpose as u32, (self.purpose >> 32) as u32],
        )
    }

    /// Word number `index`.
    #[inline(always)]
    pub fn word(&self, index: u64) -> u32 {
        self.four(index / 4)[(index % 4) as usize]
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&self, index: u64) -> f32 {
        (self.word(index) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal number `index` (Box–Muller over words `2 * index`, `2 * index + 1`), in f64.
    pub fn normal(&self, index: u64) -> f64 {
        self.two_normals(index / 2)[(index % 2) as usize]
    }

    /// Standard normal numbers `2 * index` and `2 * index + 1`.
    #[inline(always)]
    pub fn two_normals(&self, index: u64) -> [f64; 2] {
        let four = self.four(index);
        [box_muller(four[0], four[1]), box_muller(four[2], four[3])]
    }
}

/// `√(-2 ln u) · cos(2π v)` with `u` = (first + ½) / 2³² and `v` = second / 2³².
#[inline(always)]
fn box_muller(first: u32, second: u32) -> f64 {
    let radius = (-2.0 * ln((f64::from(first) + 0.5) * (1.0 / 4_294_967_296.0))).sqrt();
    radius * cos_of_turn(second)
}

/// `ln u` of a normal number between 0 and 1, within 2⁻⁵⁰ of its size: `e ln 2 + 2 (s + s³/3 + s⁵/5 + …)` with `u = m · 2ᵉ`, m between √½
/// and √2, and `s = (m - 1) / (m + 1)`.
#[inline(always)]
fn ln(u: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = u.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits((bits & MANTISSA) | (1023 << 52));
    let high = mantissa > SQRT_2;
    let mantissa = if high { 0.5 * mantissa } else { mantissa };
    let exponent = f64::from(exponent + i32::from(high));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let mut sum = 1.0 / 21.0;
    for divisor in [19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * z + 1.0 / divisor;
    }
    exponent * LN_2 + 2.0 * s * sum
}

/// `cos(2π · word / 2³²)` within 2⁻⁵²: whole quarters of the turn are taken off exactly, in integers, and what is left, at most π/4 either
/// way, goes into the series of sine and cosine.
#[inline(always)]
fn cos_of_turn(word: u32) -> f64 {
    let quarter = word.wrapping_add(1 << 29) >> 30;
    let rest = word.wrapping_sub(quarter << 30) as i32;
    let x = f64::from(rest) * (TAU / 4_294_967_296.0);
    let z = x * x;
    let (mut sine, mut cosine) = (1.0, 1.0);
    // Terms k + 1 and those behind them, from the last on: x^(2k)/(2k)! and x^(2k+1)/(2k+1)!.
    for k in [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0] {
        cosine = 1.0 - cosine * z * (1.0 / ((2.0 * k - 1.0) * (2.0 * k)));
        sine = 1.0 - sine * z * (1.0 / ((2.0 * k) * (2.0 * k + 1.0)));
    }
    let value = if quarter & 1 == 0 { cosine } else { x * sine };
    // cos, -sin, -cos, sin of what is left.
    if quarter == 1 || quarter == 2 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(block([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(block([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            block([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn logarithm_and_cosine_are_those_of_the_library() {
        let words = (0..200_000u32)
            .map(|i| i.wrapping_mul(0x9E37_79B9))
            .chain(0..100)
            .chain(u32::MAX - 100..=u32::MAX);
        for word in words {
            let u = (f64::from(word) + 0.5) / 4_294_967_296.0;
            let (ours, theirs) = (ln(u), u.ln());
            assert!((ours - theirs).abs() <= theirs.abs() * 2f64.powi(-50), "ln {u}: {ours}, not {theirs}");
            let (ours, theirs) = (cos_of_turn(word), (TAU * f64::from(word) / 4_294_967_296.0).cos());
            // The library's argument is rounded: by up to 2⁻⁵¹ of a turn.
            assert!((ours - theirs).abs() <= 2f64.powi(-50), "cos of {word}: {ours}, not {theirs}");
        }
    }

    #[test]
    fn normals_come_in_pairs_of_the_same_bits() {
        let stream = Stream::named(3, "pairs");
        for index in [0, 1, 2, 1001, 1 << 40] {
            assert_eq!(stream.normal(index), stream.two_normals(index / 2)[(index % 2) as usize]);
        }
        // Any change of these bits changes every network's first weights.
        assert_eq!(
            [stream.normal(0), stream.normal(1)].map(f64::to_bits),
            [0x3fc6_a2a9_e072_7524, 0xbfe0_b693_2e34_e2d4]
        );
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let stream = Stream::named(1, "test");
        let n = 20_000;
        let values: Vec<f64> = (0..n).map(|i| stream.normal(i)).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
