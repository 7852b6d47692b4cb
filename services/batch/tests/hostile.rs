//! Batches that lie, one lie each, all with a right CRC: each is refused with the error that names the lie.
#![allow(missing_docs)]

mod common;

use bytes::{BufMut, Bytes};
use common::{TINY, raw, sample, seal};
use meridian_batch::layout::{
    ATTRIBUTES, BASE_OFFSET, BASE_SEQUENCE, BASE_TIMESTAMP, LAST_OFFSET_DELTA, MAX_TIMESTAMP, PRODUCER_EPOCH,
    PRODUCER_ID, RECORDS_COUNT,
};
use meridian_batch::{BatchError, Codec, Limits, RecordFault, decode, validate};

/// The verdict of both ways in, which must be one.
fn verdict(batch: &[u8]) -> BatchError {
    let error = validate(batch, &Limits::DEFAULT).expect_err("a lie");
    let decoded = decode(Bytes::copy_from_slice(batch), &Limits::DEFAULT).expect_err("a lie");
    assert_eq!(decoded, error);
    assert!(!error.to_string().is_empty());
    error
}

/// A sealed batch of one event with this field overwritten.
fn with(at: usize, field: &[u8]) -> BatchError {
    let mut batch = raw(0, 1, &TINY);
    batch[at..at + field.len()].copy_from_slice(field);
    seal(&mut batch);
    verdict(&batch)
}

/// The fault of a batch of one such record.
fn fault(record: &[u8]) -> RecordFault {
    match verdict(&raw(0, 1, record)) {
        BatchError::Record { index: 0, fault } => fault,
        other => panic!("{other:?}"),
    }
}

/// A record of this body, with its right length.
fn framed(body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 64);
    [&[body.len() as u8 * 2], body].concat()
}

#[test]
fn attributes() {
    let attributes = |bits: i16| verdict(&raw(bits, 1, &TINY));
    for id in 5..=7 {
        assert_eq!(attributes(id), BatchError::UnknownCodec(id as u8));
    }
    assert_eq!(attributes(1 << 3), BatchError::LogAppendTime);
    assert_eq!(attributes(1 << 4), BatchError::Transactional);
    assert_eq!(attributes(1 << 5), BatchError::Control);
    assert_eq!(attributes(1 << 4 | 1 << 5), BatchError::Control);
    for bit in 6..16 {
        assert_eq!(attributes((1u16 << bit) as i16), BatchError::UnknownAttributes((1u16 << bit) as i16));
    }
}

#[test]
fn other_magics() {
    for magic in [0u8, 1, 3, 255] {
        let mut batch = raw(0, 1, &TINY);
        batch[16] = magic;
        assert_eq!(verdict(&batch), BatchError::Magic(magic as i8));
    }
}

#[test]
fn counts() {
    for count in [0, -1, i32::MIN] {
        assert_eq!(verdict(&raw(0, count, &TINY)), BatchError::Empty(count));
    }
    let limit = Limits::DEFAULT.events;
    for count in [limit as i32 + 1, i32::MAX] {
        assert_eq!(
            verdict(&raw(0, count, &TINY)),
            BatchError::TooManyEvents { events: count as usize, limit }
        );
    }
    // One more than there are, a million more, one less.
    let short = |index| BatchError::Record { index, fault: RecordFault::CutShort("length") };
    assert_eq!(verdict(&raw(0, 2, &TINY)), short(1));
    assert_eq!(verdict(&raw(0, limit as i32, &TINY)), short(1));
    let second = [12, 0, 0, 2, 1, 1, 0];
    assert_eq!(
        verdict(&raw(0, 1, &[TINY, second].concat())),
        BatchError::RecordsTail { bytes: 7, events: 1 }
    );
    assert!(validate(&raw(0, 2, &[TINY, second].concat()), &Limits::DEFAULT).is_ok());
    // The header against itself.
    assert_eq!(
        with(LAST_OFFSET_DELTA, &1i32.to_be_bytes()),
        BatchError::LastOffsetDelta { delta: 1, events: 1 }
    );
    assert_eq!(with(RECORDS_COUNT, &2i32.to_be_bytes()), BatchError::LastOffsetDelta { delta: 0, events: 2 });
}

