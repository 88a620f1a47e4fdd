//! The base of a state: a radix tree of immutable nodes in the table `nodes`.
//!
//! A leaf has the entries of 512 blocks, an inner node the numbers of 512 leaves, the root those
//! of 512 inner nodes. Little-endian: version and level as bytes, the count of elements as a
//! 16-bit word, 64 bytes of which elements are there, the elements without gaps in planes, and a
//! CRC-32 of the node's number and all of that. What has no entry has no node.

use rusqlite::{Connection, OptionalExtension, params};
use sprite_types::Epoch;

use crate::entry::{BLOCKS_MAX, Entry};
use crate::error::{BlockMapError, Corrupt, sql};
use crate::head::HeadTable;
use crate::leaf::{LEAF_BLOCKS, Leaf, Mask};
use crate::packs::PackSizes;
use crate::planes;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 4 + Mask::LEN;
/// Children of an inner node and of the root.
const FAN_OUT: usize = 512;
const ID_LEN: usize = 8;

/// The number of a node, from 1.
pub(crate) type NodeId = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Leaf = 0,
    Inner = 1,
    Root = 2,
}

/// Which leaves some deltas have changed.
#[derive(Clone, Default)]
pub(crate) struct LeafSet {
    words: Vec<u64>,
    count: usize,
}

impl LeafSet {
    pub(crate) fn insert(&mut self, leaf: u32) {
        let word = leaf as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (leaf % 64);
        self.count += usize::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.words.len() * 64).filter(|leaf| self.words[leaf / 64] >> (leaf % 64) & 1 == 1)
    }
}

/// The numbers of a tree's nodes; 0 where there is none.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    inner: Vec<NodeId>,
    leaves: Vec<NodeId>,
}

impl Tree {
    /// Reads root and inner nodes: a few of them even for the largest disk.
    pub(crate) fn load(
        connection: &Connection,
        root: Option<NodeId>,
        epoch: Epoch,
        blocks: u32,
    ) -> Result<Self, BlockMapError> {
        let mut tree = Self::default();
        tree.grow(blocks);
        let Some(root) = root else { return Ok(tree) };
        for (at, id) in children(connection, root, Level::Root, epoch, 0)? {
            let first_block = at * FAN_OUT as u32 * LEAF_BLOCKS;
            let beyond = |block| Corrupt::new("a node beyond the disk").at(epoch).block(block);
            *tree.inner.get_mut(at as usize).ok_or_else(|| beyond(first_block))? = id;
            for (leaf, id) in children(connection, id, Level::Inner, epoch, first_block)? {
                let index = at as usize * FAN_OUT + leaf as usize;
                *tree.leaves.get_mut(index).ok_or_else(|| beyond(index as u32 * LEAF_BLOCKS))? = id;
            }
        }
        Ok(tree)
    }

    /// Makes room for a disk of `blocks` blocks.
    pub(crate) fn grow(&mut self, blocks: u32) {
        debug_assert!(blocks <= BLOCKS_MAX);
        let leaves = blocks.div_ceil(LEAF_BLOCKS) as usize;
        self.leaves.resize(leaves.max(self.leaves.len()), 0);
        self.inner.resize(self.leaves.len().div_ceil(FAN_OUT), 0);
    }

    #[cfg(test)]
    fn grown(mut self, blocks: u32) -> Self {
        self.grow(blocks);
        self
    }

    /// Returns the numbers of the leaves, in order.
    pub(crate) fn leaves(&self) -> &[NodeId] {
        &self.leaves
    }

    /// Returns the numbers of the inner nodes.
    pub(crate) fn inner(&self) -> &[NodeId] {
        &self.inner
    }

    pub(crate) fn leaf_id(&self, leaf: u32) -> NodeId {
        self.leaves.get(leaf as usize).copied().unwrap_or(0)
    }

