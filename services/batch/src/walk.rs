//! The records of a batch, one after the other, with every length checked before it is believed.

use crate::varint::{self, VarintError};
use crate::{BatchError, Limits, MAX_TIMESTAMP, RecordFault};

/// One record, in place.
#[derive(Debug)]
pub(crate) struct RawRecord<'a> {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

/// Where a walk over uncompressed records is.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    rest: &'a [u8],
    index: u32,
    base_timestamp: i64,
}

impl<'a> Walk<'a> {
    /// Before record `index`, which begins at `records`. `base_timestamp` is a time.
    pub(crate) fn new(records: &'a [u8], index: u32, base_timestamp: i64) -> Self {
        Self { rest: records, index, base_timestamp }
    }

    /// What has not been walked yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads the next record, and calls `header` with each of its headers. Allocates nothing.
    pub(crate) fn next(
        &mut self,
        limits: &Limits,
        mut header: impl FnMut(&'a str, Option<&'a [u8]>),
    ) -> Result<RawRecord<'a>, BatchError> {
        let index = self.index;
        let at = |fault| BatchError::Record { index, fault };

        let mut records = Fields(self.rest);
        let length = records.length("length").map_err(at)?;
        let mut fields = Fields(records.take("length", length).map_err(at)?);

        let attributes = fields.byte("attributes").map_err(at)?;
        if attributes != 0 {
            return Err(at(RecordFault::Attributes(attributes)));
        }
        let timestamp = fields.timestamp(self.base_timestamp).map_err(at)?;
        let delta = fields.varint("offset delta").map_err(at)?;
        if u32::try_from(delta) != Ok(index) {
            return Err(at(RecordFault::OffsetDelta(delta)));
        }
        let key = fields.nullable("key length").map_err(at)?;
        let value = fields.nullable("value length").map_err(at)?;
        let mut bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);

        let headers = fields.length("count of headers").map_err(at)?;
        if headers > limits.event_headers {
            return Err(BatchError::TooManyHeaders { index, headers, limit: limits.event_headers });
        }
        for _ in 0..headers {
            let length = fields.length("length of a header's key").map_err(at)?;
            let key = fields.take("length of a header's key", length).map_err(at)?;
            let key = std::str::from_utf8(key).map_err(|_| at(RecordFault::HeaderKey))?;
            let value = fields.nullable("length of a header's value").map_err(at)?;
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            header(key, value);
        }
        if !fields.0.is_empty() {
            return Err(at(RecordFault::Tail(fields.0.len())));
        }
        if bytes > limits.event_bytes {
            return Err(BatchError::EventTooLarge { index, bytes, limit: limits.event_bytes });
        }
        self.rest = records.0;
        self.index += 1;
        Ok(RawRecord { timestamp, key, value })
    }
}

/// The bytes that are left of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self, field: &'static str) -> Result<u8, RecordFault> {
        let (&byte, rest) = self.0.split_first().ok_or(RecordFault::CutShort(field))?;
        self.0 = rest;
        Ok(byte)
    }

    fn varint(&mut self, field: &'static str) -> Result<i32, RecordFault> {
        varint::read_i32(&mut self.0).map_err(|error| fault(error, field))
    }

    fn timestamp(&mut self, base: i64) -> Result<i64, RecordFault> {
        let delta = varint::read_i64(&mut self.0).map_err(|error| fault(error, "timestamp delta"))?;
        base.checked_add(delta)
            .filter(|time| (0..=MAX_TIMESTAMP).contains(time))
            .ok_or(RecordFault::Timestamp(i128::from(base) + i128::from(delta)))
    }

    /// A length or count that may not be null.
    fn length(&mut self, field: &'static str) -> Result<usize, RecordFault> {
        let length = self.varint(field)?;
        usize::try_from(length).map_err(|_| RecordFault::Negative { field, length })
    }

    fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], RecordFault> {
        let left = self.0.len();
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(RecordFault::Beyond { field, length, left })?;
        self.0 = rest;
        Ok(taken)
    }

    /// Bytes behind their length, of which −1 means null.
    fn nullable(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, RecordFault> {
        match self.varint(field)? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| RecordFault::Negative { field, length })?;
                self.take(field, length).map(Some)
            }
        }
    }
}

fn fault(error: VarintError, field: &'static str) -> RecordFault {
    match error {
        VarintError::CutShort => RecordFault::CutShort(field),
        VarintError::Overflow => RecordFault::Varint(field),
    }
}
