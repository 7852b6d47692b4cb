//! What one file is before and after power is lost.
//!
//! Flows in: writes, truncations and syncs of a file. Flows out: what a reader sees (the page cache over the disk), and
//! what is left when power goes. Must never let a write reach the backing file before a sync.
//!
//! As on Linux, a sync that fails does not keep its blocks for the next one: they read as written until they are pushed
//! out of memory, and are never written back (fsyncgate).

use std::collections::BTreeMap;
use std::io;

use rand::{Rng, RngExt as _};

/// The granularity of the page cache.
pub const BLOCK: u64 = 4096;
/// The granularity in which a disk writes.
const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK as usize]>;

/// The disk under a file: what survives.
pub trait Durable {
    /// Reads as much as there is; the rest of `buf` stays.
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes.
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Cuts or extends with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Everything above is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// What power loss leaves of the blocks that were not synced.
#[derive(Debug)]
pub enum Loss<'a, R> {
    /// None of them.
    All,
    /// Any of them, some torn within: a disk writes in whatever order it likes.
    Some(&'a mut R),
}

/// The page cache of one file.
#[derive(Debug)]
pub struct Image {
    /// The file's length as programs see it.
    len: u64,
    /// Its length on the disk.
    synced_len: u64,
    /// What is on the disk from here on was cut off since, and is not seen any more.
    cut_at: u64,
    /// Written and not synced.
    dirty: BTreeMap<u64, Block>,
    /// Of a sync that failed: seen, and never written.
    lost: BTreeMap<u64, Block>,
}

impl Image {
    /// Of a file that has this length on the disk.
    pub fn new(len: u64) -> Self {
        Self { len, synced_len: len, cut_at: u64::MAX, dirty: BTreeMap::new(), lost: BTreeMap::new() }
    }

    /// The file's length as programs see it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the disk holds all that programs see.
    pub fn is_synced(&self) -> bool {
        self.dirty.is_empty()
            && self.lost.is_empty()
            && self.len == self.synced_len
            && self.cut_at == u64::MAX
    }

    /// Bytes that wait for a sync.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.len() as u64 * BLOCK
    }

    /// Reads up to `len` bytes.
    pub fn read(&self, disk: &impl Durable, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = self.len.min(at.saturating_add(len as u64));
        if end <= at {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; (end - at) as usize];
        // The disk first, in one piece; what is newer in memory over it.
        let on_disk = end.min(self.synced_len).min(self.cut_at).saturating_sub(at) as usize;
        disk.read(&mut bytes[..on_disk], at)?;
        for blocks in [&self.lost, &self.dirty] {
            for (number, block) in blocks.range(at / BLOCK..end.div_ceil(BLOCK)) {
                let start = number * BLOCK;
                let (from, to) = (start.max(at), (start + BLOCK).min(end));
                bytes[(from - at) as usize..(to - at) as usize]
                    .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(bytes)
    }

    /// Writes into memory.
    pub fn write(&mut self, disk: &impl Durable, bytes: &[u8], at: u64) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        for number in at / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let (from, to) = (start.max(at), (start + BLOCK).min(end));
            let new = &bytes[(from - at) as usize..(to - at) as usize];
            let block = if self.dirty.contains_key(&number) || new.len() as u64 == BLOCK {
                self.dirty.entry(number).or_insert_with(|| Box::new([0; BLOCK as usize]))
            } else {
                let mut block = Box::new([0; BLOCK as usize]);
                let now = self.read(disk, start, BLOCK as usize)?;
                block[..now.len()].copy_from_slice(&now);
                self.dirty.entry(number).or_insert(block)
            };
            block[(from - start) as usize..(to - start) as usize].copy_from_slice(new);
            self.lost.remove(&number);
        }
        self.len = self.len.max(end);
        Ok(())
    }

    /// Cuts or extends, in memory.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            for blocks in [&mut self.dirty, &mut self.lost] {
                blocks.split_off(&len.div_ceil(BLOCK));
                if let Some(block) = blocks.get_mut(&(len / BLOCK)) {
                    block[(len % BLOCK) as usize..].fill(0);
                }
            }
            self.cut_at = self.cut_at.min(len);
        }
        self.len = len;
    }

    /// Moves everything to the disk.
    pub fn sync(&mut self, disk: &mut impl Durable) -> io::Result<()> {
        self.apply_len(disk, self.len)?;
        for (number, block) in std::mem::take(&mut self.dirty) {
            write_block(disk, number, &block[..], self.len)?;
        }
        disk.sync()
    }

    /// A sync that fails: nothing is written, nor will be.
    pub fn fail_sync(&mut self) {
        self.lost.append(&mut self.dirty);
    }

    /// Power is lost: what is left is on the disk, and nothing but that is seen from now on.
    pub fn lose_power(&mut self, disk: &mut impl Durable, loss: Loss<'_, impl Rng>) -> io::Result<()> {
        if let Loss::Some(rng) = loss {
            let len =
                if rng.random_bool(0.5) { self.len } else { self.synced_len.min(self.len.min(self.cut_at)) };
            if len != self.synced_len || self.cut_at != u64::MAX {
                self.apply_len(disk, len)?;
            }
            for (number, block) in std::mem::take(&mut self.dirty) {
                let sectors = rng.random_range(0..=BLOCK as usize / SECTOR);
                if rng.random_bool(0.5) {
                    let torn = if rng.random_bool(0.2) { sectors * SECTOR } else { BLOCK as usize };
                    write_block(disk, number, &block[..torn], self.synced_len)?;
                }
            }
            disk.sync()?;
        }
        *self = Self::new(self.synced_len);
        Ok(())
    }

    fn apply_len(&mut self, disk: &mut impl Durable, len: u64) -> io::Result<()> {
        if self.cut_at < self.synced_len {
            disk.set_len(self.cut_at)?;
            self.synced_len = self.cut_at;
        }
        if len != self.synced_len {
            disk.set_len(len)?;
            self.synced_len = len;
        }
        self.cut_at = u64::MAX;
        Ok(())
    }
}

/// As much of a block as lies within the file.
fn write_block(disk: &mut impl Durable, number: u64, block: &[u8], len: u64) -> io::Result<()> {
    let start = number * BLOCK;
    let within = (len.saturating_sub(start) as usize).min(block.len());
    disk.write(&block[..within], start)
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
