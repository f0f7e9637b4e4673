//! All tokens of a vocabulary by their bytes.

use std::collections::BTreeMap;

/// Nodes in depth-first order; the children of a node lie in `edges`.
#[derive(Debug)]
pub(crate) struct Trie {
    /// Byte and node.
    edges: Vec<(u8, u32)>,
    /// Where each node's edges begin; one more than there are nodes.
    edge_begins: Vec<u32>,
    tokens: Vec<u32>,
    token_begins: Vec<u32>,
    /// Bytes of token i are `bytes[ends[i - 1]..ends[i]]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

#[derive(Default)]
struct Growing {
    children: BTreeMap<u8, usize>,
    tokens: Vec<u32>,
}

impl Trie {
    /// `tokens`: bytes and id, ids ascending from 0; tokens without bytes are never allowed.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = (&'a [u8], u32)>) -> Self {
        let mut growing = vec![Growing::default()];
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (token, id) in tokens {
            bytes.extend_from_slice(token);
            ends.push(bytes.len() as u32);
            if token.is_empty() {
                continue;
            }
            let mut node = 0;
            for &byte in token {
                let new = growing.len();
                let next = *growing[node].children.entry(byte).or_insert(new);
                if next == new {
                    growing.push(Growing::default());
                }
                node = next;
            }
            growing[node].tokens.push(id);
        }
        let mut trie = Self {
            edges: Vec::new(),
            edge_begins: vec![0],
            tokens: Vec::new(),
            token_begins: vec![0],
            bytes,
            ends,
        };
        for node in growing {
            trie.edges.extend(node.children.into_iter().map(|(byte, child)| (byte, child as u32)));
            trie.edge_begins.push(trie.edges.len() as u32);
            trie.tokens.extend(node.tokens);
            trie.token_begins.push(trie.tokens.len() as u32);
        }
        trie
    }

    /// Ids are below it.
    pub(crate) fn ids(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        &self.bytes[id.checked_sub(1).map_or(0, |before| self.ends[before]) as usize..end as usize]
    }

    pub(crate) const fn root(&self) -> u32 {
        0
    }

    pub(crate) fn children(&self, node: u32) -> impl Iterator<Item = (u8, u32)> {
        let range = self.edge_begins[node as usize] as usize..self.edge_begins[node as usize + 1] as usize;
        self.edges[range].iter().copied()
    }

    /// The tokens whose bytes end at `node`.
    pub(crate) fn tokens(&self, node: u32) -> &[u32] {
        let range = self.token_begins[node as usize] as usize..self.token_begins[node as usize + 1] as usize;
        &self.tokens[range]
    }
}