    /// Reads one leaf of the state of `epoch`, whose disk has `blocks` blocks.
    pub(crate) fn leaf(
        &self,
        connection: &Connection,
        leaf: u32,
        epoch: Epoch,
        blocks: u32,
        packs: &PackSizes,
    ) -> Result<Leaf, BlockMapError> {
        match self.leaf_id(leaf) {
            0 => Ok(Leaf::default()),
            id => load_leaf(connection, id, leaf, epoch, blocks, packs),
        }
    }

    /// Writes the changed leaves of `head` and the paths to them, beside the nodes that are
    /// there. Returns the new tree, its root (none if nothing is mapped), and the bytes written.
    pub(crate) fn write(
        &self,
        connection: &Connection,
        changed: &LeafSet,
        head: &HeadTable,
        root: Option<NodeId>,
    ) -> Result<(Self, Option<NodeId>, u64), BlockMapError> {
        let mut tree = self.clone();
        let mut writer = Writer::new(connection)?;
        let mut paths = LeafSet::default();
        let count = tree.leaves.len();
        for leaf in changed.iter().filter(|leaf| *leaf < count) {
            tree.leaves[leaf] = match head.leaf(leaf as u32) {
                Some(entries) => {
                    let elements: Vec<_> =
                        entries.entries().iter().flat_map(Entry::to_bytes).collect();
                    let planes = planes::split(&elements, Entry::LEN);
                    writer.write(Level::Leaf, entries.present(), &planes)?
                }
                None => 0,
            };
            paths.insert((leaf / FAN_OUT) as u32);
        }
        for at in paths.iter() {
            let first = at * FAN_OUT;
            let last = (first + FAN_OUT).min(tree.leaves.len());
            tree.inner[at] = writer.write_ids(Level::Inner, &tree.leaves[first..last])?;
        }
        let root = match paths.count() {
            0 => root,
            _ => Some(writer.write_ids(Level::Root, &tree.inner)?).filter(|id| *id != 0),
        };
        Ok((tree, root, writer.bytes))
    }
}

/// Reads one leaf by its number.
pub(crate) fn load_leaf(
    connection: &Connection,
    id: NodeId,
    leaf: u32,
    epoch: Epoch,
    blocks: u32,
    packs: &PackSizes,
) -> Result<Leaf, BlockMapError> {
    let first = leaf * LEAF_BLOCKS;
    with_node(connection, id, Level::Leaf, Entry::LEN, epoch, first, |present, elements| {
        let mut entries = Vec::with_capacity(elements.len() / Entry::LEN);
        for (index, element) in present.iter().zip(planes::join::<{ Entry::LEN }>(elements)) {
            let damaged = |reason| Corrupt::new(reason).at(epoch).block(first + index);
            if first + index >= blocks {
                return Err(damaged("an entry beyond the disk".to_owned()));
            }
            let entry = Entry::from_bytes(&element).map_err(damaged)?;
            packs.check(&entry).map_err(damaged)?;
            entries.push(entry);
        }
        Leaf::from_parts(present, entries)
            .ok_or_else(|| Corrupt::new(format!("node {id} has gaps")).at(epoch).block(first))
    })
}

fn children(
    connection: &Connection,
    id: NodeId,
    level: Level,
    epoch: Epoch,
    first_block: u32,
) -> Result<Vec<(u32, NodeId)>, BlockMapError> {
    with_node(connection, id, level, ID_LEN, epoch, first_block, |present, elements| {
        present
            .iter()
            .zip(planes::join::<ID_LEN>(elements))
            .map(|(index, element)| {
                let child = NodeId::from_le_bytes(element);
                // Children are written before their parents, which also rules out circles.
                if child == 0 || child >= id {
                    let reason = format!("node {id} has the child {child}");
                    return Err(Corrupt::new(reason).at(epoch).block(first_block));
                }
                Ok((index, child))
            })
            .collect()
    })
}

