//! MT19937 as NumPy's `RandomState(seed)` runs it: the published parameters of MinHash come out of it.

const STATE: usize = 624;
const MIDDLE: usize = 397;

pub(super) struct MersenneTwister {
    state: [u32; STATE],
    next: usize,
}

impl MersenneTwister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for place in 1..STATE {
            let before = state[place - 1];
            state[place] = 1_812_433_253u32.wrapping_mul(before ^ before >> 30).wrapping_add(place as u32);
        }
        Self { state, next: STATE }
    }

    fn twist(&mut self) {
        for place in 0..STATE {
            let bits = self.state[place] & 0x8000_0000 | self.state[(place + 1) % STATE] & 0x7fff_ffff;
            let odd = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[place] = self.state[(place + MIDDLE) % STATE] ^ bits >> 1 ^ odd;
        }
        self.next = 0;
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// `randint(low, high, dtype=uint64)` for ranges beyond 2³²: draws are cut to the bits of the range, and those
    /// outside drawn again.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        let range = high - 1 - low;
        debug_assert!(range > u64::from(u32::MAX), "NumPy draws small ranges from 32 bits");
        let mask = u64::MAX >> range.leading_zeros();
        loop {
            let draw = self.next_u64() & mask;
            if draw <= range {
                return low + draw;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_published_generator() {
        let mut twister = MersenneTwister::new(5489);
        assert_eq!(twister.next_u32(), 3_499_211_612);
        let words: Vec<u32> = (1..10_000).map(|_| twister.next_u32()).collect();
        // What C++ requires of std::mt19937 at the ten-thousandth draw.
        assert_eq!(words.last(), Some(&4_123_659_995));
    }

    #[test]
    fn draws_are_those_of_numpy() {
        // numpy.random.RandomState(1).randint(1, 2**61 - 1, dtype="uint64", size=4), NumPy 2.
        let mut twister = MersenneTwister::new(1);
        let draws: Vec<u64> = (0..4).map(|_| twister.between(1, (1 << 61) - 1)).collect();
        assert_eq!(
            draws,
            [
                775_169_054_918_279_404,
                1_758_426_461_858_698_313,
                2_109_959_069_025_162,
                965_365_488_286_768_774
            ]
        );
    }
}
