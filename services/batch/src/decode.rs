//! Batches back to events.

use std::borrow::Cow;
use std::iter::FusedIterator;

use bytes::Bytes;
use meridian_types::{Offset, Timestamp};

use crate::validate::open;
use crate::walk::Walk;
use crate::{BatchError, BatchInfo, BatchView, Event, Header, Limits, Record};

/// Validates a batch as [`validate`](crate::validate) does, then gives its records.
///
/// Keys and values are slices, never copies: of `bytes` if the batch is not compressed, else of its decompressed
/// records. One that is kept keeps all of them in memory.
///
/// # Errors
/// [`BatchError`], for the first thing that is wrong.
pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Records, BatchError> {
    let view = BatchView::new(&bytes)?;
    let (info, records) = open(&view, limits)?;
    let records = match records {
        Cow::Borrowed(records) => bytes.slice_ref(records),
        Cow::Owned(records) => Bytes::from(records),
    };
    Ok(Records {
        info,
        base_offset: view.base_offset(),
        base_timestamp: view.base_timestamp(),
        limits: *limits,
        records,
        at: 0,
        next: 0,
    })
}

/// The records of a batch that was found valid, in order of their offsets. Made one at a time: a batch of a million
/// tiny events is a few megabytes, but as many times its size once they are all made.
#[derive(Clone, Debug)]
pub struct Records {
    info: BatchInfo,
    base_offset: Offset,
    base_timestamp: i64,
    limits: Limits,
    records: Bytes,
    /// Where the next one begins.
    at: usize,
    next: u32,
}

impl Records {
    /// What the batch holds, also after records were taken.
    pub fn info(&self) -> &BatchInfo {
        &self.info
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.next == self.info.events {
            return None;
        }
        let mut headers = Vec::new();
        let slice = |part: Option<&[u8]>| part.map(|part| self.records.slice_ref(part));
        let mut walk = Walk::new(&self.records[self.at..], self.next, self.base_timestamp);
        let record = walk.next(&self.limits, |key, value| {
            headers.push(Header { key: key.to_owned(), value: slice(value) });
        });
        let record = match record {
            Ok(record) => record,
            // `decode` has walked these very bytes under these very limits, and they cannot change.
            Err(error) => unreachable!("valid a moment ago: {error}"),
        };
        let event = Event {
            key: slice(record.key),
            value: slice(record.value),
            headers,
            timestamp: Timestamp(record.timestamp.unsigned_abs()),
        };
        let offset = self.base_offset.plus(u64::from(self.next));
        self.at = self.records.len() - walk.rest().len();
        self.next += 1;
        Some(Record { offset, event })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.info.events - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Records {}
impl FusedIterator for Records {}
