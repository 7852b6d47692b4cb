//! The values of the catalogue and their codecs. [`keys`](super::keys) draws the layouts.

use meridian_types::{
    Hlc, Lane, LogEpoch, Offset, ProducerEpoch, Seq, ShardId, ShardNo, TenantId, Timestamp,
};

use super::keys::Family;
use crate::{Chain, Place};

/// How many batches of a producer are remembered, as in Kafka: a client has at most five in flight.
pub const PRODUCER_BATCHES: usize = 5;

/// The last frame of a shard that the index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedMark {
    /// Its seq.
    pub seq: Seq,
    /// Its log epoch.
    pub log_epoch: LogEpoch,
    /// Its hlc.
    pub hlc: Hlc,
    /// Its chain: what the next frame must follow.
    pub chain: Chain,
}

/// What the applied frames of a lane add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneState {
    /// The shard that the lane lives in.
    pub shard: ShardId,
    /// The tenant whose stream it is.
    pub tenant: TenantId,
    /// The first offset that is kept.
    pub start: Offset,
    /// The offset that the next event gets.
    pub end: Offset,
    /// The hlc of the last batch.
    pub last_hlc: Hlc,
    /// The highest timestamp in the last batch.
    pub last_timestamp: Timestamp,
    /// The highest timestamp in any batch.
    pub max_timestamp: Timestamp,
    /// Payload bytes, from offset 0.
    pub bytes: u64,
    /// Events, from offset 0.
    pub events: u64,
}

/// One of the last batches of a producer, to answer a retry of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedBatch {
    /// The sequence of its first event.
    pub first_sequence: i32,
    /// The sequence of its last event.
    pub last_sequence: i32,
    /// The offset that its first event got.
    pub base_offset: Offset,
    /// Its frame.
    pub seq: Seq,
    /// Its frame's hlc.
    pub hlc: Hlc,
}

/// What is known of a producer in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The highest epoch it wrote in.
    pub epoch: ProducerEpoch,
    /// Its last batches in that epoch, at most [`PRODUCER_BATCHES`], newest last.
    pub batches: Vec<RememberedBatch>,
}

/// What a tenant has stored in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events.
    pub events: u64,
    /// Payload bytes.
    pub bytes: u64,
}

/// The most frames in a row of `places` or `offsets`: whoever looks for one reads them all.
pub(super) const ROW_FRAMES: usize = 64;

/// A row of `places`: where frames lie that follow each other in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlacesRow(pub Vec<Place>);

/// A row of `offsets`: frames that follow each other in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OffsetsRow {
    pub no: ShardNo,
    pub frames: Vec<LaneFrame>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneFrame {
    pub events: u32,
    pub seq: Seq,
    pub place: Place,
}

/// A row of `times`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRow(pub Offset);

/// A row of `lanes`; the key has the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneRow {
    pub no: ShardNo,
    pub tenant: TenantId,
    pub start: Offset,
    pub end: Offset,
    pub last_hlc: Hlc,
    pub last_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub bytes: u64,
    pub events: u64,
}

impl LaneRow {
    pub fn of(lane: Lane, state: &LaneState) -> Self {
        debug_assert_eq!(lane.origin, state.shard.origin, "a lane lives in a shard of its origin");
        let LaneState { shard, tenant, start, end, last_hlc, last_timestamp, max_timestamp, bytes, events } =
            *state;
        Self { no: shard.no, tenant, start, end, last_hlc, last_timestamp, max_timestamp, bytes, events }
    }

    pub fn into_state(self, lane: Lane) -> LaneState {
        let Self { no, tenant, start, end, last_hlc, last_timestamp, max_timestamp, bytes, events } = self;
        let shard = ShardId { origin: lane.origin, no };
        LaneState { shard, tenant, start, end, last_hlc, last_timestamp, max_timestamp, bytes, events }
    }
}

/// Why bytes of the index are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The key has not the length or the form of its family.
    #[error("its key has the wrong form")]
    Key,
    /// The value ends early.
    #[error("its value is too short")]
    Short,
    /// The value goes on.
    #[error("its value is too long")]
    Long,
    /// The value has a version that this code does not know.
    #[error("its value has version {0}, which this node does not know")]
    Version(u8),
    /// A field cannot be.
    #[error("its value cannot be: {0}")]
    Value(&'static str),
}

