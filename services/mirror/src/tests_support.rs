//! Logs for the tests of this crate.

use bytes::Bytes;
use meridian_shard::Totals;
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind};
use meridian_types::{
    Hlc, LogEpoch, Offset, Origin, Partition, RegionId, Seq, ShardId, ShardNo, StreamId, TenantId,
};

use crate::SourceMark;

pub fn shard(no: u16) -> ShardId {
    ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) }
}

/// The first `count` frames of a shard's log, each with a payload of `bytes` bytes; another `history`, other frames.
pub fn log(shard: ShardId, history: u32, count: u64, bytes: usize) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for seq in 1..=count {
        let fields = FrameHeader {
            kind: FrameKind::Tick,
            origin: shard.origin,
            shard: shard.no,
            seq: Seq(seq),
            log_epoch: LogEpoch(history),
            hlc: Hlc(seq << 16),
            tenant: TenantId(0),
            stream: StreamId(0),
            partition: Partition(0),
            base_offset: Offset::ZERO,
            events: 0,
            payload_len: 0,
            payload_crc: 0,
            chain: Chain::GENESIS,
        };
        let before = frames.last().map_or(Chain::GENESIS, |frame| frame.header.chain);
        frames.push(Frame::build(fields, before, Bytes::from(vec![history as u8; bytes])));
    }
    frames
}

/// The chain through frame `seq` of a log.
pub fn chain_at(log: &[Frame], seq: u64) -> Chain {
    seq.checked_sub(1).map_or(Chain::GENESIS, |at| log[at as usize].header.chain)
}

/// A source that holds frames up to `seq`, ten events each.
pub fn mark(seq: u64) -> SourceMark {
    SourceMark {
        seq: Seq(seq),
        totals: Totals { events: seq * 10, bytes: seq * 100 },
        hlc: Hlc(seq << 16),
        is_origin_leader: false,
    }
}
