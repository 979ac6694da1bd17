//! The memory of batches: one mapping for all of a worker, cut into equal parts.
//!
//! The rule: every page is there before the first packet. Large pages where the kernel gives them make the
//! start ten times shorter and spare the copy its address translations; where it gives none, all works
//! the same.

#![allow(unsafe_code)] // parts of one mapping, each owned by one batch

use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The size of a large page on x86-64 and, with 4 KiB pages, on arm64.
const LARGE: usize = 2 << 20;

/// A mapping of our own; unmapped when its last part is dropped.
struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is only ever unmapped through this value, which any thread may do.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference nothing can be done with it.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `at` and `len` are those of a mapping made in `parts`, and no part is left: each holds
        // this value.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// A part of a mapping, owned alone.
pub(super) struct Memory {
    at: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: a part is reached through its one owner only, as a `Box<[u8]>` is.
unsafe impl Send for Memory {}

impl Deref for Memory {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the part lies in a mapping that `_mapping` keeps, is initialised (the kernel gives zeroes),
        // and no other part overlaps it.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for Memory {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; and `&mut self` is the only way to it.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

/// Maps `count` parts of `len` bytes each, and touches every page.
pub(super) fn parts(count: usize, len: usize) -> io::Result<Vec<Memory>> {
    // To whole cache lines: two batches never share one.
    let stride = len.next_multiple_of(64);
    let whole = (stride * count.max(1)).next_multiple_of(LARGE);
    let bytes = NonZeroUsize::new(whole).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses the place, so nothing of ours is mapped over.
    let at = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) }?;
    let mapping = Arc::new(Mapping {
        at: at.cast(),
        len: whole,
    });
    // SAFETY: the range is the mapping just made. A refusal changes nothing.
    let _ = unsafe { madvise(at, whole, MmapAdvise::MADV_HUGEPAGE) };
    let mut parts = Vec::with_capacity(count);
    for part in 0..count {
        // SAFETY: `part * stride` is less than the length of the mapping.
        let at = unsafe { mapping.at.add(part * stride) };
        let mut memory = Memory {
            at,
            len,
            _mapping: mapping.clone(),
        };
        for page in memory.chunks_mut(4_096) {
            page[0] = 1;
        }
        parts.push(memory);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_outlive_each_other() {
        let mut parts = parts(5, 1_000).unwrap();
        for (fill, part) in (1..).zip(&mut parts) {
            part.fill(fill);
        }
        let last = parts.pop().unwrap();
        for (fill, part) in (1_u8..).zip(&parts) {
            assert!(part.iter().all(|byte| *byte == fill));
        }
        drop(parts);
        assert!(last.len() == 1_000 && last.iter().all(|byte| *byte == 5));
    }
}
