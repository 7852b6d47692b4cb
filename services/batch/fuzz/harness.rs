//! What must hold for any input: shared by the fuzz targets and by `tests/seeded.rs`.
#![allow(dead_code, missing_docs)] // Each target uses its own part.

use bytes::Bytes;
use meridian_batch::layout::{ATTRIBUTES, BATCH_LENGTH, CRC, MAGIC};
use meridian_batch::{
    BatchBuilder, BatchView, Codec, Event, HEADER_BYTES, Header, Limits, MAX_TIMESTAMP, Producer, Sequence,
    decode, validate,
};
use meridian_types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// Small, so that they are met.
const LIMITS: Limits = Limits {
    batch_bytes: 64 * 1024,
    uncompressed_bytes: 96 * 1024,
    event_bytes: 8 * 1024,
    event_headers: 16,
    events: 500,
};

/// Any bytes at all: judged as they are, and again after someone has made length, magic and CRC right.
pub fn any_bytes(data: &[u8]) {
    judge(data);
    if data.len() >= HEADER_BYTES {
        let mut sealed = data.to_vec();
        seal(&mut sealed);
        judge(&sealed);
    }
}

/// Makes length, magic and CRC right. The bytes hold a header.
pub fn seal(batch: &mut [u8]) {
    let length = (batch.len() - (BATCH_LENGTH + 4)) as i32;
    batch[BATCH_LENGTH..BATCH_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    batch[MAGIC] = 2;
    let Ok(view) = BatchView::new(batch) else { panic!("length and magic are right") };
    let crc = view.computed_crc();
    batch[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
}

/// Both ways in agree; what is taken keeps the limits, counts up from its base, and can be made again.
fn judge(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let info = match (validate(data, &LIMITS), decode(bytes.clone(), &LIMITS)) {
        (Ok(info), Ok(records)) => {
            assert_eq!(records.info(), &info);
            info
        }
        (Err(error), Err(again)) => {
            assert_eq!(error, again);
            assert!(!error.to_string().is_empty());
            return;
        }
        (judged, decoded) => panic!("two verdicts: {judged:?}, {decoded:?}"),
    };
    assert!(data.len() <= LIMITS.batch_bytes && info.uncompressed_bytes <= LIMITS.uncompressed_bytes);
    let Ok(view) = BatchView::new(data) else { panic!("validated, but not a batch") };
    let Offset(base) = view.base_offset();
    let Ok(records) = decode(bytes, &LIMITS) else { panic!("taken once, refused then") };
    let records: Vec<_> = records.collect();
    assert_eq!(records.len(), info.events as usize);
    assert!(records.iter().map(|r| r.offset.0).eq(base..base + u64::from(info.events)));
    assert!(records.iter().all(|r| r.event.bytes() <= LIMITS.event_bytes));
    assert_eq!(records.iter().map(|r| r.event.timestamp).max(), Some(info.max_timestamp));
    let events: Vec<_> = records.into_iter().map(|r| r.event).collect();
    again(info.codec, info.producer, &events);
}

/// Encodes and decodes. Other deltas than before can make the batch a little larger than it was.
fn again(codec: Codec, producer: Option<Producer>, events: &[Event]) {
    let limits = Limits { batch_bytes: 1024 * 1024, uncompressed_bytes: 1024 * 1024, ..LIMITS };
    let mut builder = BatchBuilder::new(codec).with_limits(limits);
    if let Some(producer) = producer {
        builder = builder.with_producer(producer);
    }
    for event in events {
        if let Err(error) = builder.push(event) {
            panic!("an event within the limits was refused: {error}");
        }
    }
    let batch = match builder.build() {
        Ok(batch) => batch,
        Err(error) => panic!("a batch within the limits was refused: {error}"),
    };
    match decode(batch, &limits) {
        Ok(records) => {
            assert_eq!(records.info().producer, producer);
            assert!(records.map(|r| r.event).eq(events.iter().cloned()));
        }
        Err(error) => panic!("what was built was refused: {error}"),
    }
}

/// Events chosen by the input: encoded, decoded, compared.
pub fn round_trip(data: &[u8]) {
    let mut source = Source(data);
    let codec = Codec::ALL[usize::from(source.byte()) % Codec::ALL.len()];
    let producer = (source.byte() % 2 == 0).then(|| Producer {
        id: ProducerId(source.number(6) as i64),
        epoch: ProducerEpoch(source.number(1) as i16),
        sequence: Sequence::ZERO.plus(source.number(4) as u32),
    });
    let mut events = vec![source.event()];
    while !source.0.is_empty() && events.len() < 100 {
        events.push(source.event());
    }
    again(codec, producer, &events);
}

/// Choices, read from the input; zeros once it has ended.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn taken(&mut self, most: usize) -> &[u8] {
        let length = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    /// Null, or some bytes a number of times over, so that codecs have something to do.
    fn part(&mut self) -> Option<Bytes> {
        let times = usize::from(self.byte() % 50);
        (times > 0).then(|| Bytes::from(self.taken(32).repeat(times - 1)))
    }

    fn event(&mut self) -> Event {
        let timestamp = Timestamp(self.number(6).min(MAX_TIMESTAMP as u64));
        let headers = (0..self.byte() % 4)
            .map(|_| Header { key: String::from_utf8_lossy(self.taken(16)).into_owned(), value: self.part() })
            .collect();
        Event { key: self.part(), value: self.part(), headers, timestamp }
    }
}
