//! The arena of one device: a zeroed, huge-page-aligned block of memory, and addresses inside it for those
//! who read and write it from outside the device.

use crate::{OutOfMemory, View};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

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
        Self { pointer: std::ptr::without_provenance_mut(ALIGNMENT), bytes: 0 }
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
            unsafe { dealloc(self.pointer, Layout::from_size_align_unchecked(self.bytes, ALIGNMENT)) }
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