/// A value of a family: a version byte, then its fields.
pub(super) trait Row: Sized {
    /// Where it is kept.
    const FAMILY: Family;
    /// The version that is written.
    const VERSION: u8 = 1;

    /// Appends the fields.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the fields.
    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError>;
    /// Reads the fields of an older version.
    fn take_older(version: u8, _: &mut Fields<'_>) -> Result<Self, RowError> {
        Err(RowError::Version(version))
    }

    /// The whole value.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(72);
        out.push(Self::VERSION);
        self.put(&mut out);
        out
    }

    /// The inverse of [`encode`](Self::encode).
    fn decode(value: &[u8]) -> Result<Self, RowError> {
        let (&version, rest) = value.split_first().ok_or(RowError::Short)?;
        let mut fields = Fields(rest);
        let row = if version == Self::VERSION {
            Self::take(&mut fields)?
        } else {
            Self::take_older(version, &mut fields)?
        };
        if fields.0.is_empty() { Ok(row) } else { Err(RowError::Long) }
    }
}

/// What is left of a value.
pub(super) struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(RowError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, RowError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, RowError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RowError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RowError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i16(&mut self) -> Result<i16, RowError> {
        self.array().map(i16::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, RowError> {
        self.array().map(i32::from_le_bytes)
    }
}

fn put_place(place: &Place, out: &mut Vec<u8>) {
    out.extend_from_slice(&place.file.to_le_bytes());
    out.extend_from_slice(&place.at.to_le_bytes());
    out.extend_from_slice(&place.len.to_le_bytes());
}

fn take_place(fields: &mut Fields<'_>) -> Result<Place, RowError> {
    Ok(Place { file: fields.u64()?, at: fields.u64()?, len: fields.u32()? })
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    debug_assert!((1..=ROW_FRAMES).contains(&count), "a row has frames, and not too many");
    out.extend_from_slice(&(count as u16).to_le_bytes());
}

fn take_count(fields: &mut Fields<'_>) -> Result<usize, RowError> {
    match usize::from(fields.u16()?) {
        0 => Err(RowError::Value("a row of no frames")),
        count if count > ROW_FRAMES => Err(RowError::Value("a row of too many frames")),
        count => Ok(count),
    }
}

fn take_events(fields: &mut Fields<'_>) -> Result<u32, RowError> {
    match fields.u32()? {
        0 => Err(RowError::Value("a frame of no events")),
        events => Ok(events),
    }
}

impl Row for PlacesRow {
    const FAMILY: Family = Family::Places;
    const VERSION: u8 = 2;

    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.0.len(), out);
        self.0.iter().for_each(|place| put_place(place, out));
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        let count = take_count(fields)?;
        (0..count).map(|_| take_place(fields)).collect::<Result<_, _>>().map(Self)
    }

    fn take_older(version: u8, fields: &mut Fields<'_>) -> Result<Self, RowError> {
        match version {
            1 => Ok(Self(vec![take_place(fields)?])),
            _ => Err(RowError::Version(version)),
        }
    }
}

impl Row for OffsetsRow {
    const FAMILY: Family = Family::Offsets;
    const VERSION: u8 = 2;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.no.0.to_le_bytes());
        put_count(self.frames.len(), out);
        for frame in &self.frames {
            out.extend_from_slice(&frame.events.to_le_bytes());
            out.extend_from_slice(&frame.seq.0.to_le_bytes());
            put_place(&frame.place, out);
        }
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        let no = ShardNo(fields.u16()?);
        let count = take_count(fields)?;
        let frame = |_| {
            let events = take_events(fields)?;
            Ok(LaneFrame { events, seq: Seq(fields.u64()?), place: take_place(fields)? })
        };
        Ok(Self { no, frames: (0..count).map(frame).collect::<Result<_, RowError>>()? })
    }

    fn take_older(version: u8, fields: &mut Fields<'_>) -> Result<Self, RowError> {
        if version != 1 {
            return Err(RowError::Version(version));
        }
        let (events, no) = (take_events(fields)?, ShardNo(fields.u16()?));
        Ok(Self {
            no,
            frames: vec![LaneFrame { events, seq: Seq(fields.u64()?), place: take_place(fields)? }],
        })
    }
}

impl Row for TimeRow {
    const FAMILY: Family = Family::Times;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.0.to_le_bytes());
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        fields.u64().map(Offset).map(Self)
    }
}

