//! What has been read: a radix tree over blocks of tokens, with checkpoints at some positions.
//!
//! A node is a block of up to [`PAGE_TOKENS`] keys; only leaves may be shorter. No two children of a node begin with
//! one another's keys. A checkpoint lies in the node of the last key that it has read, and holds for every context that
//! agrees up to there, also where the rest of the block differs.

use std::collections::HashMap;

use segno_ir::PAGE_TOKENS;

use crate::image::Key;

const BLOCK: usize = PAGE_TOKENS as usize;

/// Names an entry of a tree; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(u64);

type NodeId = u64;
const ROOT: NodeId = 0;

struct Node {
    parent: NodeId,
    /// Position of the first key.
    start: usize,
    keys: Vec<Key>,
    children: Vec<NodeId>,
    entries: Vec<EntryId>,
}

struct Entry<T> {
    node: NodeId,
    position: u32,
    value: T,
}

/// Where a context meets the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Keys that the context shares with the tree.
    pub common: usize,
    /// Entries within them, by ascending position.
    pub within: Vec<EntryId>,
    /// An entry whose context shares all of `common` and goes on, if there is one.
    pub beyond: Option<EntryId>,
}

/// An entry among its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub id: EntryId,
    pub position: u32,
    /// Position of the entry before it on its path, or 0.
    pub previous: u32,
    /// Position of the nearest entry after it, or its own.
    pub next: u32,
    /// Position of the deepest entry after it, or its own.
    pub deepest: u32,
}

/// The tree.
pub(crate) struct Tree<T> {
    nodes: HashMap<NodeId, Node>,
    entries: HashMap<EntryId, Entry<T>>,
    next: u64,
}