/// Hands a node's elements to `read`, after checking that it is the node that was asked for.
fn with_node<T>(
    connection: &Connection,
    id: NodeId,
    level: Level,
    element_len: usize,
    epoch: Epoch,
    block: u32,
    read: impl FnOnce(Mask, &[u8]) -> Result<T, Corrupt>,
) -> Result<T, BlockMapError> {
    let damaged = |what: &str| Corrupt::new(format!("node {id} {what}")).at(epoch).block(block);
    let key = i64::try_from(id).map_err(|_| damaged("cannot exist"))?;
    let check = |body: &[u8]| {
        let (body, sum) = body.split_last_chunk::<4>().ok_or_else(|| damaged("is truncated"))?;
        if checksum(id, body) != u32::from_le_bytes(*sum) {
            return Err(damaged("has another checksum"));
        }
        let (header, elements) =
            body.split_first_chunk::<HEADER_LEN>().ok_or_else(|| damaged("is truncated"))?;
        if header[..2] != [VERSION, level as u8] {
            return Err(damaged("has another version or level"));
        }
        let mask = header.last_chunk().expect("a header is longer than its mask");
        let present = Mask::decode(mask);
        let count = u32::from(u16::from_le_bytes([header[2], header[3]]));
        if present.count() != count || elements.len() != count as usize * element_len {
            return Err(damaged("has another length"));
        }
        read(present, elements)
    };
    let mut statement = connection
        .prepare_cached("SELECT body FROM nodes WHERE id = ?1")
        .map_err(sql("read a node"))?;
    let result = statement
        .query_row([key], |row| Ok(check(row.get_ref(0)?.as_blob()?)))
        .optional()
        .map_err(sql("read a node"))?
        .ok_or_else(|| damaged("is missing"))?;
    Ok(result?)
}

fn checksum(id: NodeId, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Appends nodes.
struct Writer<'a> {
    connection: &'a Connection,
    next: NodeId,
    bytes: u64,
}

impl<'a> Writer<'a> {
    fn new(connection: &'a Connection) -> Result<Self, BlockMapError> {
        let last: Option<i64> = connection
            .query_row("SELECT max(id) FROM nodes", [], |row| row.get(0))
            .map_err(sql("read the last node's number"))?;
        let next = u64::try_from(last.unwrap_or(0))
            .map_err(|_| Corrupt::new("a node with a negative number"))?;
        Ok(Self { connection, next: next + 1, bytes: 0 })
    }

