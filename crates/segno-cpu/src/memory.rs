//! Aligned memory, and views of it that threads write disjoint parts of.

use std::marker::PhantomData;

use memmap2::MmapMut;

/// Floats of a cache line: the unit of every allocation.
pub(crate) const LINE: usize = 16;

/// The NaN that guard bands are filled with. Its payload is unlikely to be computed.
pub(crate) const BAND: u32 = 0x7fc5_e6a0;

/// Zeroed floats, aligned to pages of the system, which gives each when it is first touched: what is
/// planned for and not used costs nothing.
pub(crate) struct Memory(MmapMut);

impl Memory {
    /// Room for at least `floats`; `None` if there is none.
    pub fn zeroed(floats: usize) -> Option<Memory> {
        let bytes = floats.max(1).checked_next_multiple_of(LINE)?.checked_mul(4)?;
        MmapMut::map_anon(bytes).ok().map(Memory)
    }

    /// All floats.
    pub fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    /// All floats.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// A view that threads share.
    pub fn shared(&mut self) -> Shared<'_, f32> {
        Shared::new(self.floats_mut())
    }

    /// A view of its bytes that threads share.
    pub fn shared_bytes(&mut self) -> Shared<'_, u8> {
        Shared::new(&mut self.0)
    }
}

/// A slice of which several threads use disjoint parts.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a `&mut [T]` whose users promise to touch disjoint parts.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Elements `offset..offset + n`.
    ///
    /// # Safety
    /// Nobody writes them while the result lives.
    pub unsafe fn get(self, offset: usize, n: usize) -> &'a [T] {
        assert!(offset <= self.len && n <= self.len - offset, "{offset} + {n} is beyond {}", self.len);
        // SAFETY: in bounds; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.add(offset), n) }
    }

    /// Elements `offset..offset + n`, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the result lives.
    pub unsafe fn get_mut(&self, offset: usize, n: usize) -> &'a mut [T] {
        assert!(offset <= self.len && n <= self.len - offset, "{offset} + {n} is beyond {}", self.len);
        // SAFETY: in bounds; the caller is the only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), n) }
    }
}
