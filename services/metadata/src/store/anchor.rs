//! The anchor: vote, last log id, committed and snapshot, in two slots that are written in turn.
//!
//! ```text
//! slot 0 at 0, slot 1 at 4096, each 4096 bytes:
//!   0  magic "MRDNANCH"
//!   8  version, u32 LE
//!  12  length of the body, u32 LE
//!  16  crc32c of the whole slot with these 4 bytes zero, u32 LE
//!  20  body: protobuf RaftAnchor
//!  ..  zeros
//! ```
//!
//! All that varies is in the slot's first 512 bytes, which disks write whole or not at all, and the other slot is never
//! touched meanwhile. So after any crash both slots are valid and their generations are neighbours; anything else is
//! damage, and the node refuses to start rather than forget a vote.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use meridian_wire::v1::RaftAnchor;
use prost::Message as _;

use super::error::StoreError;

const MAGIC: &[u8; 8] = b"MRDNANCH";
const VERSION: u32 = 1;
const SLOT: usize = 4096;
const HEAD: usize = 20;
const CRC: std::ops::Range<usize> = 16..20;
/// What a disk writes whole.
const SECTOR: usize = 512;

/// The open file and what it says.
#[derive(Debug)]
pub(crate) struct Anchor {
    path: PathBuf,
    file: File,
    state: RaftAnchor,
}

impl Anchor {
    /// Makes the file, whole and synced or not at all.
    pub(crate) fn create(path: &Path, mut state: RaftAnchor) -> Result<Self, StoreError> {
        let io = || StoreError::io(path);
        let fresh = path.with_extension("new");
        let mut bytes = Vec::with_capacity(2 * SLOT);
        for generation in [0, 1] {
            state.generation = generation;
            bytes.extend_from_slice(&encode(path, &state)?);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&fresh)
            .map_err(io())?;
        file.write_all_at(&bytes, 0).map_err(io())?;
        file.sync_all().map_err(io())?;
        std::fs::rename(&fresh, path).map_err(io())?;
        sync_folder(path)?;
        Ok(Self { path: path.to_owned(), file, state })
    }

    /// Opens the file; `None` where there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        let io = || StoreError::io(path);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io()(error)),
        };
        let length = file.metadata().map_err(io())?.len();
        if length != 2 * SLOT as u64 {
            return Err(StoreError::damaged(path, format!("it has {length} bytes, not {}", 2 * SLOT)));
        }
        let mut bytes = vec![0; 2 * SLOT];
        file.read_exact_at(&mut bytes, 0).map_err(io())?;
        let slots = [decode(path, &bytes[..SLOT])?, decode(path, &bytes[SLOT..])?];
        for (slot, state) in slots.iter().enumerate() {
            if state.generation % 2 != slot as u64 {
                return Err(StoreError::damaged(path, format!("slot {slot} holds the other slot's turn")));
            }
        }
        let [even, odd] = slots;
        if even.generation.abs_diff(odd.generation) != 1 {
            return Err(StoreError::damaged(
                path,
                format!(
                    "its slots are of turns {} and {}: a write was lost",
                    even.generation, odd.generation
                ),
            ));
        }
        let state = if even.generation > odd.generation { even } else { odd };
        Ok(Some(Self { path: path.to_owned(), file, state }))
    }

    /// Syncs what was read: a write before a kill may be in the page cache only, and answers are given from it.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(StoreError::io(&self.path))
    }

    /// What it says.
    pub(crate) fn state(&self) -> &RaftAnchor {
        &self.state
    }

    /// Changes what it says. On the disk when this returns; after an error the process must end, for what the disk has
    /// is not known.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut RaftAnchor)) -> Result<(), StoreError> {
        let mut next = self.state.clone();
        change(&mut next);
        if next == self.state {
            return Ok(());
        }
        next.generation = self.state.generation + 1;
        let slot = encode(&self.path, &next)?;
        let at = (next.generation % 2) * SLOT as u64;
        self.file.write_all_at(&slot, at).map_err(StoreError::io(&self.path))?;
        self.file.sync_data().map_err(StoreError::io(&self.path))?;
        self.state = next;
        Ok(())
    }
}

/// Makes renames and new files in the folder of `path` last.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io(folder))
}

fn encode(path: &Path, state: &RaftAnchor) -> Result<Vec<u8>, StoreError> {
    let body = state.encode_to_vec();
    if HEAD + body.len() > SECTOR {
        return Err(StoreError::Io {
            path: path.to_owned(),
            source: std::io::Error::other("the anchor does not fit a sector"),
        });
    }
    let mut slot = vec![0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    slot[HEAD..HEAD + body.len()].copy_from_slice(&body);
    let crc = crc32c::crc32c(&slot);
    slot[CRC].copy_from_slice(&crc.to_le_bytes());
    Ok(slot)
}

fn decode(path: &Path, slot: &[u8]) -> Result<RaftAnchor, StoreError> {
    let number = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    let damaged = |what: &str| StoreError::damaged(path, what);
    let mut zeroed = slot.to_vec();
    zeroed[CRC].fill(0);
    if &slot[..8] != MAGIC || crc32c::crc32c(&zeroed) != number(CRC.start) {
        return Err(damaged("a slot fails its checksum"));
    }
    if number(8) != VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            what: format!("anchor version {}", number(8)),
        });
    }
    let body = slot.get(HEAD..HEAD + number(12) as usize).ok_or_else(|| damaged("a slot's length"))?;
    RaftAnchor::decode(body).map_err(|error| damaged(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_wire::v1::RaftVote;

    fn vote(term: u64) -> Option<RaftVote> {
        Some(RaftVote { term, node: 1, committed: false })
    }

    #[test]
    fn keeps_the_last_update() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        assert!(Anchor::open(&path).unwrap().is_none());
        let mut anchor = Anchor::create(&path, RaftAnchor { node: 7, ..RaftAnchor::default() }).unwrap();
        for term in 1..5 {
            anchor.update(|state| state.vote = vote(term)).unwrap();
            let read = Anchor::open(&path).unwrap().unwrap();
            assert_eq!(read.state(), anchor.state());
            assert_eq!(read.state().vote, vote(term));
        }
    }

    #[test]
    fn any_flipped_bit_cut_or_lost_write_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        let mut anchor = Anchor::create(&path, RaftAnchor { node: 7, ..RaftAnchor::default() }).unwrap();
        let mut past = vec![std::fs::read(&path).unwrap()];
        for term in 1..5 {
            anchor.update(|state| state.vote = vote(term)).unwrap();
            past.push(std::fs::read(&path).unwrap());
        }
        let good = past.last().unwrap().clone();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Anchor::open(&path), Err(StoreError::Damaged { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            refused(&bad);
        }
        for length in [0, 1, SLOT, good.len() - 1] {
            refused(&good[..length]);
        }
        // Turn 4 never reached the disk, turn 5 did: the slots are of turns 2 and 5.
        let mut lost = good.clone();
        lost[..SLOT].copy_from_slice(&past[1][..SLOT]);
        refused(&lost);
        let mut twins = good.clone();
        twins.copy_within(..SLOT, SLOT);
        refused(&twins);
    }

    #[test]
    fn a_newer_version_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anchor");
        Anchor::create(&path, RaftAnchor::default()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for slot in bytes.chunks_mut(SLOT) {
            slot[8..12].copy_from_slice(&2u32.to_le_bytes());
            slot[CRC].fill(0);
            let crc = crc32c::crc32c(slot);
            slot[CRC].copy_from_slice(&crc.to_le_bytes());
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Anchor::open(&path), Err(StoreError::Newer { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
