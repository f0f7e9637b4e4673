//! The suffix array of a text by induced sorting (SA-IS, Nong, Zhang and Chan 2009), and which neighbours in it agree.
//!
//! A suffix is of type S if it is smaller than the one after it, else L; an S after an L is left-most (LMS). Once the LMS
//! suffixes are sorted, by recursion on their names, one pass to the right sorts all L and one to the left all S.

const EMPTY: u32 = u32::MAX;

/// A text's letter.
pub(super) trait Letter: Copy + Eq + Ord {
    fn index(self) -> usize;
}

impl Letter for u8 {
    fn index(self) -> usize {
        self.into()
    }
}

impl Letter for u32 {
    fn index(self) -> usize {
        self as usize
    }
}

/// Starts of all suffixes in their order. `largest`: at least the largest letter. Texts of fewer than 2³² letters.
pub(super) fn suffix_array<T: Letter>(text: &[T], largest: usize) -> Vec<u32> {
    let length = text.len();
    if length < 2 {
        return (0..length as u32).collect();
    }
    let mut is_small = vec![false; length];
    for place in (0..length - 1).rev() {
        is_small[place] = match text[place].cmp(&text[place + 1]) {
            std::cmp::Ordering::Equal => is_small[place + 1],
            order => order.is_lt(),
        };
    }
    let buckets = Buckets::new(text, &is_small, largest);
    let mut names = vec![EMPTY; length];
    let mut leftmost = Vec::new();
    for place in 1..length {
        if !is_small[place - 1] && is_small[place] {
            names[place] = leftmost.len() as u32;
            leftmost.push(place as u32);
        }
    }
    let mut array = vec![EMPTY; length];
    buckets.induce(text, &is_small, &leftmost, &mut array);
    if leftmost.is_empty() {
        return array;
    }
    // By their first piece the LMS suffixes are now in order; equal pieces get one name.
    let mut sorted: Vec<u32> =
        array.iter().copied().filter(|&start| names[start as usize] != EMPTY).collect();
    let mut reduced = vec![0u32; leftmost.len()];
    let end =
        |start: u32| leftmost.get(names[start as usize] as usize + 1).map_or(length, |&next| next as usize);
    let mut name = 0;
    for pair in sorted.windows(2) {
        let (one, other) = (pair[0] as usize, pair[1] as usize);
        let (one_end, other_end) = (end(pair[0]), end(pair[1]));
        // The piece goes up to and with the first letter of the next; the last one has none to go with.
        let is_same = one_end - one == other_end - other
            && one_end < length
            && other_end < length
            && text[one..=one_end] == text[other..=other_end];
        name += u32::from(!is_same);
        reduced[names[other] as usize] = name;
    }
    drop(names);
    let order = suffix_array(&reduced, name as usize);
    for (place, &number) in order.iter().enumerate() {
        sorted[place] = leftmost[number as usize];
    }
    buckets.induce(text, &is_small, &sorted, &mut array);
    array
}

/// Where the suffixes of each first letter begin: those of type L in front, those of type S behind.
struct Buckets {
    large: Vec<u32>,
    small: Vec<u32>,
}

impl Buckets {
    fn new<T: Letter>(text: &[T], is_small: &[bool], largest: usize) -> Self {
        let (mut large, mut small) = (vec![0u32; largest + 2], vec![0u32; largest + 1]);
        for (letter, &is_small) in text.iter().zip(is_small) {
            match is_small {
                false => small[letter.index()] += 1,
                true => large[letter.index() + 1] += 1,
            }
        }
        for letter in 0..=largest {
            small[letter] += large[letter];
            large[letter + 1] += small[letter];
        }
        Self { large, small }
    }

    /// Sorts all suffixes from the LMS ones in their order.
    fn induce<T: Letter>(&self, text: &[T], is_small: &[bool], leftmost: &[u32], array: &mut [u32]) {
        array.fill(EMPTY);
        let mut next = self.small.clone();
        for &start in leftmost {
            let bucket = &mut next[text[start as usize].index()];
            array[*bucket as usize] = start;
            *bucket += 1;
        }
        next.clone_from(&self.large);
        let last = text.len() - 1;
        let bucket = &mut next[text[last].index()];
        array[*bucket as usize] = last as u32;
        *bucket += 1;
        for place in 0..array.len() {
            let start = array[place];
            if start != EMPTY && start >= 1 && !is_small[start as usize - 1] {
                let bucket = &mut next[text[start as usize - 1].index()];
                array[*bucket as usize] = start - 1;
                *bucket += 1;
            }
        }
        next.clone_from(&self.large);
        for place in (0..array.len()).rev() {
            let start = array[place];
            if start != EMPTY && start >= 1 && is_small[start as usize - 1] {
                let bucket = &mut next[text[start as usize - 1].index() + 1];
                *bucket -= 1;
                array[*bucket as usize] = start - 1;
            }
        }
    }
}

/// Of each place of the text, how many letters its suffix shares with the one before it in the array, by Kärkkäinen's Φ: the
/// number falls by at most one from a place to the next.
pub(super) fn shared_with_predecessor<T: Letter>(text: &[T], array: &[u32]) -> Vec<u32> {
    let mut shared = vec![EMPTY; text.len()];
    for pair in array.windows(2) {
        shared[pair[1] as usize] = pair[0];
    }
    let mut length = 0;
    for place in 0..text.len() {
        let before = shared[place];
        if before == EMPTY {
            length = 0;
        } else {
            let (one, other) = (&text[place + length..], &text[before as usize + length..]);
            length += one.iter().zip(other).take_while(|(one, other)| one == other).count();
        }
        shared[place] = length as u32;
        length = length.saturating_sub(1);
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn suffixes_are_sorted_and_neighbours_measured(
            text in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                prop::collection::vec(0u8..3, 0..200),
                prop::collection::vec(0u8..1, 0..50),
                "(abab|ba|a{1,9}c){0,30}".prop_map(String::into_bytes),
            ]
        ) {
            let array = suffix_array(&text, 255);
            let mut expected: Vec<u32> = (0..text.len() as u32).collect();
            expected.sort_by_key(|&start| &text[start as usize..]);
            prop_assert_eq!(&array, &expected);
            let shared = shared_with_predecessor(&text, &array);
            for pair in array.windows(2) {
                let (one, other) = (&text[pair[0] as usize..], &text[pair[1] as usize..]);
                let length = one.iter().zip(other).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(shared[pair[1] as usize] as usize, length);
            }
        }
    }
}