#[test]
fn offsets() {
    for base in [-1, i64::MIN, i64::MAX] {
        assert_eq!(with(BASE_OFFSET, &base.to_be_bytes()), BatchError::BaseOffset(base));
    }
    assert_eq!(fault(&framed(&[0, 0, 2, 1, 1, 0])), RecordFault::OffsetDelta(1));
    assert_eq!(fault(&framed(&[0, 0, 1, 1, 1, 0])), RecordFault::OffsetDelta(-1));
    let twice = raw(0, 2, &[TINY, TINY].concat());
    assert_eq!(verdict(&twice), BatchError::Record { index: 1, fault: RecordFault::OffsetDelta(0) });
}

#[test]
fn producers() {
    let fields = |id: i64, epoch: i16, sequence: i32| {
        let mut batch = raw(0, 1, &TINY);
        batch[PRODUCER_ID..PRODUCER_ID + 8].copy_from_slice(&id.to_be_bytes());
        batch[PRODUCER_EPOCH..PRODUCER_EPOCH + 2].copy_from_slice(&epoch.to_be_bytes());
        batch[BASE_SEQUENCE..BASE_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        seal(&mut batch);
        batch
    };
    for (id, epoch, sequence) in [
        (5, -1, -1),
        (-1, 0, -1),
        (-1, -1, 0),
        (5, 0, -1),
        (5, -1, 0),
        (-1, 0, 0),
        (-2, -2, -2),
        (-2, -1, -1),
        (-1, -1, -2),
    ] {
        assert_eq!(verdict(&fields(id, epoch, sequence)), BatchError::Producer { id, epoch, sequence });
    }
    let good = validate(&fields(i64::MAX, i16::MAX, i32::MAX), &Limits::DEFAULT).unwrap().producer.unwrap();
    assert_eq!((good.id.0, good.epoch.0, good.sequence.get()), (i64::MAX, i16::MAX, i32::MAX));
}

#[test]
fn timestamps() {
    for base in [-1, 1 << 48, i64::MAX, i64::MIN] {
        assert_eq!(with(BASE_TIMESTAMP, &base.to_be_bytes()), BatchError::BaseTimestamp(base));
    }
    for max in [1, -1, i64::MAX] {
        assert_eq!(
            with(MAX_TIMESTAMP, &max.to_be_bytes()),
            BatchError::MaxTimestamp { stored: max, computed: 0 }
        );
    }
    assert_eq!(fault(&framed(&[0, 1, 0, 1, 1, 0])), RecordFault::Timestamp(-1));
    let mut huge = vec![0, 0xfe];
    huge.extend([0xff; 8]);
    huge.extend([1, 0, 1, 1, 0]);
    assert_eq!(fault(&framed(&huge)), RecordFault::Timestamp(i128::from(i64::MAX)));
}

#[test]
fn lengths() {
    use RecordFault::{Beyond, CutShort, Negative, Tail, Varint};
    assert_eq!(fault(&[]), CutShort("length"));
    assert_eq!(fault(&[1]), Negative { field: "length", length: -1 });
    assert_eq!(fault(&[0]), CutShort("attributes"));
    assert_eq!(fault(&[14, 0, 0, 0, 1, 1, 0]), Beyond { field: "length", length: 7, left: 6 });
    assert_eq!(
        fault(&[0xfe, 0xff, 0xff, 0xff, 0x0f]),
        Beyond { field: "length", length: i32::MAX as usize, left: 0 }
    );
    assert_eq!(fault(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Negative { field: "length", length: i32::MIN });
    assert_eq!(fault(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Varint("length"));
    assert_eq!(fault(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]), Varint("length"));
    // A length that ends before the last field, and one that leaves something after it.
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 1])), CutShort("count of headers"));
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 1, 0, 9])), Tail(1));
    assert_eq!(fault(&framed(&[1, 0, 0, 1, 1, 0])), RecordFault::Attributes(1));
    assert_eq!(fault(&framed(&[0, 0, 0, 3, 1, 0])), Negative { field: "key length", length: -2 });
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 5, 0])), Negative { field: "value length", length: -3 });
    assert_eq!(fault(&framed(&[0, 0, 0, 8, 1, 0])), Beyond { field: "key length", length: 4, left: 2 });
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 1, 1])), Negative { field: "count of headers", length: -1 });
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 1, 4])), CutShort("length of a header's key"));
    assert_eq!(
        fault(&framed(&[0, 0, 0, 1, 1, 2, 1, 1])),
        Negative { field: "length of a header's key", length: -1 }
    );
    assert_eq!(
        fault(&framed(&[0, 0, 0, 1, 1, 2, 2, b'h', 3])),
        Negative { field: "length of a header's value", length: -2 }
    );
    assert_eq!(fault(&framed(&[0, 0, 0, 1, 1, 2, 2, 0xff, 1])), RecordFault::HeaderKey);
    let mut endless = vec![0];
    endless.extend([0xff; 12]);
    assert_eq!(fault(&framed(&endless)), Varint("timestamp delta"));
}