impl Row for LaneRow {
    const FAMILY: Family = Family::Lanes;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.no.0.to_le_bytes());
        out.extend_from_slice(&self.tenant.0.to_le_bytes());
        for number in [
            self.start.0,
            self.end.0,
            self.last_hlc.0,
            self.last_timestamp.0,
            self.max_timestamp.0,
            self.bytes,
            self.events,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        let row = Self {
            no: ShardNo(fields.u16()?),
            tenant: TenantId(fields.u32()?),
            start: Offset(fields.u64()?),
            end: Offset(fields.u64()?),
            last_hlc: Hlc(fields.u64()?),
            last_timestamp: Timestamp(fields.u64()?),
            max_timestamp: Timestamp(fields.u64()?),
            bytes: fields.u64()?,
            events: fields.u64()?,
        };
        if row.start > row.end {
            return Err(RowError::Value("a lane that ends before its start"));
        }
        Ok(row)
    }
}

impl Row for ProducerState {
    const FAMILY: Family = Family::Producers;

    fn put(&self, out: &mut Vec<u8>) {
        debug_assert!(self.batches.len() <= PRODUCER_BATCHES, "old batches are dropped before");
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.push(self.batches.len() as u8);
        for batch in &self.batches {
            out.extend_from_slice(&batch.first_sequence.to_le_bytes());
            out.extend_from_slice(&batch.last_sequence.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.0.to_le_bytes());
            out.extend_from_slice(&batch.seq.0.to_le_bytes());
            out.extend_from_slice(&batch.hlc.0.to_le_bytes());
        }
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        let epoch = ProducerEpoch(fields.i16()?);
        let count = usize::from(fields.u8()?);
        if count > PRODUCER_BATCHES {
            return Err(RowError::Value("more batches of a producer than are kept"));
        }
        let batches = (0..count)
            .map(|_| {
                Ok(RememberedBatch {
                    first_sequence: fields.i32()?,
                    last_sequence: fields.i32()?,
                    base_offset: Offset(fields.u64()?),
                    seq: Seq(fields.u64()?),
                    hlc: Hlc(fields.u64()?),
                })
            })
            .collect::<Result<_, RowError>>()?;
        Ok(Self { epoch, batches })
    }
}

impl Row for Usage {
    const FAMILY: Family = Family::Usage;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.events.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        Ok(Self { events: fields.u64()?, bytes: fields.u64()? })
    }
}

