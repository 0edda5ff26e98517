//! Activations rounded to 8 bits: `x ~ d q`, one `d` a group.

use crate::memory::{Memory, Shared};

/// Over how many neighbours a scale reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rounding {
    /// 32: beside weights in blocks of 32.
    Groups32,
    /// 256: beside weights in blocks of 256, whose inner scales are integers.
    Groups256,
}

impl Rounding {
    /// Every form.
    pub const ALL: [Rounding; 2] = [Rounding::Groups32, Rounding::Groups256];

    /// Scales of a row of `n`.
    pub fn scales(self, n: usize) -> usize {
        match self {
            Rounding::Groups32 => n / 32,
            Rounding::Groups256 => n / 256,
        }
    }

    /// Sums of a row of `n`: one for each 32, or for each 256 those of 16 parts and then of 8.
    pub fn sums(self, n: usize) -> usize {
        match self {
            Rounding::Groups32 => n / 32,
            Rounding::Groups256 => n / 256 * 24,
        }
    }

    /// Index in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        match self {
            Rounding::Groups32 => 0,
            Rounding::Groups256 => 1,
        }
    }
}

/// A rounded row.
#[derive(Clone, Copy)]
pub(crate) struct QuantRow<'a> {
    /// The integers, -127 to 127.
    pub q: &'a [i8],
    /// The scales.
    pub d: &'a [f32],
    /// See [`Rounding::sums`].
    pub sums: &'a [i16],
}

/// A rounded row that is being written.
pub(crate) struct QuantRowMut<'a> {
    pub q: &'a mut [i8],
    pub d: &'a mut [f32],
    pub sums: &'a mut [i16],
}

/// Memory for the rounded rows of one value at a time.
pub(crate) struct QuantMemory {
    q: Memory,
    d: Memory,
    sums: Memory,
}

impl QuantMemory {
    /// Room for `rows` rows of up to `n` features; `None` if there is no memory.
    pub fn new(rounding: Rounding, rows: usize, n: usize) -> Option<Self> {
        let [q, d, sums] = Self::floats(rounding, rows, n);
        Some(QuantMemory { q: Memory::zeroed(q)?, d: Memory::zeroed(d)?, sums: Memory::zeroed(sums)? })
    }

    /// Floats of its parts.
    pub fn floats(rounding: Rounding, rows: usize, n: usize) -> [usize; 3] {
        [(rows * n).div_ceil(4), rows * rounding.scales(n), (rows * rounding.sums(n)).div_ceil(2)]
    }

    /// The memory as rows that threads share.
    pub fn rows(&mut self, rounding: Rounding) -> QuantRows<'_> {
        QuantRows {
            rounding,
            q: Shared::new(bytemuck::cast_slice_mut(self.q.floats_mut())),
            d: self.d.shared(),
            sums: Shared::new(bytemuck::cast_slice_mut(self.sums.floats_mut())),
        }
    }
}

/// Rounded rows that threads share.
#[derive(Clone, Copy)]
pub(crate) struct QuantRows<'a> {
    pub rounding: Rounding,
    q: Shared<'a, i8>,
    d: Shared<'a, f32>,
    sums: Shared<'a, i16>,
}

impl<'a> QuantRows<'a> {
    /// Row `r` of rows of `n` features.
    ///
    /// # Safety
    /// Nobody writes it meanwhile.
    pub unsafe fn get(self, r: usize, n: usize) -> QuantRow<'a> {
        let (n_d, n_sums) = (self.rounding.scales(n), self.rounding.sums(n));
        // SAFETY: as promised by the caller.
        unsafe {
            QuantRow { q: self.q.get(r * n, n), d: self.d.get(r * n_d, n_d), sums: self.sums.get(r * n_sums, n_sums) }
        }
    }

    /// Row `r` of rows of `n` features, to write.
    ///
    /// # Safety
    /// Nobody else uses it meanwhile.
    pub unsafe fn get_mut(self, r: usize, n: usize) -> QuantRowMut<'a> {
        let (n_d, n_sums) = (self.rounding.scales(n), self.rounding.sums(n));
        // SAFETY: as promised by the caller.
        unsafe {
            QuantRowMut {
                q: self.q.get_mut(r * n, n),
                d: self.d.get_mut(r * n_d, n_d),
                sums: self.sums.get_mut(r * n_sums, n_sums),
            }
        }
    }
}
