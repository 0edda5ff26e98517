//! Numbered things of a pool: who holds how many references, which are free.

/// Reference counts and a free list over `0..n`. Freed numbers are given out again at once, the
/// last one first: what was just used is warm, and mistakes show early.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    references: Vec<u32>,
    free: Vec<u32>,
}

impl Counted {
    /// `n` numbers, of which the first `reserved` are never given out.
    pub fn new(n: u32, reserved: u32) -> Self {
        Counted { references: vec![0; n as usize], free: (reserved..n).rev().collect() }
    }

    /// A free number with one reference.
    pub fn take(&mut self) -> Option<u32> {
        let id = self.free.pop()?;
        self.references[id as usize] = 1;
        Some(id)
    }

    /// Adds a reference.
    pub fn share(&mut self, id: u32) {
        debug_assert!(self.references[id as usize] > 0, "{id} is free");
        self.references[id as usize] += 1;
    }

    /// Drops a reference; true if it was the last and the number is free again.
    pub fn release(&mut self, id: u32) -> bool {
        let count = &mut self.references[id as usize];
        debug_assert!(*count > 0, "{id} is released twice");
        *count -= 1;
        let last = *count == 0;
        if last {
            self.free.push(id);
        }
        last
    }

    /// Whether more than one holds it.
    pub fn is_shared(&self, id: u32) -> bool {
        self.references[id as usize] > 1
    }

    /// How many are free.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_the_last_released_first_and_counts() {
        let mut c = Counted::new(4, 1);
        let (a, b) = (c.take().unwrap(), c.take().unwrap());
        assert_eq!((a, b, c.n_free()), (1, 2, 1));
        c.share(a);
        assert!(c.is_shared(a) && !c.is_shared(b));
        assert!(!c.release(a));
        assert!(c.release(a));
        assert_eq!(c.take(), Some(a));
        assert!(c.take().is_some());
        assert_eq!(c.take(), None);
    }
}
