//! Typed slices of the arena.

pub(crate) use crate::arena::Block;
use crate::{DType, Packed, View};
use std::marker::PhantomData;
use std::ops::Range;

impl Block {
    /// The elements of a view.
    ///
    /// # Safety
    /// Nobody writes to the range while the slice lives.
    pub(crate) unsafe fn slice<'a, T: Element>(&self, view: View) -> &'a [T] {
        check::<T>(view);
        // SAFETY: in range (`pointer`), aligned and typed (`check`); no writer by this function's contract.
        unsafe { std::slice::from_raw_parts(self.pointer(view.offset, view.bytes()).cast(), view.len()) }
    }

    /// A view as memory that several workers write disjoint parts of.
    ///
    /// # Safety
    /// Nobody else reads or writes the range while the result lives, but through it.
    pub(crate) unsafe fn shared<'a, T: Element>(&self, view: View) -> SharedMut<'a, T> {
        check::<T>(view);
        SharedMut {
            pointer: self.pointer(view.offset, view.bytes()).cast(),
            len: view.len(),
            lifetime: PhantomData,
        }
    }

    /// A range as bytes that several workers write disjoint parts of.
    ///
    /// # Safety
    /// Nobody else reads or writes the range while the result lives, but through it.
    pub(crate) unsafe fn bytes_of<'a>(&self, offset: usize, count: usize) -> SharedMut<'a, u8> {
        SharedMut { pointer: self.pointer(offset, count), len: count, lifetime: PhantomData }
    }

    /// The first `count` floats of a block used as work memory.
    ///
    /// # Safety
    /// Nobody else uses the block while the result lives, but through it.
    pub(crate) unsafe fn floats<'a>(&self, count: usize) -> SharedMut<'a, f32> {
        SharedMut {
            pointer: self.pointer(0, count * size_of::<f32>()).cast(),
            len: count,
            lifetime: PhantomData,
        }
    }

    /// The bytes of a packed operand, as 4-byte units.
    pub(crate) fn packed(&self, packed: Packed) -> *mut u32 {
        assert_eq!(packed.offset % 64, 0, "a packed operand starts on a cache line");
        self.pointer(packed.offset, packed.bytes).cast()
    }
}

fn check<T: Element>(view: View) {
    assert_eq!(view.dtype, T::DTYPE, "a {} view used as {}", view.dtype, T::DTYPE);
    assert_eq!(view.offset % align_of::<T>(), 0, "view at byte {} is not aligned", view.offset);
}

/// Element types of views.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}

/// Memory that several workers write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: handing parts out is unsafe and its callers promise that parts are disjoint.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Where element `index` is, for prefetching.
    pub(crate) const fn address(&self, index: usize) -> *const T {
        self.pointer.wrapping_add(index)
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other live slice overlaps the range.
    ///
    /// # Panics
    /// When the range leaves the memory.
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in range; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

/// What an operation writes must not share memory with anything else it uses.
///
/// # Panics
/// When two of `writes`, or one of `writes` and one of `reads`, overlap.
pub(crate) fn assert_disjoint(writes: &[View], reads: &[View]) {
    for (i, write) in writes.iter().enumerate() {
        for other in writes[i + 1..].iter().chain(reads) {
            assert!(!overlap(*write, *other), "output {write:?} overlaps {other:?}");
        }
    }
}

/// An output that may be its input itself: the same memory or disjoint from it, nothing between.
///
/// # Panics
/// When the views overlap in part.
pub(crate) fn assert_same_or_disjoint(write: View, read: View) {
    assert!(
        write.offset == read.offset || !overlap(write, read),
        "output {write:?} overlaps {read:?} in part"
    );
}

/// Whether two views share memory.
pub(crate) fn overlap(a: View, b: View) -> bool {
    a.offset < b.offset + b.bytes() && b.offset < a.offset + a.bytes()
}