    fn write(
        &mut self,
        level: Level,
        present: &Mask,
        elements: &[u8],
    ) -> Result<NodeId, BlockMapError> {
        let id = self.next;
        let mut body = Vec::with_capacity(HEADER_LEN + elements.len() + 4);
        body.extend_from_slice(&[VERSION, level as u8]);
        // A mask has 512 bits.
        body.extend_from_slice(&(present.count() as u16).to_le_bytes());
        body.extend_from_slice(&present.encode());
        body.extend_from_slice(elements);
        body.extend_from_slice(&checksum(id, &body).to_le_bytes());
        let key = i64::try_from(id).map_err(|_| BlockMapError::invalid("no node numbers left"))?;
        self.connection
            .prepare_cached("INSERT INTO nodes (id, body) VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![key, body]))
            .map_err(sql("write a node"))?;
        self.next += 1;
        self.bytes += body.len() as u64;
        Ok(id)
    }

    fn write_ids(&mut self, level: Level, ids: &[NodeId]) -> Result<NodeId, BlockMapError> {
        let (mut present, mut elements) = (Mask::default(), Vec::new());
        for (index, id) in (0..).zip(ids).filter(|(_, id)| **id != 0) {
            present.insert(index);
            elements.extend_from_slice(&id.to_le_bytes());
        }
        if present.is_empty() {
            return Ok(0);
        }
        self.write(level, &present, &planes::split(&elements, ID_LEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::Delta;
    use crate::entry::{Codec, PackId};
    use sprite_types::BlockIndex;

    const EPOCH: Epoch = Epoch(3);
    const BLOCKS: u32 = 600_000;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE nodes (id INTEGER PRIMARY KEY, body BLOB)").unwrap();
        connection
    }

    fn table(blocks: &[u32]) -> (HeadTable, LeafSet, PackSizes) {
        let (mut head, mut changed, mut delta) =
            (HeadTable::new(BLOCKS), LeafSet::default(), Delta::new());
        for block in blocks {
            let entry = Entry::new(PackId(2), 0x1000, 0x200, Codec::Zstd, 0x0102_0304).unwrap();
            delta.set(BlockIndex(*block), entry);
            changed.insert(block / LEAF_BLOCKS);
        }
        head.apply(&delta);
        let mut packs = PackSizes::default();
        packs.insert(PackId(2), 1 << 20);
        (head, changed, packs)
    }

    fn body(connection: &Connection, id: NodeId) -> Vec<u8> {
        let query = "SELECT body FROM nodes WHERE id = ?1";
        connection.query_row(query, [id], |row| row.get(0)).unwrap()
    }

    /// The format is a promise: these bytes must be readable by every later release.
    #[test]
    fn the_format_stays_what_it_was() {
        let connection = connection();
        let (head, changed, _) = table(&[3, 9]);
        let (_, root, bytes) =
            Tree::default().grown(BLOCKS).write(&connection, &changed, &head, None).unwrap();
        assert_eq!(root, Some(3));
        let mut leaf = vec![1, 0, 2, 0, 0x08, 0x02];
        leaf.resize(68, 0);
        let entry = [2, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0, 1, 4, 3, 2, 1];
        leaf.extend(entry.iter().flat_map(|byte| [*byte; 2]));
        let mut inner = vec![1, 1, 1, 0, 0x01];
        inner.resize(68, 0);
        inner.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        let mut root = vec![1, 2, 1, 0, 0x01];
        root.resize(68, 0);
        root.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        for (id, (expected, sum)) in
            (1..).zip([(leaf, 0x2355_1651_u32), (inner, 0x3739_6f1a), (root, 0x3c27_86d0)])
        {
            let found = body(&connection, id);
            assert_eq!(found[..expected.len()], expected, "node {id}");
            assert_eq!(found[expected.len()..], sum.to_le_bytes(), "node {id}");
        }
        assert_eq!(bytes, 104 + 80 + 80);
    }

    #[test]
    fn a_fold_writes_only_the_changed_paths() {
        let connection = connection();
        let (head, changed, packs) = table(&[3, 600, 300_000]);
        let empty = Tree::default().grown(BLOCKS);
        let (tree, root, _) = empty.write(&connection, &changed, &head, None).unwrap();
        let loaded = Tree::load(&connection, root, EPOCH, BLOCKS).unwrap();
        assert_eq!((loaded.leaves(), loaded.inner()), (tree.leaves(), tree.inner()));
        let mut only_second = LeafSet::default();
        only_second.insert(1);
        let (next, next_root, _) = tree.write(&connection, &only_second, &head, root).unwrap();
        assert_ne!(next_root, root);
        assert_ne!(next.leaf_id(1), tree.leaf_id(1));
        assert_eq!((next.leaf_id(0), next.inner()[1]), (tree.leaf_id(0), tree.inner()[1]));
        let leaf = next.leaf(&connection, 585, EPOCH, BLOCKS, &packs).unwrap();
        assert_eq!(Some(&leaf), head.leaf(585));
        // Nothing mapped, no nodes.
        let (gone, root, _) =
            next.write(&connection, &changed, &HeadTable::new(BLOCKS), root).unwrap();
        assert_eq!(root, None);
        assert!(gone.leaves().iter().chain(gone.inner()).all(|id| *id == 0));
    }

    /// A tree that does not fit the disk is damage, not an index out of bounds.
    #[test]
    fn nodes_beyond_the_disk_are_refused() {
        let connection = connection();
        let (head, changed, packs) = table(&[3, 600, 300_000]);
        let empty = Tree::default().grown(BLOCKS);
        let (tree, root, _) = empty.write(&connection, &changed, &head, None).unwrap();
        for blocks in [300, 512, 262_144] {
            assert!(Tree::load(&connection, root, EPOCH, blocks).is_err(), "{blocks}");
        }
        let error = tree.leaf(&connection, 0, EPOCH, 2, &packs).unwrap_err();
        assert!(error.to_string().contains("epoch 3, block 3, an entry beyond"), "{error}");
    }
}
