//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers
//! addressed by a counter, so that any of them can be drawn on any rank in any order.
//!
//! A [`Stream`] is one use of randomness (a tensor's initial values, one dropout site); a number in it is
//! addressed by its global index, never by the order of calls.

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
        let four = self.four(index / 2);
        let pair = if index.is_multiple_of(2) { [four[0], four[1]] } else { [four[2], four[3]] };
        let radius = (-2.0 * ((f64::from(pair[0]) + 0.5) / 4_294_967_296.0).ln()).sqrt();
        radius * (std::f64::consts::TAU * f64::from(pair[1]) / 4_294_967_296.0).cos()
    }
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
    fn normal_has_mean_zero_and_variance_one() {
        let stream = Stream::named(1, "test");
        let n = 20_000;
        let values: Vec<f64> = (0..n).map(|i| stream.normal(i)).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