fn common(a: &[Key], b: &[Key]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl<T> Tree<T> {
    pub fn new() -> Self {
        let root = Node { parent: ROOT, start: 0, keys: Vec::new(), children: Vec::new(), entries: Vec::new() };
        Tree { nodes: HashMap::from([(ROOT, root)]), entries: HashMap::new(), next: 1 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, id: EntryId) -> Option<&T> {
        self.entries.get(&id).map(|e| &e.value)
    }

    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut T> {
        self.entries.get_mut(&id).map(|e| &mut e.value)
    }

    pub fn position(&self, id: EntryId) -> Option<u32> {
        self.entries.get(&id).map(|e| e.position)
    }

    pub fn iter(&self) -> impl Iterator<Item = (EntryId, u32, &T)> {
        self.entries.iter().map(|(&id, e)| (id, e.position, &e.value))
    }

    /// Where `keys` meet the tree.
    pub fn find(&self, keys: &[Key]) -> Match {
        let mut found = Match { common: 0, within: Vec::new(), beyond: None };
        let mut node = ROOT;
        loop {
            let rest = &keys[found.common..];
            let mut best: Option<(usize, NodeId)> = None;
            let mut here = Vec::new();
            for &id in &self.nodes[&node].children {
                let child = &self.nodes[&id];
                let n = common(&child.keys, rest);
                let end = (child.start + n) as u32;
                here.extend(child.entries.iter().filter(|e| self.entries[e].position <= end));
                if best.is_none_or(|(most, _)| n > most) {
                    best = Some((n, id));
                }
            }
            here.sort_by_key(|id| self.entries[*id].position);
            found.within.extend(here);
            let Some((n, child)) = best else { return found };
            found.common += n;
            if n < BLOCK || found.common == keys.len() {
                found.beyond = self.nearest_from(if n > 0 { child } else { node }, found.common as u32);
                return found;
            }
            node = child;
        }
    }

    /// The first entry at or below a node, past a position: a windowed layer's pages reach furthest back from it.
    fn nearest_from(&self, node: NodeId, position: u32) -> Option<EntryId> {
        let mut stack = vec![node];
        let mut best: Option<(u32, EntryId)> = None;
        while let Some(node) = stack.pop().map(|id| &self.nodes[&id]) {
            for id in &node.entries {
                let at = self.entries[id].position;
                if at > position && best.is_none_or(|(least, _)| at < least) {
                    best = Some((at, *id));
                }
            }
            stack.extend(&node.children);
        }
        best.map(|(_, id)| id)
    }

    /// Adds an entry after all of `keys`, at least one; the entry that is there already if there is one.
    pub fn insert(&mut self, keys: &[Key], value: T) -> Result<EntryId, (EntryId, T)> {
        debug_assert!(!keys.is_empty(), "there is nothing before the first key");
        let mut node = ROOT;
        for (i, block) in keys.chunks(BLOCK).enumerate() {
            let fits = |id: &&NodeId| {
                let child = &self.nodes[*id];
                let n = common(&child.keys, block);
                n == block.len() || n == child.keys.len()
            };
            let children = &self.nodes[&node].children;
            // An entry in what several children share may lie in any of them.
            let there = children.iter().filter(|&id| common(&self.nodes[id].keys, block) == block.len());
            let there = there.flat_map(|id| &self.nodes[id].entries);
            if let Some(&id) = there.into_iter().find(|id| self.entries[*id].position as usize == keys.len()) {
                return Err((id, value));
            }
            // The one with most in common: a block that continues a leaf may also be there in full.
            let child = children.iter().filter(fits).max_by_key(|id| common(&self.nodes[*id].keys, block)).copied();
            let child = child.unwrap_or_else(|| {
                let id = self.next;
                self.next += 1;
                let child = Node {
                    parent: node,
                    start: i * BLOCK,
                    keys: Vec::new(),
                    children: Vec::new(),
                    entries: Vec::new(),
                };
                self.nodes.insert(id, child);
                self.nodes.get_mut(&node).expect("a node of the path").children.push(id);
                id
            });
            let child_node = self.nodes.get_mut(&child).expect("found or made");
            if child_node.keys.len() < block.len() {
                child_node.keys = block.to_vec();
            }
            node = child;
        }
        let position = keys.len() as u32;
        let id = EntryId(self.next);
        self.next += 1;
        self.nodes.get_mut(&node).expect("the path's end").entries.push(id);
        self.entries.insert(id, Entry { node, position, value });
        Ok(id)
    }

    /// Takes an entry out, and the blocks that only it needed.
    pub fn remove(&mut self, id: EntryId) -> Option<T> {
        let entry = self.entries.remove(&id)?;
        let mut at = entry.node;
        self.nodes.get_mut(&at)?.entries.retain(|e| *e != id);
        while at != ROOT && self.nodes[&at].entries.is_empty() && self.nodes[&at].children.is_empty() {
            let parent = self.nodes.remove(&at)?.parent;
            self.nodes.get_mut(&parent)?.children.retain(|c| *c != at);
            at = parent;
        }
        Some(entry.value)
    }

    /// The keys before an entry.
    pub fn keys(&self, id: EntryId) -> Vec<Key> {
        let Some(entry) = self.entries.get(&id) else { return Vec::new() };
        let mut blocks = Vec::new();
        let mut at = entry.node;
        while at != ROOT {
            blocks.push(at);
            at = self.nodes[&at].parent;
        }
        let mut keys: Vec<Key> = blocks.iter().rev().flat_map(|id| self.nodes[id].keys.iter().copied()).collect();
        keys.truncate(entry.position as usize);
        keys
    }

    /// Every entry with its neighbours.
    pub fn placed(&self) -> Vec<Placed> {
        // First down: of each node, the position before its children's. Not recursive: contexts are thousands of blocks
        // long.
        let mut order = vec![(ROOT, 0)];
        let mut done = 0;
        while let Some(&(node, previous)) = order.get(done) {
            done += 1;
            let entries = self.entries_of_children(node);
            for &child in &self.nodes[&node].children {
                let on_path = entries.iter().filter(|e| self.shares(child, e)).map(|e| e.position);
                order.push((child, on_path.max().unwrap_or(previous)));
            }
        }
        // Then up: the nearest and the deepest position below each node.
        let mut all = Vec::with_capacity(self.entries.len());
        let mut below: HashMap<NodeId, (u32, u32)> = HashMap::new();
        for (node, previous) in order.into_iter().rev() {
            let entries = self.entries_of_children(node);
            let positions = entries.iter().map(|e| (e.position, e.position));
            let deeper = self.nodes[&node].children.iter().filter_map(|&child| Some((child, *below.get(&child)?)));
            let deeper: Vec<_> = deeper.collect();
            for entry in &entries {
                let position = entry.position;
                let before = entries.iter().filter(|e| e.position < position && self.shares(entry.node, e));
                // An entry goes on in all blocks that agree up to it.
                let after = entries.iter().filter(|e| e.position > position && self.shares(e.node, entry));
                let after = after.map(|e| (e.position, e.position));
                let after = after.chain(deeper.iter().filter(|(child, _)| self.shares(*child, entry)).map(|d| d.1));
                let (next, deepest) = after.reduce(nearest_and_deepest).unwrap_or((position, position));
                let previous = before.map(|e| e.position).max().unwrap_or(previous);
                all.push(Placed { id: entry.id, position, previous, next, deepest });
            }
            let under = positions.chain(deeper.into_iter().map(|d| d.1)).reduce(nearest_and_deepest);
            below.extend(under.map(|under| (node, under)));
        }
        all
    }

    fn entries_of_children(&self, node: NodeId) -> Vec<InBlock> {
        let of = |&node: &NodeId| {
            self.nodes[&node].entries.iter().map(move |&id| InBlock { id, node, position: self.entries[&id].position })
        };
        self.nodes[&node].children.iter().flat_map(of).collect()
    }

    /// Whether a node's block begins with all that an entry in it, or in another child of the same node, has read.
    fn shares(&self, node: NodeId, entry: &InBlock) -> bool {
        let (own, other) = (&self.nodes[&node], &self.nodes[&entry.node]);
        node == entry.node || own.start + common(&own.keys, &other.keys) >= entry.position as usize
    }
}

/// An entry, and the node that has it.
struct InBlock {
    id: EntryId,
    node: NodeId,
    position: u32,
}

fn nearest_and_deepest(a: (u32, u32), b: (u32, u32)) -> (u32, u32) {
    (a.0.min(b.0), a.1.max(b.1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &[u8]) -> Vec<Key> {
        text.iter().map(|&b| Key::from(u32::from(b))).collect()
    }

    #[test]
    fn finds_what_was_inserted_and_prunes_what_was_removed() {
        let mut tree = Tree::new();
        let a: Vec<u8> = (0..200).collect();
        let mut b = a.clone();
        b[150] = 255;
        let at = |tree: &mut Tree<u32>, text: &[u8], n: usize| tree.insert(&keys(&text[..n]), n as u32).unwrap();
        let (a1, a2) = (at(&mut tree, &a, 130), at(&mut tree, &a, 200));
        let b1 = at(&mut tree, &b, 160);
        assert_eq!(tree.insert(&keys(&b[..130]), 0), Err((a1, 0)), "one entry a position");
        let found = tree.find(&keys(&b));
        assert_eq!((found.common, &found.within[..], found.beyond), (160, &[a1, b1][..], None));
        let found = tree.find(&keys(&a[..140]));
        assert_eq!((found.common, &found.within[..]), (140, &[a1][..]));
        assert!(found.beyond.is_some());
        assert_eq!(tree.keys(b1), keys(&b[..160]));
        tree.remove(a1);
        assert_eq!(tree.find(&keys(&b)).within, [b1]);
        tree.remove(a2);
        tree.remove(b1);
        assert_eq!((tree.nodes.len(), tree.len()), (1, 0));
    }

    /// Contexts that share long beginnings: each takes some of the one before and goes on differently.
    fn contexts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec((0usize..300, proptest::collection::vec(0u8..2, 1..150)), 1..12).prop_map(|parts| {
            let mut all: Vec<Vec<u8>> = Vec::new();
            for (shared, tail) in parts {
                let mut text = all.last().map_or_else(Vec::new, |last| last[..shared.min(last.len())].to_vec());
                text.extend(tail);
                all.push(text);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_contexts(contexts in contexts(), removed in proptest::collection::vec(any::<bool>(), 12)) {
            let mut tree = Tree::new();
            let mut list: Vec<(Vec<Key>, EntryId)> = Vec::new();
            for text in &contexts {
                let keys = keys(text);
                match tree.insert(&keys, ()) {
                    Ok(id) => list.push((keys, id)),
                    Err((id, ())) => prop_assert!(list.contains(&(keys, id))),
                }
            }
            for ((_, id), removed) in list.clone().iter().zip(removed) {
                if removed {
                    prop_assert!(tree.remove(*id).is_some());
                    list.retain(|(_, other)| other != id);
                }
            }
            for text in &contexts {
                let keys = keys(text);
                let found = tree.find(&keys);
                let most = list.iter().map(|(l, _)| common(l, &keys)).max().unwrap_or(0);
                // Blocks may stay longer than any entry needs, never shorter.
                prop_assert!(found.common >= most);
                let mut within: Vec<EntryId> = list.iter().filter(|(l, _)| keys.starts_with(l)).map(|(_, id)| *id).collect();
                within.sort_by_key(|id| tree.position(*id));
                prop_assert_eq!(&found.within, &within);
                if let Some(beyond) = found.beyond {
                    let (l, _) = list.iter().find(|(_, id)| *id == beyond).unwrap();
                    prop_assert!(l.len() > found.common && common(l, &keys) >= found.common);
                }
            }
            for placed in tree.placed() {
                let own = tree.keys(placed.id);
                let n = own.len() as u32;
                let before = list.iter().map(|(l, _)| l).filter(|l| l.len() < own.len() && own.starts_with(l));
                let after = list.iter().map(|(l, _)| l).filter(|l| l.len() > own.len() && l.starts_with(&own));
                let after = after.map(|l| (l.len() as u32, l.len() as u32)).reduce(nearest_and_deepest);
                let (next, deepest) = after.unwrap_or((n, n));
                let previous = before.map(|l| l.len() as u32).max().unwrap_or(0);
                prop_assert_eq!(placed, Placed { id: placed.id, position: n, previous, next, deepest });
            }
            prop_assert_eq!(tree.placed().len(), list.len());
            for (_, id) in &list {
                tree.remove(*id);
            }
            prop_assert_eq!(tree.nodes.len(), 1);
        }
    }
}
