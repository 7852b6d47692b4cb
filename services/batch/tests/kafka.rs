//! Against another implementation of the format, in both directions.
#![allow(missing_docs)]

mod common;

use bytes::{Bytes, BytesMut};
use common::{build, codecs, events, producers, sample, sample_events};
use kafka_protocol::records::{
    Compression, Record as KafkaRecord, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType,
};
use meridian_batch::{Codec, Event, Limits, Producer, decode, stamped, validate};
use meridian_types::{LogEpoch, Offset};
use proptest::prelude::*;

fn compression(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

fn kafka_record(event: &Event, index: usize, base: i64, producer: Option<Producer>) -> KafkaRecord {
    KafkaRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: producer.map_or(-1, |p| p.id.0),
        producer_epoch: producer.map_or(-1, |p| p.epoch.0),
        timestamp_type: TimestampType::Creation,
        offset: base + index as i64,
        sequence: producer.map_or(-1, |p| p.sequence.get()).wrapping_add(index as i32),
        timestamp: event.timestamp.0 as i64,
        key: event.key.clone(),
        value: event.value.clone(),
        headers: event.headers.iter().map(|h| (h.key.clone().into(), h.value.clone())).collect(),
    }
}

fn kafka_encode(codec: Codec, records: &[KafkaRecord]) -> Bytes {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: compression(codec) };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes.freeze()
}

/// Kafka-protocol keeps headers in a map, so their keys have to differ.
fn unrepeated(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        for (i, header) in event.headers.iter_mut().enumerate() {
            header.key.push_str(&i.to_string());
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_it_encodes_we_take(events in events(), codec in codecs(), producer in producers(), base in 0..i64::MAX / 2) {
        let events = unrepeated(events);
        let records: Vec<_> =
            events.iter().enumerate().map(|(i, event)| kafka_record(event, i, base, producer)).collect();
        let batch = kafka_encode(codec, &records);

        let info = validate(&batch, &Limits::DEFAULT).unwrap();
        prop_assert_eq!(info.codec, codec);
        prop_assert_eq!(info.events as usize, events.len());
        prop_assert_eq!(info.producer, producer);
        prop_assert_eq!(Some(info.max_timestamp), events.iter().map(|e| e.timestamp).max());
        let (offsets, ours): (Vec<_>, Vec<_>) =
            decode(batch, &Limits::DEFAULT).unwrap().map(|r| (r.offset.0 as i64, r.event)).unzip();
        prop_assert_eq!(offsets, (base..base + events.len() as i64).collect::<Vec<_>>());
        prop_assert_eq!(ours, events);
    }

    #[test]
    fn what_we_encode_it_takes(events in events(), codec in codecs(), producer in producers(), base in 0..u64::MAX / 4) {
        let events = unrepeated(events);
        let mut batch = stamped(build(codec, producer, &events), Offset(base), LogEpoch(7));
        let theirs = RecordBatchDecoder::decode(&mut batch).unwrap();
        let expected: Vec<_> = events
            .iter()
            .enumerate()
            .map(|(i, event)| KafkaRecord {
                partition_leader_epoch: 7,
                ..kafka_record(event, i, base as i64, producer)
            })
            .collect();
        prop_assert_eq!(theirs.records, expected);
    }
}

/// Records that a codec does not shrink are left alone, so whether each codec is really met is not left to chance.
#[test]
fn every_codec_is_met_both_ways() {
    for codec in Codec::ALL {
        let mut batch = sample(codec);
        let theirs = RecordBatchDecoder::decode(&mut batch).unwrap();
        assert_eq!(theirs.compression, compression(codec));
        let again = kafka_encode(codec, &theirs.records);
        let ours = decode(again, &Limits::DEFAULT).unwrap();
        assert_eq!(ours.info().codec, codec);
        assert_eq!(ours.map(|r| r.event).collect::<Vec<_>>(), sample_events());
    }
}
