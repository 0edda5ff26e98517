//! A byte trie over token texts, for the model kinds that look for all tokens beginning at a place.

use std::collections::VecDeque;

const NONE: u32 = u32::MAX;

/// Tokens by their texts. Nodes are numbered breadth first, so the children of a node are neighbours.
#[derive(Debug)]
pub(crate) struct Trie {
    /// First child of each node; it ends where the next node's children begin.
    first_child: Vec<u32>,
    /// The byte that leads to each node.
    labels: Vec<u8>,
    /// The token that ends at each node.
    tokens: Vec<u32>,
}

impl Trie {
    /// Of equal texts the last counts; empty ones are left out.
    pub(crate) fn new(mut entries: Vec<(Vec<u8>, u32)>) -> Self {
        entries.retain(|(text, _)| !text.is_empty());
        entries.sort();
        let mut trie = Self { first_child: Vec::new(), labels: vec![0], tokens: Vec::new() };
        let mut waiting = VecDeque::from([(0, entries.len(), 0)]);
        while let Some((mut start, end, depth)) = waiting.pop_front() {
            trie.first_child.push(trie.labels.len() as u32);
            let mut token = NONE;
            while start < end && entries[start].0.len() == depth {
                token = entries[start].1;
                start += 1;
            }
            trie.tokens.push(token);
            while start < end {
                let byte = entries[start].0[depth];
                let same = entries[start..end].partition_point(|(text, _)| text[depth] == byte);
                trie.labels.push(byte);
                waiting.push_back((start, start + same, depth + 1));
                start += same;
            }
        }
        trie.first_child.push(trie.labels.len() as u32);
        trie
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let first = self.first_child[node as usize];
        let end = self.first_child[node as usize + 1];
        let labels = &self.labels[first as usize..end as usize];
        Some(first + labels.binary_search(&byte).ok()? as u32)
    }

    /// The tokens that `text` begins with, shortest first, as length and id.
    pub(crate) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        text.iter()
            .enumerate()
            .map_while(move |(at, &byte)| {
                node = self.child(node, byte)?;
                Some((at + 1, self.tokens[node as usize]))
            })
            .filter(|&(_, token)| token != NONE)
    }

    /// The longest of them.
    pub(crate) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_prefix() {
        let entries = ["a", "ab", "abcd", "b", "", "ab"];
        let trie = Trie::new((0..).zip(entries).map(|(id, text)| (text.as_bytes().to_vec(), id)).collect());
        let prefixes = |text: &str| trie.prefixes(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(prefixes("abcde"), [(1, 0), (2, 5), (4, 2)]);
        assert_eq!(prefixes("bcd"), [(1, 3)]);
        assert!(prefixes("x").is_empty() && prefixes("").is_empty());
        assert_eq!(trie.longest(b"abc"), Some((2, 5)));
        assert_eq!(Trie::new(vec![]).longest(b"abc"), None);
    }
}
