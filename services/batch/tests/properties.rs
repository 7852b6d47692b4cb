//! What holds for every batch.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{TINY, build, codecs, events, producers, raw, sample, sample_events, seal};
use meridian_batch::layout::{ATTRIBUTES, BATCH_LENGTH, CRC, LEADER_EPOCH, MAGIC};
use meridian_batch::{
    BatchBuilder, BatchError, BatchView, Codec, Event, HEADER_BYTES, Limits, decode, stamp, stamped, validate,
};
use meridian_types::{LogEpoch, Offset, Timestamp};
use proptest::prelude::*;

const LIMITS: Limits = Limits::DEFAULT;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn comes_back_as_it_was(events in events(), codec in codecs(), producer in producers()) {
        let batch = build(codec, producer, &events);
        let info = validate(&batch, &LIMITS).unwrap();
        prop_assert_eq!(info.events as usize, events.len());
        prop_assert_eq!(info.producer, producer);
        let records = decode(batch, &LIMITS).unwrap();
        prop_assert_eq!(records.info(), &info);
        prop_assert_eq!(records.len(), events.len());
        prop_assert_eq!(records.map(|r| r.event).collect::<Vec<_>>(), events);
    }

    #[test]
    fn a_sealed_lie_never_panics(
        events in events(), codec in codecs(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut batch = build(codec, None, &events).to_vec();
        for (at, byte) in hits {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        if let Some(cut) = cut {
            batch.truncate(HEADER_BYTES + cut.index(batch.len() - HEADER_BYTES));
        }
        seal(&mut batch);
        if let Ok(info) = validate(&batch, &LIMITS) {
            let records: Vec<_> = decode(batch.into(), &LIMITS).unwrap().collect();
            prop_assert_eq!(records.len(), info.events as usize);
            prop_assert_eq!(records.iter().map(|r| r.event.timestamp).max(), Some(info.max_timestamp));
        }
    }

    #[test]
    fn stamping_changes_two_fields(codec in codecs(), base in 0..i64::MAX as u64 / 2, epoch: u32) {
        let before = sample(codec);
        let mut after = before.to_vec();
        stamp(&mut after, Offset(base), LogEpoch(epoch));
        prop_assert_eq!(&after[8..12], &before[8..12]);
        prop_assert_eq!(&after[16..], &before[16..]);
        let view = BatchView::new(&after).unwrap();
        prop_assert_eq!((view.base_offset(), view.partition_leader_epoch()), (Offset(base), LogEpoch(epoch)));
        prop_assert_eq!(validate(&after, &LIMITS), validate(&before, &LIMITS));

        let shared = before.clone();
        prop_assert_eq!(&stamped(before, Offset(base), LogEpoch(epoch))[..], &after[..]);
        prop_assert_eq!(shared, sample(codec), "those who share the bytes see no change");

        let offsets: Vec<_> = decode(after.into(), &LIMITS).unwrap().map(|r| r.offset).collect();
        prop_assert_eq!(offsets, [Offset(base), Offset(base + 1), Offset(base + 2)]);
    }
}

#[test]
fn every_flipped_bit_is_seen_where_the_crc_covers_it() {
    for codec in Codec::ALL {
        let batch = sample(codec);
        let info = validate(&batch, &LIMITS).unwrap();
        let events: Vec<_> = decode(batch.clone(), &LIMITS).unwrap().map(|r| r.event).collect();
        for bit in 0..batch.len() * 8 {
            let at = bit / 8;
            let mut bad = batch.to_vec();
            bad[at] ^= 1 << (bit % 8);
            let verdict = validate(&bad, &LIMITS);
            match at {
                // A negative offset, or one with no room for the events after it, is refused; others are as good.
                0..BATCH_LENGTH if verdict.is_err() => {
                    assert!(matches!(verdict, Err(BatchError::BaseOffset(_))), "bit {bit}: {verdict:?}");
                }
                0..BATCH_LENGTH | LEADER_EPOCH..MAGIC => {
                    assert_eq!(verdict, Ok(info), "bit {bit}");
                    let got: Vec<_> = decode(bad.into(), &LIMITS).unwrap().map(|r| r.event).collect();
                    assert_eq!(got, events, "bit {bit}");
                }
                BATCH_LENGTH..LEADER_EPOCH => {
                    assert!(matches!(verdict, Err(BatchError::Length { .. })), "bit {bit}: {verdict:?}");
                }
                MAGIC => assert!(matches!(verdict, Err(BatchError::Magic(_))), "bit {bit}: {verdict:?}"),
                CRC.. => assert!(matches!(verdict, Err(BatchError::Crc { .. })), "bit {bit}: {verdict:?}"),
            }
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_refused() {
    for codec in Codec::ALL {
        let batch = sample(codec);
        for len in 0..batch.len() {
            let verdict = validate(&batch[..len], &LIMITS);
            assert!(
                matches!(verdict, Err(BatchError::CutShort { .. } | BatchError::Length { .. })),
                "{codec} {len}: {verdict:?}"
            );
            // The same cut by someone who knows how to seal it.
            if len >= HEADER_BYTES {
                let mut cut = batch[..len].to_vec();
                seal(&mut cut);
                assert!(validate(&cut, &LIMITS).is_err(), "{codec} cut to {len} and sealed");
            }
        }
        let twice = [&batch[..], &batch[..]].concat();
        assert!(
            matches!(validate(&twice, &LIMITS), Err(BatchError::Length { .. })),
            "two batches are not one"
        );
        let mut longer = [&batch[..], &[0]].concat();
        seal(&mut longer);
        assert!(validate(&longer, &LIMITS).is_err(), "{codec} with a byte more, sealed");
    }
}

#[test]
fn keys_and_values_are_slices_of_what_was_given() {
    let batch = sample(Codec::None);
    let within = batch.as_ptr_range();
    for record in decode(batch.clone(), &LIMITS).unwrap() {
        let value = record.event.value.unwrap();
        assert!(within.contains(&value.as_ptr()));
    }
}

#[test]
fn the_bytes_are_pinned() {
    let event = Event {
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"v")),
        headers: vec![],
        timestamp: Timestamp(1),
    };
    let batch = build(Codec::None, None, &[event]);
    let mut golden = vec![0; 8]; // baseOffset
    golden.extend([0, 0, 0, 58]); // batchLength
    golden.extend([0; 4]); // partitionLeaderEpoch
    golden.push(2); // magic
    golden.extend(&batch[CRC..ATTRIBUTES]); // sealed below
    golden.extend([0, 0]); // attributes
    golden.extend([0; 4]); // lastOffsetDelta
    golden.extend([0, 0, 0, 0, 0, 0, 0, 1]); // baseTimestamp
    golden.extend([0, 0, 0, 0, 0, 0, 0, 1]); // maxTimestamp
    golden.extend([0xff; 14]); // producerId, producerEpoch, baseSequence
    golden.extend([0, 0, 0, 1]); // recordsCount
    golden.extend([16, 0, 0, 0, 2, b'k', 2, b'v', 0]);
    seal(&mut golden);
    assert_eq!(&batch[..], golden);
}

#[test]
fn a_codec_that_does_not_help_is_left_out() {
    let event = Event { value: Some(Bytes::from_static(b"short")), ..Event::default() };
    for codec in Codec::ALL {
        let batch = build(codec, None, std::slice::from_ref(&event));
        assert_eq!(validate(&batch, &LIMITS).unwrap().codec, Codec::None);
    }
}

#[test]
fn a_full_builder_says_so_and_stays_as_it_was() {
    let event = Event { value: Some(Bytes::from(vec![7; 1000])), ..Event::default() };
    let by_bytes = Limits { batch_bytes: 5_000, ..LIMITS };
    let by_records = Limits { uncompressed_bytes: 5_000, ..LIMITS };
    let by_events = Limits { events: 4, ..LIMITS };
    for limits in [by_bytes, by_records, by_events] {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new(codec).with_limits(limits);
            let error = loop {
                if let Err(error) = builder.push(&event) {
                    break error;
                }
            };
            assert!(error.is_full(), "{error}");
            assert_eq!(builder.events(), 4);
            let bytes = builder.bytes();
            let batch = builder.build().unwrap();
            assert!(batch.len() <= bytes);
            assert_eq!(validate(&batch, &limits).unwrap().events, 4);
        }
    }
}

#[test]
fn the_builder_takes_exactly_what_is_allowed() {
    let limits = Limits { event_bytes: 100, event_headers: 1, ..LIMITS };
    let push = |event: &Event| BatchBuilder::new(Codec::None).with_limits(limits).push(event);
    let mut event = sample_events().remove(0);
    event.value = Some(Bytes::from(vec![0; 100 - 5 - 5 - 16]));
    assert_eq!(event.bytes(), 100);
    push(&event).unwrap();
    event.key = Some(Bytes::from_static(b"key-00"));
    assert_eq!(push(&event), Err(BatchError::EventTooLarge { index: 0, bytes: 101, limit: 100 }));
    event.headers = vec![Default::default(); 2];
    assert_eq!(push(&event), Err(BatchError::TooManyHeaders { index: 0, headers: 2, limit: 1 }));
    let late = Event { timestamp: Timestamp(1 << 48), ..Event::default() };
    assert!(matches!(push(&late), Err(BatchError::Record { .. })));
    assert!(!push(&late).unwrap_err().is_full());
    assert_eq!(BatchBuilder::new(Codec::None).build(), Err(BatchError::Empty(0)));
}

#[test]
fn the_tiniest_batch() {
    let batch = raw(0, 1, &TINY);
    assert_eq!(&batch[..], &build(Codec::None, None, &[Event::default()])[..]);
    assert_eq!(validate(&batch, &LIMITS).unwrap().uncompressed_bytes, TINY.len());
}
