//! The arena of one device: a zeroed, huge-page-aligned block of memory, and addresses inside it for those
//! who read and write it from outside the device.

use crate::{OutOfMemory, View};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

/// Start of arenas: a huge page, so that the kernel can back them with such pages.
const ALIGNMENT: usize = 2 << 20;

/// From this size on memory comes zeroed from the system and is first touched by who uses it, a huge page at a time. An
/// allocator that is asked for an alignment writes the zeros itself, page by page and before it is told of huge ones:
/// gigabytes of keys and values that no text may ever fill.
const LARGE: usize = 64 << 20;

/// A zeroed block of memory, freed on drop.
pub(crate) struct Block {
    pointer: *mut u8,
    bytes: usize,
    /// What the allocator gave; the block begins in it at the next multiple of [`ALIGNMENT`].
    allocation: *mut u8,
    layout: Layout,
}

// SAFETY: the block is plain memory owned by this value.
unsafe impl Send for Block {}
// SAFETY: shared access goes through the unsafe accessors below, whose callers promise disjointness.
unsafe impl Sync for Block {}

impl Block {
    pub(crate) const fn empty() -> Self {
        let pointer = std::ptr::without_provenance_mut(ALIGNMENT);
        Self { pointer, bytes: 0, allocation: pointer, layout: Layout::new::<()>() }
    }

    pub(crate) fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        if bytes == 0 {
            return Ok(Self::empty());
        }
        let out_of_memory = || OutOfMemory { bytes };
        let (size, alignment) = match bytes < LARGE {
            true => (bytes, ALIGNMENT),
            false => (bytes.checked_add(ALIGNMENT).ok_or_else(out_of_memory)?, 1),
        };
        let layout = Layout::from_size_align(size, alignment).map_err(|_| out_of_memory())?;
        // SAFETY: the layout has a size above 0.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            return Err(out_of_memory());
        }
        // SAFETY: a large allocation has room for the step to the next huge page, others begin with one.
        let pointer = unsafe { allocation.add(allocation.align_offset(ALIGNMENT)) };
        // SAFETY: the range lies in this allocation; the advice changes page sizes, not contents. A kernel
        // without huge pages refuses it, which costs speed only.
        #[cfg(target_os = "linux")]
        let _ = unsafe { rustix::mm::madvise(pointer.cast(), bytes, rustix::mm::Advice::LinuxHugepage) };
        Ok(Self { pointer, bytes, allocation, layout })
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

    /// See [`HostMemory`].
    ///
    /// # Panics
    /// When the view leaves the block.
    pub(crate) fn host(self: &Arc<Self>, view: View) -> HostMemory {
        let pointer = self.pointer(view.offset, view.bytes());
        HostMemory { pointer, bytes: view.bytes(), _arena: Arc::clone(self) }
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "arena of {} bytes", self.bytes)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(self.allocation, self.layout) }
        }
    }
}

/// Where a view lies in the memory of this process, for those who exchange data between devices.
///
/// Holding one keeps the memory allocated, even when the device is dropped or allocates anew. It says
/// nothing about who may touch the memory when: whoever dereferences the address must know that the device
/// runs no operation on these bytes meanwhile, and that nobody else accesses them.
#[derive(Clone, Debug)]
pub struct HostMemory {
    pointer: *mut u8,
    bytes: usize,
    _arena: Arc<Block>,
}

// SAFETY: an address and a shared owner of plain memory; access is up to whoever dereferences the address.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// The first byte; at least as aligned as the view's offset in the arena, up to 2 MiB.
    pub const fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    /// How many bytes may be accessed from there.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_are_zeroed_and_begin_with_a_huge_page() {
        for bytes in [1, 4096, LARGE - 1, LARGE, LARGE + 12_345] {
            let block = Block::new(bytes).unwrap();
            let pointer = block.pointer(0, bytes);
            assert_eq!(pointer.addr() % ALIGNMENT, 0, "{bytes}");
            // SAFETY: the block's own bytes, which nobody else knows of.
            let all = unsafe { std::slice::from_raw_parts_mut(pointer, bytes) };
            assert!(all.iter().all(|&byte| byte == 0), "{bytes}");
            all.fill(1);
        }
        assert!(Block::new(usize::MAX - 5).is_err());
    }
}
