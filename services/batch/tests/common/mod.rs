//! What the tests of this crate share: events to choose from, and batches that lie.
#![allow(dead_code, missing_docs)] // Each test binary uses its own part.

use bytes::{BufMut, Bytes};
use meridian_batch::layout::{ATTRIBUTES, BATCH_LENGTH, CRC, HEADER_BYTES, MAGIC};
use meridian_batch::{BatchBuilder, Codec, Event, Header, MAX_TIMESTAMP, Producer, Sequence};
use meridian_types::{ProducerEpoch, ProducerId, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub fn codecs() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&Codec::ALL[..])
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    // Runs, so that every codec has something to do; sizes on both sides of one varint byte and of a codec's block.
    (vec(any::<u8>(), 0..40), prop_oneof![8 => 0..8usize, 1 => 1000..3000usize])
        .prop_map(|(unit, times)| Bytes::from(unit.repeat(times)))
}

fn header() -> impl Strategy<Value = Header> {
    ("[a-zé-]{0,12}", option::of(some_bytes())).prop_map(|(key, value)| Header { key, value })
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    let last = MAX_TIMESTAMP as u64;
    prop_oneof![Just(0), Just(last), 0..=last, 1_700_000_000_000..1_700_000_100_000u64].prop_map(Timestamp)
}

pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (option::of(some_bytes()), option::of(some_bytes()), vec(header(), 0..4), timestamp())
        .prop_map(|(key, value, headers, timestamp)| Event { key, value, headers, timestamp });
    vec(event, 1..20)
}

pub fn producers() -> impl Strategy<Value = Option<Producer>> {
    option::of((0..i64::MAX, 0..i16::MAX, 0..=i32::MAX).prop_map(|(id, epoch, sequence)| Producer {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        sequence: Sequence::new(sequence).unwrap(),
    }))
}

pub fn build(codec: Codec, producer: Option<Producer>, events: &[Event]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    if let Some(producer) = producer {
        builder = builder.with_producer(producer);
    }
    for event in events {
        builder.push(event).unwrap();
    }
    builder.build().unwrap()
}

/// Three events that every codec makes smaller.
pub fn sample_events() -> Vec<Event> {
    (0..3u8)
        .map(|n| Event {
            key: Some(Bytes::from(format!("key-{n}"))),
            value: Some(Bytes::from("a value that repeats itself, ".repeat(8))),
            headers: vec![Header { key: "trace".into(), value: Some(Bytes::from(vec![n; 16])) }],
            timestamp: Timestamp(1_700_000_000_000 + u64::from(n)),
        })
        .collect()
}

/// [`sample_events`], really compressed with the codec.
pub fn sample(codec: Codec) -> Bytes {
    let batch = build(codec, None, &sample_events());
    assert_eq!(batch[ATTRIBUTES + 1], codec.id());
    batch
}

/// Makes length, magic and CRC right, as a liar would.
pub fn seal(batch: &mut [u8]) {
    let length = (batch.len() - 12) as i32;
    batch[BATCH_LENGTH..BATCH_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    batch[MAGIC] = 2;
    let crc = crc32c(&batch[ATTRIBUTES..]);
    batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
}

/// CRC-32C, a bit at a time: another implementation than the one under test.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A sealed batch of `count` events at time 0 around whatever `records` are.
pub fn raw(attributes: i16, count: i32, records: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(HEADER_BYTES + records.len());
    batch.put_bytes(0, ATTRIBUTES);
    batch.put_i16(attributes);
    batch.put_i32(count.wrapping_sub(1));
    batch.put_i64(0);
    batch.put_i64(0);
    batch.put_i64(-1);
    batch.put_i16(-1);
    batch.put_i32(-1);
    batch.put_i32(count);
    batch.put_slice(records);
    seal(&mut batch);
    batch
}

/// The shortest record there is: no key, no value, no headers.
pub const TINY: [u8; 7] = [12, 0, 0, 0, 1, 1, 0];
