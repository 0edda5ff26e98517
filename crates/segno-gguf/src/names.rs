//! Finding things by name: positions, sorted by name.
//!
//! Unlike a hash table it keeps no second copy of the names, and its cost does not depend on who chose them.

/// Positions of named things.
pub(crate) struct Names(Vec<u32>);

impl Names {
    /// The names of `items`, or two positions with the same name, the earlier first.
    pub fn of<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Names, (usize, usize)> {
        // Counts are limited far below 2^32 where files are parsed.
        let mut order: Vec<u32> = (0..items.len() as u32).collect();
        order.sort_unstable_by_key(|&i| (name(&items[i as usize]), i));
        let twice = order.windows(2).find(|pair| name(&items[pair[0] as usize]) == name(&items[pair[1] as usize]));
        match twice {
            Some(pair) => Err((pair[0] as usize, pair[1] as usize)),
            None => Ok(Names(order)),
        }
    }

    /// The item of a name.
    pub fn find<'a, T>(&self, items: &'a [T], wanted: &str, name: impl Fn(&T) -> &str) -> Option<&'a T> {
        let at = self.0.binary_search_by(|&i| name(&items[i as usize]).cmp(wanted)).ok()?;
        items.get(self.0[at] as usize)
    }
}