impl Row for AppliedMark {
    const FAMILY: Family = Family::Marks;

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seq.0.to_le_bytes());
        out.extend_from_slice(&self.log_epoch.0.to_le_bytes());
        out.extend_from_slice(&self.hlc.0.to_le_bytes());
        out.extend_from_slice(&self.chain.0);
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, RowError> {
        Ok(Self {
            seq: Seq(fields.u64()?),
            log_epoch: LogEpoch(fields.u32()?),
            hlc: Hlc(fields.u64()?),
            chain: Chain(fields.array()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { file: 0x11, at: 0x22, len: 0x33 };

    const FRAME: LaneFrame = LaneFrame { events: 0x44, seq: Seq(0x77), place: PLACE };

    fn producer(batches: usize) -> ProducerState {
        let batch = RememberedBatch {
            first_sequence: 1,
            last_sequence: -2,
            base_offset: Offset(3),
            seq: Seq(4),
            hlc: Hlc(5),
        };
        ProducerState { epoch: ProducerEpoch(0x0102), batches: vec![batch; batches] }
    }

    fn lane() -> LaneRow {
        LaneRow {
            no: ShardNo(0x0102),
            tenant: TenantId(3),
            start: Offset(4),
            end: Offset(5),
            last_hlc: Hlc(6),
            last_timestamp: Timestamp(7),
            max_timestamp: Timestamp(8),
            bytes: 9,
            events: 10,
        }
    }

    fn mark() -> AppliedMark {
        AppliedMark { seq: Seq(1), log_epoch: LogEpoch(2), hlc: Hlc(3), chain: Chain([0xcc; 16]) }
    }

    /// Encodes to these bytes, decodes from them, and from no part of them and no more than them.
    fn golden<R: Row + PartialEq + std::fmt::Debug>(row: R, hex: &str) {
        let value = row.encode();
        assert_eq!(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex.replace(' ', ""));
        assert_eq!(R::decode(&value).as_ref(), Ok(&row));
        for len in 0..value.len() {
            assert_eq!(R::decode(&value[..len]), Err(RowError::Short), "{len} bytes of {row:?}");
        }
        let mut changed = value.clone();
        changed.push(0);
        assert_eq!(R::decode(&changed), Err(RowError::Long));
        changed[0] = 9;
        assert_eq!(R::decode(&changed), Err(RowError::Version(9)));
    }

    /// What is on disks already. A value that changes here needs a new version and a way to read the old one.
    #[test]
    fn golden_values() {
        let place = "1100000000000000 2200000000000000 33000000";
        golden(PlacesRow(vec![PLACE]), &format!("02 0100 {place}"));
        golden(PlacesRow(vec![PLACE; ROW_FRAMES]), &format!("02 4000 {}", place.repeat(ROW_FRAMES)));
        golden(
            OffsetsRow { no: ShardNo(0x5566), frames: vec![FRAME, FRAME] },
            &format!("02 6655 0200 {}", format!("44000000 7700000000000000 {place}").repeat(2)),
        );
        golden(TimeRow(Offset(0x88)), "01 8800000000000000");
        golden(
            lane(),
            "01 0201 03000000 0400000000000000 0500000000000000 0600000000000000 0700000000000000 \
             0800000000000000 0900000000000000 0a00000000000000",
        );
        golden(
            producer(1),
            "01 0201 01 01000000 feffffff 0300000000000000 0400000000000000 0500000000000000",
        );
        golden(
            producer(PRODUCER_BATCHES),
            &format!(
                "01 0201 05 {}",
                "01000000 feffffff 0300000000000000 0400000000000000 0500000000000000".repeat(5)
            ),
        );
        golden(Usage { events: 1, bytes: 2 }, "01 0100000000000000 0200000000000000");
        golden(mark(), "01 0100000000000000 02000000 0300000000000000 cccccccccccccccccccccccccccccccc");
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn rows_of_format_1_are_read() {
        let place = bytes("01 1100000000000000 2200000000000000 33000000");
        assert_eq!(PlacesRow::decode(&place), Ok(PlacesRow(vec![PLACE])));
        let offset = bytes("01 44000000 6655 7700000000000000 1100000000000000 2200000000000000 33000000");
        let frames = vec![FRAME];
        assert_eq!(OffsetsRow::decode(&offset), Ok(OffsetsRow { no: ShardNo(0x5566), frames }));
        for (value, longer) in [(&place, false), (&offset, true)] {
            for len in 0..value.len() {
                assert_eq!(PlacesRow::decode(&value[..len]).is_ok(), longer && len == place.len());
                assert!(OffsetsRow::decode(&value[..len]).is_err());
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let nothing = LaneFrame { events: 0, ..FRAME };
        let empty = OffsetsRow { no: ShardNo(0), frames: vec![FRAME, nothing] };
        assert!(matches!(OffsetsRow::decode(&empty.encode()), Err(RowError::Value(_))));
        for count in [0, ROW_FRAMES as u16 + 1] {
            let mut row = PlacesRow(vec![PLACE]).encode();
            row[1..3].copy_from_slice(&count.to_le_bytes());
            assert!(matches!(PlacesRow::decode(&row), Err(RowError::Value(_))));
        }
        let backwards = LaneRow { end: Offset(3), ..lane() };
        assert!(matches!(LaneRow::decode(&backwards.encode()), Err(RowError::Value(_))));
        let mut many = producer(PRODUCER_BATCHES).encode();
        many[3] += 1;
        assert!(matches!(ProducerState::decode(&many), Err(RowError::Value(_))));
    }

    proptest! {
        /// Bytes of a disk are never trusted: whatever they are, decoding ends, and what it takes it writes back the same.
        #[test]
        fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..200)) {
            fn one<R: Row>(value: &[u8]) -> bool {
                // Of an older version it is written back as this one's.
                let is_older = value.first().is_some_and(|version| *version < R::VERSION);
                R::decode(value).map_or(true, |row| row.encode() == value || is_older)
            }
            prop_assert!(one::<PlacesRow>(&value) && one::<OffsetsRow>(&value) && one::<TimeRow>(&value));
            prop_assert!(one::<LaneRow>(&value) && one::<ProducerState>(&value) && one::<Usage>(&value));
            prop_assert!(one::<AppliedMark>(&value));
        }
    }
}
