//! The policy of hybrid-cpp: so many periodic checkpoints and one near the prompt's end, of one conversation.
//!
//! What `--hybridcheckpointinterval` and `--hybridcheckpointslots` ask for: the positions, the order in which they are
//! dropped and the pruning at the end of a prompt are that program's, so that those who know it find what they know.
//! Two defects are not kept: a restore always leaves a token to read, and a prompt that differs only in the last token
//! that was drawn, which no state has read yet, goes on from the live state.

use crate::image::Key;

/// Tokens between the protective checkpoint and the prompt's end.
const TAIL: u32 = 32;

/// A checkpoint of the pool.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub position: u32,
    pub is_tail: bool,
    pub value: T,
}

/// The end of the last request.
struct Live<T> {
    /// All its tokens, the reply's last one included.
    keys: Vec<Key>,
    /// Tokens that the state has read: all, or all but the last.
    position: usize,
    value: T,
}

/// The checkpoints of one conversation, in the order in which they were taken.
pub(crate) struct HybridPool<T> {
    pub interval: u32,
    pub n_slots: usize,
    slots: Vec<Slot<T>>,
    live: Option<Live<T>>,
}

/// Where a prompt goes on from.
pub(crate) enum From<'a, T> {
    Start,
    Slot(&'a Slot<T>),
    Live(&'a T),
}

impl<T> HybridPool<T> {
    pub fn new(interval: u32, n_slots: u32) -> Self {
        HybridPool { interval, n_slots: n_slots as usize, slots: Vec::new(), live: None }
    }

    pub fn slots(&self) -> &[Slot<T>] {
        &self.slots
    }

    fn tail(length: u32) -> Option<u32> {
        (length > TAIL).then(|| length - TAIL)
    }

    /// Positions to keep while the rest of a prompt of `length` tokens is read from `start`: `(position, tail)`.
    pub fn plan(&self, start: u32, length: u32) -> Vec<(u32, bool)> {
        let Some(tail) = Self::tail(length) else { return Vec::new() };
        let first = (start / self.interval + 1) * self.interval;
        let mut plan: Vec<(u32, bool)> =
            (first..tail).step_by(self.interval as usize).map(|position| (position, false)).collect();
        if start < tail {
            plan.push((tail, true));
        }
        plan
    }

    /// Decides where `prompt` goes on from, and drops what cannot be used after it. Returns what was dropped.
    pub fn admit(&mut self, prompt: &[Key]) -> Vec<T> {
        let mut dropped = Vec::new();
        let live = self.live.as_ref().map_or(&[][..], |live| &live.keys);
        let common = live.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let read = self.live.as_ref().map_or(usize::MAX, |live| live.position);
        if common < read || read >= prompt.len() {
            // The tokens of all slots are the beginning of the live ones.
            let limit = common.min(prompt.len() - 1) as u32;
            let best = self.slots.iter().filter(|s| common > 0 && s.position <= limit).map(|s| s.position).max();
            dropped.extend(self.live.take().map(|live| live.value));
            let all = std::mem::take(&mut self.slots);
            for mut slot in all {
                if slot.position <= best.unwrap_or(0) {
                    slot.is_tail &= Some(slot.position) != best;
                    self.slots.push(slot);
                } else {
                    dropped.push(slot.value);
                }
            }
        }
        dropped
    }

    /// Where the prompt that was just admitted goes on from.
    pub fn from(&self) -> From<'_, T> {
        match (&self.live, self.slots.iter().max_by_key(|s| s.position)) {
            (Some(live), _) => From::Live(&live.value),
            (None, Some(slot)) => From::Slot(slot),
            (None, None) => From::Start,
        }
    }

    /// Adds a checkpoint; returns those that give way to it.
    pub fn save(&mut self, position: u32, is_tail: bool, value: T) -> Vec<T> {
        let mut dropped = Vec::new();
        if is_tail {
            self.retain(&mut dropped, |slot| !slot.is_tail);
        }
        self.slots.push(Slot { position, is_tail, value });
        let mut excess = self.slots.iter().filter(|s| !s.is_tail).count().saturating_sub(self.n_slots);
        self.retain(&mut dropped, |slot| {
            let goes = !slot.is_tail && excess > 0;
            excess -= usize::from(goes);
            !goes
        });
        dropped
    }

    /// At the end of a prompt of `length` tokens: keeps the grid before its tail, and the tail.
    pub fn prune(&mut self, length: u32) -> Vec<T> {
        let (tail, interval) = (Self::tail(length), self.interval);
        let mut dropped = Vec::new();
        self.retain(&mut dropped, |slot| {
            slot.is_tail = Some(slot.position) == tail;
            slot.is_tail || tail.is_some_and(|tail| slot.position < tail && slot.position.is_multiple_of(interval))
        });
        dropped
    }

    /// Ends a request: all its tokens, and the state that has read all of them or all but the last.
    pub fn end(&mut self, keys: Vec<Key>, position: usize, value: T) -> Option<T> {
        self.live.replace(Live { keys, position, value }).map(|live| live.value)
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> Vec<T> {
        let live = self.live.take().map(|live| live.value);
        self.slots.drain(..).map(|slot| slot.value).chain(live).collect()
    }

    fn retain(&mut self, dropped: &mut Vec<T>, mut keep: impl FnMut(&mut Slot<T>) -> bool) {
        for mut slot in std::mem::take(&mut self.slots) {
            match keep(&mut slot) {
                true => self.slots.push(slot),
                false => dropped.push(slot.value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the policy sees it: reads a prompt, generates, ends. Returns `(n_past, saved, pool)`.
    fn turn(pool: &mut HybridPool<u32>, prompt: &[u32], reply: &[u32]) -> (u32, Vec<u32>, Vec<(u32, bool)>) {
        let keys = |tokens: &[u32]| -> Vec<Key> { tokens.iter().map(|&t| Key::from(t)).collect() };
        pool.admit(&keys(prompt));
        let n_past = match pool.from() {
            From::Start => 0,
            From::Slot(slot) => slot.position,
            From::Live(&n) => n,
        };
        let length = prompt.len() as u32;
        let plan = pool.plan(n_past, length);
        for &(position, is_tail) in &plan {
            pool.save(position, is_tail, position);
        }
        pool.prune(length);
        let all = [prompt, reply].concat();
        pool.end(keys(&all), all.len() - 1, all.len() as u32 - 1);
        let slots = pool.slots().iter().map(|s| (s.position, s.is_tail)).collect();
        (n_past, plan.into_iter().map(|p| p.0).collect(), slots)
    }

    /// Unlike tokens for every use.
    struct Fresh(u32);

    impl Fresh {
        fn take(&mut self, n: u32) -> Vec<u32> {
            self.0 += n;
            (self.0 - n..self.0).collect()
        }
    }

    #[test]
    fn a_conversation_keeps_what_the_original_keeps() {
        // The published trace: I = 256, M = 4.
        let (mut pool, mut fresh) = (HybridPool::new(256, 4), Fresh(0));
        let slots = |grid: &[u32], tail: Option<u32>| -> Vec<(u32, bool)> {
            grid.iter().map(|&p| (p, false)).chain(tail.map(|t| (t, true))).collect()
        };
        let a = fresh.take(1500);
        let reply = fresh.take(100);
        let (n, saved, held) = turn(&mut pool, &a, &reply);
        assert_eq!((n, saved), (0, vec![256, 512, 768, 1024, 1280, 1468]));
        assert_eq!(held, slots(&[512, 768, 1024, 1280], Some(1468)));

        let b = [a, reply, fresh.take(60)].concat();
        let reply = fresh.take(80);
        let (n, saved, held) = turn(&mut pool, &b, &reply);
        assert_eq!((n, saved), (1599, vec![1628]));
        assert_eq!(held, slots(&[512, 768, 1024, 1280], Some(1628)));

        let c = [&b[..1480], &fresh.take(40), &b[1480..], &reply, &fresh.take(50)].concat();
        let (n, saved, held) = turn(&mut pool, &c, &fresh.take(20));
        assert_eq!((c.len(), n, saved), (1830, 1280, vec![1536, 1792, 1798]));
        assert_eq!(held, slots(&[1024, 1280, 1536, 1792], Some(1798)));

        let reply = fresh.take(20);
        let (n, saved, held) = turn(&mut pool, &c, &reply);
        assert_eq!((n, saved), (1798, vec![]));
        assert_eq!(held, slots(&[1024, 1280, 1536, 1792], Some(1798)));

        let d = [&c[..300], &fresh.take(10), &c[300..]].concat();
        let reply = fresh.take(20);
        let (n, _, held) = turn(&mut pool, &d, &reply);
        assert_eq!((n, held), (0, slots(&[1024, 1280, 1536, 1792], Some(1808))));

        let e = [d, reply, fresh.take(10)].concat();
        let reply = fresh.take(5);
        let (n, saved, held) = turn(&mut pool, &e, &reply);
        assert_eq!((n, saved), (1859, vec![]));
        assert_eq!(held, slots(&[1024, 1280, 1536, 1792], None), "the original loses its tail here too");

        let f = [&e[..1500], &fresh.take(5), &e[1500..], &reply, &fresh.take(3)].concat();
        let (n, saved, held) = turn(&mut pool, &f, &fresh.take(9));
        assert_eq!((f.len(), n, saved), (1883, 1280, vec![1536, 1792, 1851]));
        assert_eq!(held, slots(&[1024, 1280, 1536, 1792], Some(1851)));

        // Here the original restores 1024 and has nothing left to read.
        let (n, _, held) = turn(&mut pool, &f[..1024], &fresh.take(2));
        assert_eq!((n, held), (0, slots(&[256, 512, 768], Some(992))));
    }

    #[test]
    fn a_tail_on_the_grid_leaves_with_the_tail() {
        let (mut pool, mut fresh) = (HybridPool::new(256, 8), Fresh(0));
        let a = fresh.take(1312);
        let reply = fresh.take(1);
        let (_, _, held) = turn(&mut pool, &a, &reply);
        assert_eq!(held.last(), Some(&(1280, true)));
        let b = [a, reply, fresh.take(103)].concat();
        let (_, _, held) = turn(&mut pool, &b, &fresh.take(1));
        assert_eq!(held.iter().map(|s| s.0).collect::<Vec<_>>(), [256, 512, 768, 1024, 1384]);
        let (_, _, held) = turn(&mut pool, &fresh.take(20), &fresh.take(1));
        assert!(held.is_empty());
    }
}
