//! Where recovery may begin: at a volume file, before which nothing is left to be found out.
//!
//! A [`Restart`] says what the files before one came to. It is made as the writer rolls to that file, and kept in the index once
//! the index holds all frames before it; so it is durable only if they are, and an index that is lost takes it along. Must
//! never be made of a volume in which anything is damaged, in doubt or stored again: there all is read.
//!
//! Encoded, little endian: version u8 ‖ first file u64 ‖ file u64 ‖ generation u64 ‖ first round u64 ‖ number of tails u32 ‖ tails
//! ‖ number of promises u32 ‖ promises, where a tail is shard ‖ seq u64 ‖ place file u64 ‖ at u64 ‖ len u32, a promise is
//! shard ‖ epoch u64 ‖ boot u64, and a shard is origin u32 ‖ number u16.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use meridian_types::{Boot, LeaderEpoch, Origin, Seq, ShardId, ShardNo};
use parking_lot::Mutex;

use crate::index::{CursorKind, Index, IndexError};
use crate::place::Place;
use crate::record::Promise;

const VERSION: u8 = 1;
/// How many wait for the index: more than a disk fills files between two of its flushes. While it is that far behind, no more are made.
const WAITING_MAX: usize = 256;

/// What the volume files before one came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The first file of the volume.
    pub(super) first_file: u64,
    /// The file from which on everything is read.
    pub(super) file: u64,
    /// Its generation.
    pub(super) generation: u64,
    /// The number of its first round.
    pub(super) first_round: u64,
    /// The last frame of each shard before it, and where that lies.
    pub(super) tails: BTreeMap<ShardId, (Seq, Place)>,
    /// The last promise of each shard before it.
    pub(super) promises: BTreeMap<ShardId, Promise>,
}

impl Restart {
    /// What the index keeps, if it keeps one that this version can read.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn of(index: &Index) -> Result<Option<Self>, IndexError> {
        Ok(index.cursor(CursorKind::Restart, &[])?.and_then(|bytes| Self::decode(&bytes)))
    }

    /// Whether all frames before it are applied.
    pub(super) fn is_covered(&self, applied: &dyn Fn(ShardId) -> Seq) -> bool {
        self.tails.iter().all(|(shard, (seq, _))| *seq <= applied(*shard))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [self.first_file, self.file, self.generation, self.first_round] {
            out.put_u64_le(number);
        }
        out.put_u32_le(self.tails.len() as u32);
        for (shard, (seq, place)) in &self.tails {
            put_shard(&mut out, *shard);
            out.put_u64_le(seq.0);
            out.put_u64_le(place.file);
            out.put_u64_le(place.at);
            out.put_u32_le(place.len);
        }
        out.put_u32_le(self.promises.len() as u32);
        for promise in self.promises.values() {
            put_shard(&mut out, promise.shard);
            out.put_u64_le(u64::from(promise.epoch.0));
            out.put_u64_le(promise.boot.0);
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = bytes.try_get_u64_le().ok()?;
        }
        let [first_file, file, generation, first_round] = numbers;
        let (mut tails, mut promises) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let (shard, seq) = (get_shard(bytes)?, Seq(bytes.try_get_u64_le().ok()?));
            let (file, at) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
            let place = Place { file, at, len: bytes.try_get_u32_le().ok()? };
            tails.insert(shard, (seq, place));
        }
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let shard = get_shard(bytes)?;
            let epoch = LeaderEpoch(bytes.try_get_u64_le().ok()?.try_into().ok()?);
            let boot = Boot(bytes.try_get_u64_le().ok()?);
            promises.insert(shard, Promise { shard, epoch, boot });
        }
        bytes.is_empty().then_some(Self { first_file, file, generation, first_round, tails, promises })
    }
}

fn put_shard(out: &mut Vec<u8>, shard: ShardId) {
    out.put_u32_le(shard.origin.to_u32());
    out.put_u16_le(shard.no.0);
}

fn get_shard(bytes: &mut &[u8]) -> Option<ShardId> {
    let origin = Origin::from_u32(bytes.try_get_u32_le().ok()?);
    Some(ShardId { origin, no: ShardNo(bytes.try_get_u16_le().ok()?) })
}

/// The restarts that a volume's writer has made and the index does not hold yet. While a replica holds frames that are never applied, none is
/// covered: its node reads from the last one before on.
#[derive(Clone, Debug, Default)]
pub struct Restarts(Arc<Mutex<VecDeque<Restart>>>);

impl Restarts {
    pub(super) fn made(&self, restart: Restart) {
        let mut waiting = self.0.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push_back(restart);
        }
    }

    /// How many there are: the files that the writer has begun and the index does not vouch for.
    pub fn waiting(&self) -> usize {
        self.0.lock().len()
    }

    /// Has the index hold the last one of which it has applied everything. To be called before the index is flushed. Where
    /// something `is_damaged`, which a read has found, it is to hold none: the next start reads everything.
    ///
    /// # Errors
    /// The index cannot be read or written.
    pub fn keep_in(&self, index: &Index, is_damaged: bool) -> Result<(), IndexError> {
        if is_damaged {
            self.0.lock().clear();
            return index.put_cursor(CursorKind::Restart, &[], &[]);
        }
        if self.0.lock().is_empty() {
            return Ok(());
        }
        // The marks are written already, so they are durable no later than what is written now.
        let marks: BTreeMap<ShardId, Seq> =
            index.shards()?.into_iter().map(|(shard, mark)| (shard, mark.seq)).collect();
        let applied = |shard: ShardId| marks.get(&shard).copied().unwrap_or(Seq::ZERO);
        let mut waiting = self.0.lock();
        let mut last = None;
        while let Some(restart) = waiting.pop_front_if(|restart| restart.is_covered(&applied)) {
            last = Some(restart);
        }
        // Whoever rolls must not wait for the index.
        drop(waiting);
        match last {
            Some(restart) => index.put_cursor(CursorKind::Restart, &[], &restart.encode()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Incarnation, RegionId};

    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_nothing_else_is() {
        let shard = |no| ShardId {
            origin: Origin { region: RegionId(2), incarnation: Incarnation(3) },
            no: ShardNo(no),
        };
        let promise = |no| Promise { shard: shard(no), epoch: LeaderEpoch(7), boot: Boot(9) };
        let restart = Restart {
            first_file: 1,
            file: 5,
            generation: 6,
            first_round: 77,
            tails: [(shard(0), (Seq(8), Place { file: 4, at: 4096, len: 100 }))].into(),
            promises: [(shard(0), promise(0)), (shard(1), promise(1))].into(),
        };
        let bytes = restart.encode();
        assert_eq!(Restart::decode(&bytes), Some(restart));
        for len in 0..bytes.len() {
            assert_eq!(Restart::decode(&bytes[..len]), None, "{len} bytes of it");
        }
        assert_eq!(Restart::decode(&[&bytes[..], &[0]].concat()), None, "more than it");
        assert_eq!(Restart::decode(&[&[VERSION + 1], &bytes[1..]].concat()), None, "another version");
    }
}
