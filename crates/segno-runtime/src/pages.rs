//! Numbered things of a pool: who holds how many references, which are free, who may append to a page.

use segno_ir::PAGE_TOKENS;

/// Reference counts and a free list over `0..n`. Freed numbers are given out again at once, the
/// last one first: what was just used is warm, and mistakes show early.
///
/// A reference is a sequence's or a frozen state's; the latter are counted beside the sum.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    references: Vec<u32>,
    frozen: Vec<u32>,
    n_frozen: usize,
    free: Vec<u32>,
}

impl Counted {
    /// `n` numbers, of which the first `reserved` are never given out.
    pub fn new(n: u32, reserved: u32) -> Self {
        let none = vec![0; n as usize];
        Counted { references: none.clone(), frozen: none, n_frozen: 0, free: (reserved..n).rev().collect() }
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

    /// Counts one of the references as a frozen state's.
    pub fn freeze(&mut self, id: u32) {
        self.n_frozen += usize::from(self.frozen[id as usize] == 0);
        self.frozen[id as usize] += 1;
    }

    /// Counts it as a sequence's again.
    pub fn thaw(&mut self, id: u32) {
        debug_assert!(self.frozen[id as usize] > 0, "{id} is not frozen");
        self.frozen[id as usize] -= 1;
        self.n_frozen -= usize::from(self.frozen[id as usize] == 0);
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

    /// How many references there are.
    pub fn references(&self, id: u32) -> u32 {
        self.references[id as usize]
    }

    /// Whether a frozen state holds it.
    pub fn is_frozen(&self, id: u32) -> bool {
        self.frozen[id as usize] > 0
    }

    /// How many are free.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// How many a frozen state holds.
    pub fn n_frozen(&self) -> usize {
        self.n_frozen
    }

    /// How many only frozen states hold.
    pub fn n_only_frozen(&self) -> usize {
        self.references.iter().zip(&self.frozen).filter(|(all, frozen)| **frozen > 0 && all == frozen).count()
    }
}

/// The pages of a group. A page has one appender: whoever holds it with as many tokens as have been written; everyone
/// else copies it before writing.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    pub counted: Counted,
    /// Tokens of each page that some holder may see.
    written: Vec<u32>,
}

impl Pages {
    pub fn new(n: u32) -> Self {
        Pages { counted: Counted::new(n, 0), written: vec![0; n as usize] }
    }

    /// A free page, of which `written` tokens will be there.
    pub fn take(&mut self, written: u32) -> Option<u32> {
        let id = self.counted.take()?;
        self.written[id as usize] = written;
        Some(id)
    }

    /// Whether a holder that sees `filled` tokens of the page may append to it.
    pub fn may_append(&self, id: u32, filled: u32) -> bool {
        self.written[id as usize] == filled || self.counted.references(id) == 1
    }

    /// Says that a page has tokens up to `written`, now or again.
    pub fn set_written(&mut self, id: u32, written: u32) {
        self.written[id as usize] = written.min(PAGE_TOKENS);
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
        c.freeze(a);
        assert_eq!((c.references(a), c.references(b), c.n_frozen(), c.n_only_frozen()), (2, 1, 1, 0));
        assert!(!c.release(a));
        assert_eq!(c.n_only_frozen(), 1);
        c.thaw(a);
        assert!(c.release(a));
        assert_eq!((c.n_frozen(), c.take()), (0, Some(a)));
        assert!(c.take().is_some());
        assert_eq!(c.take(), None);
    }

    #[test]
    fn the_first_to_append_to_a_shared_page_owns_it() {
        let mut pages = Pages::new(2);
        let page = pages.take(0).unwrap();
        pages.set_written(page, 30);
        pages.counted.share(page);
        assert!(pages.may_append(page, 30) && !pages.may_append(page, 20));
        pages.set_written(page, 31);
        assert!(!pages.may_append(page, 30));
        pages.counted.release(page);
        assert!(pages.may_append(page, 30), "nobody else holds it");
    }
}
