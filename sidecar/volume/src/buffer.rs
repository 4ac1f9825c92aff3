//! Memory for data: aligned as `O_DIRECT` wants it, and used again.
//!
//! A payload is read off its socket into a [`Buffer`], goes to the disk and to the peers from there, and a read's data goes
//! from the disk to the socket through one: nothing is copied. How much is in use at a time is bounded by who asks for it
//! (a front end's budget); how much is kept for the next request is bounded here.

use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// What every buffer is aligned to: the largest logical block of the disks there are, and a page.
pub const ALIGN_BYTES: usize = 4096;
/// Buffers that are used again have powers of two as sizes, from [`ALIGN_BYTES`] to 32 MiB, the largest payload. What is larger,
/// one that begins amid a block, is not kept.
const CLASSES: usize = 14;
/// Kept for the next request, of all sizes together: sixty-four requests of 1 MiB.
const KEPT_MAX_BYTES: usize = 64 << 20;

/// Where buffers come from and go back to. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    free: [Vec<Block>; CLASSES],
    bytes: usize,
}

/// Memory. Its bytes are initialised: zeroes at first, later whatever was there.
#[derive(Debug)]
struct Block {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block owns its memory, and gives access to it only through `&Buffer` and `&mut Buffer`.
#[expect(unsafe_code, reason = "memory of a given alignment comes as a raw pointer, which is not Send by itself")]
unsafe impl Send for Block {}
// SAFETY: as above; a shared block can only be read.
#[expect(unsafe_code, reason = "memory of a given alignment comes as a raw pointer, which is not Sync by itself")]
unsafe impl Sync for Block {}

impl Block {
    #[expect(unsafe_code, reason = "no safe allocation has an alignment that is not its type's")]
    fn new(bytes: usize) -> Block {
        let layout = Layout::from_size_align(bytes, ALIGN_BYTES).expect("far below isize::MAX");
        assert_ne!(bytes, 0);
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        Block { memory: NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Block {
    #[expect(unsafe_code, reason = "what was allocated by hand is freed by hand")]
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed nowhere else.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

impl Pool {
    /// A buffer of `len` bytes. What they are is not defined: its user fills it before anybody sees it.
    #[must_use]
    pub fn take(&self, len: usize) -> Buffer {
        let pages = len.div_ceil(ALIGN_BYTES).max(1);
        let block = match class(pages.next_power_of_two() * ALIGN_BYTES) {
            None => Block::new(pages * ALIGN_BYTES),
            Some(class) => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let block = kept.free[class].pop();
                if block.is_some() {
                    kept.bytes -= ALIGN_BYTES << class;
                }
                drop(kept);
                block.unwrap_or_else(|| Block::new(ALIGN_BYTES << class))
            }
        };
        Buffer { block: Some(block), len, pool: self.clone() }
    }
}

/// Where blocks of a size are kept, if they are.
fn class(bytes: usize) -> Option<usize> {
    let class = usize::try_from((bytes / ALIGN_BYTES).ilog2()).expect("a logarithm");
    (class < CLASSES && bytes == ALIGN_BYTES << class).then_some(class)
}

/// Aligned memory. Dropped, it goes back to its pool.
pub struct Buffer {
    /// `None` only while it is dropped.
    block: Option<Block>,
    len: usize,
    pool: Pool,
}

impl Buffer {
    /// The buffer as bytes that can be shared and cut; it goes back to its pool with the last of them.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn memory(&self) -> NonNull<u8> {
        self.block.as_ref().expect("there until it is dropped").memory
    }
}

impl AsRef<[u8]> for Buffer {
    #[expect(unsafe_code, reason = "memory of a given alignment comes as a raw pointer")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `len` is at most the block's size, all of it is initialised, and it lives as long as the buffer.
        unsafe { std::slice::from_raw_parts(self.memory().as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for Buffer {
    #[expect(unsafe_code, reason = "memory of a given alignment comes as a raw pointer")]
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; and nobody else has the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.memory().as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        let bytes = block.layout.size();
        let Some(class) = class(bytes) else { return };
        let mut kept = self.pool.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + bytes <= KEPT_MAX_BYTES {
            kept.bytes += bytes;
            kept.free[class].push(block);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGN_BYTES, KEPT_MAX_BYTES, Pool};

    #[test]
    fn buffers_are_aligned_and_of_the_length_asked_for() {
        let pool = Pool::default();
        for len in [0, 1, 4095, 4096, 4097, 65_536, 1 << 20, (32 << 20) + 8192] {
            let mut buffer = pool.take(len);
            assert_eq!(buffer.as_ref().len(), len);
            assert_eq!(buffer.as_ref().as_ptr() as usize % ALIGN_BYTES, 0);
            buffer.as_mut().fill(7);
        }
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_it() {
        let pool = Pool::default();
        let buffer = pool.take(5000);
        let place = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_ne!(pool.take(5000).as_ref().as_ptr(), place, "a part of it is still in use");
        // The one just given back is on top, the first below it, once its last part is gone.
        drop(part);
        let places = [pool.take(8192), pool.take(8192)].map(|buffer| buffer.as_ref().as_ptr());
        assert!(places.contains(&place));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::default();
        let many: Vec<_> = (0..100).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        let kept = pool.kept.lock().unwrap();
        assert_eq!(kept.bytes, KEPT_MAX_BYTES);
        assert_eq!(kept.free.iter().map(Vec::len).sum::<usize>(), 64);
    }
}
