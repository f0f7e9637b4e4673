//! The inner loops: sums of f32 buffers joined by the fixed tree, and copies, into several places in one
//! pass. They run at the speed of memory; every f32 sum has the same bits on every instruction set.

use triax_tensor::join_order;

/// Floats summed at once: a row of the stack of partial sums, two pages of L1.
const BLOCK: usize = 1024;

type Block = [f32; BLOCK];

/// Bytes copied at once, so that a source that goes to several places is read from memory once.
const COPY: usize = 64 << 10;

/// Element i of every destination becomes the tree sum over the sources' elements i.
///
/// # Safety
/// Sources are readable and destinations writable for `len` floats, aligned, and nobody else accesses them
/// meanwhile. A destination is the same memory as a source or overlaps none; destinations may be equal.
///
/// # Panics
/// Without sources.
pub(crate) unsafe fn sum(sources: &[*const f32], destinations: &[*mut f32], len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions were just detected; the rest is the caller's promise.
            return unsafe { sum_avx512(sources, destinations, len) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { sum_avx2(sources, destinations, len) };
        }
    }
    // SAFETY: the caller's promise.
    unsafe { sum_blocks(sources, destinations, len) }
}

/// # Safety
/// As [`sum`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn sum_avx512(sources: &[*const f32], destinations: &[*mut f32], len: usize) {
    // SAFETY: the caller's promise.
    unsafe { sum_blocks(sources, destinations, len) }
}

/// # Safety
/// As [`sum`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn sum_avx2(sources: &[*const f32], destinations: &[*mut f32], len: usize) {
    // SAFETY: the caller's promise.
    unsafe { sum_blocks(sources, destinations, len) }
}

/// # Safety
/// As [`sum`].
#[inline(always)]
unsafe fn sum_blocks(sources: &[*const f32], destinations: &[*mut f32], len: usize) {
    assert!(!sources.is_empty(), "a sum over nobody");
    // The tree over n leaves is at most log2(n) high; one more row for the leaf that is being added.
    let height = sources.len().ilog2() as usize + 2;
    let mut stack = vec![[0.0f32; BLOCK]; height];
    for start in (0..len).step_by(BLOCK) {
        let count = BLOCK.min(len - start);
        // SAFETY: `start..start + count` lies inside `len`.
        unsafe {
            sum_block(sources, start, count, &mut stack);
            for destination in destinations {
                stack[0].as_ptr().copy_to_nonoverlapping(destination.add(start), count);
            }
        }
    }
}

/// The tree sum of `start..start + count` of all sources into the first row of the stack.
///
/// # Safety
/// The sources are readable there.
#[inline(always)]
unsafe fn sum_block(sources: &[*const f32], start: usize, count: usize, stack: &mut [Block]) {
    let mut height = 0;
    let mut index = 0;
    while index < sources.len() {
        let mut joins = join_order(sources.len(), index);
        let first = sources[index].wrapping_add(start);
        // An even leaf with a right neighbour is joined with it first, without a stop on the stack.
        if joins == 0 && index + 1 < sources.len() {
            joins = join_order(sources.len(), index + 1) - 1;
            let second = sources[index + 1].wrapping_add(start);
            // SAFETY: readable for `count` floats by the contract.
            unsafe { add_pair(first, second, count, &mut stack[height]) };
            index += 2;
        } else {
            // SAFETY: as above.
            unsafe { first.copy_to_nonoverlapping(stack[height].as_mut_ptr(), count) };
            index += 1;
        }
        height += 1;
        for _ in 0..joins {
            let (older, newer) = stack.split_at_mut(height - 1);
            add_row(&mut older[height - 2], &newer[0]);
            height -= 1;
        }
    }
    debug_assert_eq!(height, 1);
}

/// # Safety
/// Both are readable for `count` floats.
#[inline(always)]
unsafe fn add_pair(left: *const f32, right: *const f32, count: usize, to: &mut Block) {
    // SAFETY: the caller's promise.
    let (left, right) =
        unsafe { (std::slice::from_raw_parts(left, count), std::slice::from_raw_parts(right, count)) };
    for ((to, left), right) in to.iter_mut().zip(left).zip(right) {
        *to = left + right;
    }
}

#[inline(always)]
fn add_row(to: &mut Block, from: &Block) {
    for i in 0..BLOCK {
        to[i] += from[i];
    }
}

/// Every destination becomes the source.
///
/// # Safety
/// The source is readable and destinations writable for `bytes`, and nobody else accesses them meanwhile.
/// A destination is the source's own memory or does not overlap it.
pub(crate) unsafe fn copy(source: *const u8, destinations: &[*mut u8], bytes: usize) {
    for start in (0..bytes).step_by(COPY) {
        let count = COPY.min(bytes - start);
        for destination in destinations.iter().filter(|destination| !std::ptr::eq(**destination, source)) {
            // SAFETY: in range and disjoint by the contract.
            unsafe { source.add(start).copy_to_nonoverlapping(destination.add(start), count) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as the recursion it is: the largest power of two leaves on the left.
    fn tree(values: &[f32]) -> f32 {
        if let [value] = values {
            return *value;
        }
        let left = values.len().next_power_of_two() / 2;
        tree(&values[..left]) + tree(&values[left..])
    }

    fn values(member: usize, len: usize) -> Vec<f32> {
        let noise = |i: usize| (i * 7919 + member * 104_729) % 10_007;
        (0..len).map(|i| (noise(i) as f32 - 5000.0) * (1.0 + member as f32 * 0.37)).collect()
    }

    #[test]
    fn sums_are_those_of_the_recursive_tree_for_any_number_of_members() {
        for members in 1..=17 {
            for len in [0, 1, 15, 1024, 1025, 3000] {
                let sources: Vec<Vec<f32>> = (0..members).map(|member| values(member, len)).collect();
                let expected: Vec<u32> = (0..len)
                    .map(|i| tree(&sources.iter().map(|s| s[i]).collect::<Vec<_>>()).to_bits())
                    .collect();
                let mut results = vec![vec![0.0f32; len]; 2];
                let from: Vec<_> = sources.iter().map(|s| s.as_ptr()).collect();
                let to: Vec<_> = results.iter_mut().map(|r| r.as_mut_ptr()).collect();
                // SAFETY: all buffers have `len` floats and are distinct.
                unsafe { sum(&from, &to, len) };
                for result in &results {
                    assert_eq!(result.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected);
                }
            }
        }
    }

    #[test]
    fn a_destination_may_be_a_source() {
        let mut buffers: Vec<Vec<f32>> = (0..5).map(|member| values(member, 5000)).collect();
        let expected: Vec<f32> =
            (0..5000).map(|i| tree(&buffers.iter().map(|b| b[i]).collect::<Vec<_>>())).collect();
        let to: Vec<_> = buffers.iter_mut().map(|b| b.as_mut_ptr()).collect();
        let from: Vec<_> = to.iter().map(|p| p.cast_const()).collect();
        // SAFETY: each buffer has 5000 floats.
        unsafe { sum(&from, &to, 5000) };
        assert!(buffers.iter().all(|b| *b == expected));
    }
}
