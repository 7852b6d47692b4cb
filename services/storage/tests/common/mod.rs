//! What the tests of the volume share: frames from numbers, and a model of what must stand.
#![allow(dead_code, missing_docs)] // each test binary uses a part of it

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use meridian_storage::{
    Chain, Entry, Frame, FrameHeader, FrameKind, Identity, Place, Promise, Recovered, SimDisk, VolumeReader,
};
use meridian_types::{
    ClusterUuid, DiskUuid, Hlc, LogEpoch, NodeId, Offset, Origin, Partition, RegionId, Seq, ShardId, ShardNo,
    StreamId, TenantId,
};
use uuid::Uuid;

pub const SECRET: [u8; 16] = *b"0123456789abcdef";

/// How many seeds a test runs: `MERIDIAN_SEEDS` multiplies.
pub fn seeds(base: u64) -> std::ops::Range<u64> {
    let times = std::env::var("MERIDIAN_SEEDS").map_or(1, |n| n.parse().expect("MERIDIAN_SEEDS is a number"));
    // `MERIDIAN_SEED=n` runs the one that failed.
    match std::env::var("MERIDIAN_SEED") {
        Ok(one) => {
            let one = one.parse().expect("MERIDIAN_SEED is a number");
            one..one + 1
        }
        Err(_) => 0..base * times,
    }
}

pub fn shard(no: u16) -> ShardId {
    ShardId { origin: Origin::first(RegionId(1 + no % 2)), no: ShardNo(no) }
}

pub fn formatted(seed: u64) -> Arc<SimDisk> {
    let disk = SimDisk::new(seed);
    Identity::format_as(
        &disk,
        ClusterUuid(Uuid::from_u128(1)),
        NodeId(1),
        DiskUuid(Uuid::from_u128(2)),
        SECRET,
    )
    .expect("an empty disk can be formatted");
    Arc::new(disk)
}

pub fn fields(shard: ShardId, seq: Seq, epoch: LogEpoch) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Events,
        origin: shard.origin,
        shard: shard.no,
        seq,
        log_epoch: epoch,
        hlc: Hlc(seq.0.wrapping_shl(16)),
        tenant: TenantId::DEFAULT,
        stream: StreamId(7),
        partition: Partition(u32::from(shard.no.0)),
        base_offset: Offset(seq.0.wrapping_mul(10)),
        events: 10,
        payload_len: 0,
        payload_crc: 0,
        chain: Chain::GENESIS,
    }
}

pub fn frame(shard: ShardId, seq: Seq, epoch: LogEpoch, prev: Chain, payload: Vec<u8>) -> Frame {
    Frame::build(fields(shard, seq, epoch), prev, Bytes::from(payload))
}

/// The shards and promises that some entries add up to, with the places of those acknowledged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub shards: BTreeMap<ShardId, Vec<(Frame, Option<Place>)>>,
    pub promises: BTreeMap<ShardId, Promise>,
}

impl Model {
    pub fn apply(&mut self, entries: &[Entry], places: Option<&[Option<Place>]>) {
        for (i, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Frame(frame) => {
                    let log = self.shards.entry(frame.header.shard_id()).or_default();
                    assert_eq!(frame.header.seq.0, log.len() as u64 + 1, "the test itself is wrong");
                    log.push((frame.clone(), places.and_then(|places| places[i])));
                }
                Entry::Promise(promise) => {
                    self.promises.insert(promise.shard, *promise);
                }
                Entry::Cut { shard, from } => {
                    self.shards.entry(*shard).or_default().truncate(from.prev().0 as usize);
                }
                // What a log holds stays what it is.
                Entry::Moved(_) | Entry::Doubt { .. } | Entry::Applied { .. } => {}
            }
        }
    }

    /// The frame that would come next.
    pub fn next(&self, shard: ShardId, epoch: LogEpoch, payload: Vec<u8>) -> Frame {
        let last = self.shards.get(&shard).and_then(|log| log.last());
        let (seq, chain) =
            last.map_or((Seq(1), Chain::GENESIS), |(f, _)| (f.header.seq.next(), f.header.chain));
        frame(shard, seq, epoch, chain, payload)
    }

    /// Whether a sound volume holds exactly this; if not, the first difference.
    pub fn differs(
        &self,
        recovered: &Recovered,
        reader: &VolumeReader,
        applied: &dyn Fn(ShardId) -> Seq,
    ) -> Option<String> {
        if recovered.hidden || !recovered.damage.is_empty() {
            return Some(format!("damage: {:?}", recovered.damage));
        }
        if recovered.promises != self.promises {
            return Some(format!("promises {:?}, not {:?}", recovered.promises, self.promises));
        }
        if let Some(unknown) = recovered.shards.keys().find(|id| !self.shards.contains_key(id)) {
            return Some(format!("shard {unknown} is none of ours"));
        }
        for (id, log) in &self.shards {
            let found = recovered.shards.get(id).cloned().unwrap_or_default();
            if !found.missing.is_empty() || found.unsure_from.is_some() {
                return Some(format!("{id}: missing {:?}, unsure {:?}", found.missing, found.unsure_from));
            }
            if found.last != log.last().map(|(frame, _)| frame.header) {
                return Some(format!("{id}: last {:?}, wanted {} frames", found.last, log.len()));
            }
            let wanted = &log[log.len().min(applied(*id).0 as usize)..];
            if found.frames.len() != wanted.len() {
                return Some(format!("{id}: {} frames, wanted {}", found.frames.len(), wanted.len()));
            }
            for ((seq, place), (frame, acknowledged)) in found.frames.iter().zip(wanted) {
                let read = reader.read_expecting(*place, *id, *seq);
                if read.as_ref().ok() != Some(frame) || *seq != frame.header.seq {
                    return Some(format!("{id}:{seq} reads {read:?}"));
                }
                if acknowledged.is_some_and(|acknowledged| acknowledged != *place) {
                    return Some(format!("{id}:{seq} has moved from {acknowledged:?} to {place:?}"));
                }
            }
            // Law: an index never points outside the volume. Every place given out stays readable.
            for (frame, place) in log {
                if let Some(place) = place
                    && reader.read_expecting_uncached(*place, *id, frame.header.seq).ok().as_ref()
                        != Some(frame)
                {
                    return Some(format!("{id}:{} cannot be read at {place:?}", frame.header.seq));
                }
            }
        }
        None
    }
}