#[test]
fn too_many_headers() {
    let headers = i32::MAX as usize;
    let record = framed(&[0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(
        verdict(&raw(0, 1, &record)),
        BatchError::TooManyHeaders { index: 0, headers, limit: Limits::DEFAULT.event_headers }
    );
}

#[test]
fn too_large() {
    let batch = sample(Codec::None);
    let bytes = batch.len();
    let tight = Limits { batch_bytes: bytes - 1, ..Limits::DEFAULT };
    assert_eq!(validate(&batch, &tight), Err(BatchError::TooLarge { bytes, limit: bytes - 1 }));
    let event = Limits { event_bytes: 100, ..Limits::DEFAULT };
    for codec in Codec::ALL {
        let batch = sample(codec);
        assert!(matches!(
            validate(&batch, &event),
            Err(BatchError::EventTooLarge { index: 0, bytes: 258, limit: 100 })
        ));
        let records = validate(&batch, &Limits::DEFAULT).unwrap().uncompressed_bytes;
        let exact = Limits { uncompressed_bytes: records, ..Limits::DEFAULT };
        assert!(validate(&batch, &exact).is_ok(), "{codec}: the cap itself is allowed");
        let less = Limits { uncompressed_bytes: records - 1, ..Limits::DEFAULT };
        assert_eq!(validate(&batch, &less), Err(BatchError::Uncompressed { limit: records - 1 }), "{codec}");
    }
}

#[test]
fn streams_that_are_not_what_they_claim() {
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
        let id = i16::from(codec.id());
        for nonsense in [&b""[..], b"\0", b"nonsense, and not a stream of any codec", &[0xff; 64]] {
            let error = verdict(&raw(id, 1, nonsense));
            assert!(
                matches!(error, BatchError::Decompress { .. } | BatchError::Record { .. }),
                "{codec}: {error:?}"
            );
        }
        // One whole stream, then a second, or a byte.
        let stream = sample(codec)[61..].to_vec();
        for tail in [&stream[..], &[0]] {
            let longer = [&stream[..], tail].concat();
            let mut batch = sample(codec)[..61].to_vec();
            batch.put_slice(&longer);
            seal(&mut batch);
            let error = verdict(&batch);
            assert!(
                matches!(error, BatchError::CompressedTail { .. } | BatchError::Decompress { .. }),
                "{codec}: {error:?}"
            );
        }
    }
}

#[test]
fn bare_snappy_is_read_too() {
    let framed = sample(Codec::Snappy);
    let records = &sample(Codec::None)[61..];
    let mut bare = framed[..61].to_vec();
    // One literal: the length, a tag that says "61 bits follow: two bytes of length", the length less one, the bytes.
    bare.put_slice(&[records.len() as u8 | 0x80, (records.len() >> 7) as u8]);
    bare.put_u8(61 << 2);
    bare.put_u16_le(records.len() as u16 - 1);
    bare.put_slice(records);
    seal(&mut bare);
    let events = |batch: Bytes| decode(batch, &Limits::DEFAULT).unwrap().map(|r| r.event).collect::<Vec<_>>();
    assert_eq!(events(bare.into()), events(framed));
}

#[test]
fn lz4_frames_that_kafka_does_not_read() {
    let good = sample(Codec::Lz4);
    assert_eq!(good[61 + 4] & 0b0010_0000, 0b0010_0000, "independent blocks");
    let mut linked = good.to_vec();
    linked[61 + 4] &= !0b0010_0000;
    seal(&mut linked);
    assert!(verdict(&linked).to_string().contains("independent"));
    let mut endless = good[..good.len() - 4].to_vec();
    seal(&mut endless);
    assert!(verdict(&endless).to_string().contains("end mark"));
    let mut legacy = good.to_vec();
    legacy[61..65].copy_from_slice(&0x184C_2102_u32.to_le_bytes());
    seal(&mut legacy);
    assert!(verdict(&legacy).to_string().contains("no LZ4 frame"));
}

#[test]
fn attributes_say_none_but_records_are_compressed() {
    let mut batch = sample(Codec::Zstd).to_vec();
    batch[ATTRIBUTES + 1] = 0;
    seal(&mut batch);
    assert!(matches!(verdict(&batch), BatchError::Record { .. }));
}
