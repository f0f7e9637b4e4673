//! The arena of one device: a zeroed, huge-page-aligned block, and typed slices of it.

use crate::{DType, OutOfMemory, Packed, View};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::Range;

/// Start of arenas: a huge page, so that the kernel can back them with such pages.
const ALIGNMENT: usize = 2 << 20;

/// A zeroed block of memory, freed on drop.
pub(crate) struct Block {
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: the block is plain memory owned by this value.
unsafe impl Send for Block {}
// SAFETY: shared access goes through the unsafe accessors below, whose callers promise disjointness.
unsafe impl Sync for Block {}

impl Block {
    pub(crate) const fn empty() -> Self {
        Self { pointer: std::ptr::null_mut(), bytes: 0 }
    }

    pub(crate) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        if bytes == 0 {
            return Ok(Self::empty());
        }
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| OutOfMemory { bytes })?;
        // SAFETY: the layout has a size above 0.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            return Err(OutOfMemory { bytes });
        }
        // SAFETY: the range is this allocation; the advice changes page sizes, not contents. A kernel
        // without huge pages refuses it, which costs speed only.
        #[cfg(target_os = "linux")]
        let _ = unsafe { rustix::mm::madvise(pointer.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
        Ok(Self { pointer, bytes })
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Pointer to `bytes` bytes at `offset`.
    ///
    /// # Panics
    /// When the range leaves the block.
    pub(crate) fn pointer(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "bytes {offset}..+{bytes} of an arena of {}",
            self.bytes
        );
        // SAFETY: the offset lies inside the block (or at its end for an empty range).
        unsafe { self.pointer.add(offset) }
    }

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

impl Drop for Block {
    fn drop(&mut self) {
        if !self.pointer.is_null() {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(self.pointer, Layout::from_size_align_unchecked(self.bytes, ALIGNMENT)) }
        }
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
