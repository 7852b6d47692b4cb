//! Frames and batches for the tests of this crate.

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event, Producer, Sequence};
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind};
use meridian_types::{
    Hlc, LogEpoch, Offset, Origin, Partition, ProducerEpoch, ProducerId, RegionId, Seq, ShardId, ShardNo,
    StreamId, TenantId,
};

use crate::{Publish, RequestId};

pub const SHARD: ShardId = ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(3) };

/// A frame of no particular log.
pub fn frame(seq: u64) -> Frame {
    Frame::build(
        FrameHeader {
            kind: FrameKind::Tick,
            origin: SHARD.origin,
            shard: SHARD.no,
            seq: Seq(seq),
            log_epoch: LogEpoch(1),
            hlc: Hlc(seq),
            tenant: TenantId(0),
            stream: StreamId(0),
            partition: Partition(0),
            base_offset: Offset(0),
            events: 0,
            payload_len: 0,
            payload_crc: 0,
            chain: Chain::GENESIS,
        },
        Chain::GENESIS,
        Bytes::from_static(b"0123456789"),
    )
}

/// A publish of `events` events to partition 0 of stream 1.
pub fn publish(request: u64, events: u32, producer: Option<(i64, i32)>) -> Publish {
    let producer = producer.map(|(id, sequence)| Producer {
        id: ProducerId(id),
        epoch: ProducerEpoch(0),
        sequence: Sequence::new(sequence).unwrap(),
    });
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some(producer) = producer {
        builder = builder.with_producer(producer);
    }
    for i in 0..events {
        let value = Some(Bytes::from(format!("event {i} of {request}")));
        builder.push(&Event { value, ..Event::default() }).unwrap();
    }
    Publish {
        request: RequestId(request),
        tenant: TenantId(1),
        stream: StreamId(1),
        partition: Partition(0),
        batch: builder.build().unwrap(),
        events,
        producer,
    }
}
