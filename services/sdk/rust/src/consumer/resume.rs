//! Where a reader is, and what of each message is new to it. Pure.
//!
//! Law: every offset of a lane is given once, in order, or named in a gap; anything else is an error, never skipped.

use meridian_types::{Cursor, Lane, Offset, StreamId};

use super::ConsumeError;
use crate::StartFrom;

/// A reader's place, over all connections.
#[derive(Clone, Debug)]
pub(crate) struct Resume {
    from: StartFrom,
    cursor: Option<Cursor>,
}

/// What a batch holds for the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Nothing: it was read before.
    Nothing,
    /// The events from this offset on.
    From(Offset),
}

impl Resume {
    pub(crate) fn new(from: StartFrom) -> Self {
        let cursor = match &from {
            StartFrom::Cursor(cursor) => Some(cursor.clone()),
            _ => None,
        };
        Self { from, cursor }
    }

    /// The place, once it is known.
    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Where to ask the server to begin: as the caller said, and later where we are.
    pub(crate) fn start(&self) -> StartFrom {
        self.cursor.clone().map_or_else(|| self.from.clone(), StartFrom::Cursor)
    }

    /// The server says where reading begins. Only the first time is that news.
    pub(crate) fn on_started(&mut self, stream: StreamId, start: Cursor) -> Result<(), ConsumeError> {
        if start.stream != stream {
            return Err(ConsumeError::Protocol(format!(
                "a start in stream {} for stream {stream}",
                start.stream
            )));
        }
        match &self.cursor {
            // Deleted and created again under the same name: its offsets mean something else.
            Some(cursor) if cursor.stream != stream => {
                Err(ConsumeError::OtherStream { expected: cursor.stream, found: stream })
            }
            Some(_) => Ok(()),
            None => {
                self.cursor = Some(start);
                Ok(())
            }
        }
    }

    /// A batch of `events` from `base`, of which the server thinks that we want those from `first_wanted` on.
    pub(crate) fn admit(
        &mut self,
        lane: Lane,
        base: Offset,
        events: u32,
        first_wanted: Offset,
    ) -> Result<Admit, ConsumeError> {
        let next = self.next(lane, first_wanted)?;
        let end = base.plus(u64::from(events));
        if end <= next {
            return Ok(Admit::Nothing);
        }
        let first = base.max(first_wanted);
        if first > next {
            return Err(ConsumeError::Hole { lane, expected: next, found: first });
        }
        Ok(Admit::From(next))
    }

    /// An event was given to the caller.
    pub(crate) fn advance(&mut self, lane: Lane, next: Offset) {
        if let Some(cursor) = &mut self.cursor {
            cursor.set(lane.origin, lane.partition, next);
        }
    }

    /// Offsets that nobody has: what of them is news.
    pub(crate) fn on_gap(
        &mut self,
        lane: Lane,
        first: Offset,
        next: Offset,
    ) -> Result<Option<(Offset, Offset)>, ConsumeError> {
        let expected = self.next(lane, first)?;
        if next <= expected {
            return Ok(None);
        }
        if first > expected {
            return Err(ConsumeError::Hole { lane, expected, found: first });
        }
        self.advance(lane, next);
        Ok(Some((expected, next)))
    }

    /// Everything before the mark was sent; so it was received, or something is missing.
    pub(crate) fn on_mark(&mut self, mark: &Cursor) -> Result<(), ConsumeError> {
        for (lane, sent) in mark.lanes() {
            let next = self.next(lane, sent)?;
            if sent > next {
                return Err(ConsumeError::Hole { lane, expected: next, found: sent });
            }
            // Lanes in which nothing was to be read belong to the place too.
            self.advance(lane, next);
        }
        Ok(())
    }

    /// The next offset of a lane. One that the cursor does not name begins at 0, unless reading began at a time or at
    /// the end: then the server's word on where it begins, `begins`, is all there is.
    fn next(&self, lane: Lane, begins: Offset) -> Result<Offset, ConsumeError> {
        let Some(cursor) = &self.cursor else {
            return Err(ConsumeError::Protocol("the first message does not say where reading begins".into()));
        };
        if cursor.stream != lane.stream {
            return Err(ConsumeError::Protocol(format!("lane {lane} is not of stream {}", cursor.stream)));
        }
        let is_new = !cursor.has(lane.origin, lane.partition);
        Ok(match self.from {
            StartFrom::End | StartFrom::Time(_) if is_new => begins,
            _ => cursor.next(lane.origin, lane.partition),
        })
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Origin, Partition, RegionId, Timestamp};

    use super::*;

    const STREAM: StreamId = StreamId(9);

    fn lane(region: u16) -> Lane {
        Lane { stream: STREAM, partition: Partition(0), origin: Origin::first(RegionId(region)) }
    }

    fn started(from: StartFrom) -> Resume {
        let mut resume = Resume::new(from);
        resume.on_started(STREAM, Cursor::start(STREAM)).unwrap();
        resume
    }

    fn read(resume: &mut Resume, base: u64, events: u32) -> Vec<u64> {
        match resume.admit(lane(1), Offset(base), events, Offset(base)).unwrap() {
            Admit::Nothing => vec![],
            Admit::From(first) => (first.0..base + u64::from(events))
                .inspect(|offset| resume.advance(lane(1), Offset(offset + 1)))
                .collect(),
        }
    }

    #[test]
    fn a_batch_that_comes_again_is_read_once() {
        let mut resume = started(StartFrom::Start);
        assert_eq!(read(&mut resume, 0, 3), [0, 1, 2]);
        assert_eq!(read(&mut resume, 0, 3), [] as [u64; 0]);
        // The same offsets in a batch that goes further.
        assert_eq!(read(&mut resume, 2, 3), [3, 4]);
    }

    #[test]
    fn a_reconnect_asks_for_what_was_not_given_to_the_caller() {
        let mut resume = started(StartFrom::Start);
        resume.advance(lane(1), Offset(2));
        let StartFrom::Cursor(cursor) = resume.start() else { panic!("it knows where it is") };
        assert_eq!(cursor.next(lane(1).origin, Partition(0)), Offset(2));
        // What the server says on the new connection changes nothing.
        resume.on_started(STREAM, Cursor::start(STREAM)).unwrap();
        assert_eq!(read(&mut resume, 0, 4), [2, 3]);
    }

    #[test]
    fn a_hole_is_an_error() {
        let mut resume = started(StartFrom::Start);
        let hole = ConsumeError::Hole { lane: lane(1), expected: Offset(0), found: Offset(2) };
        assert_eq!(resume.admit(lane(1), Offset(2), 1, Offset(2)), Err(hole.clone()));
        assert_eq!(resume.admit(lane(1), Offset(0), 5, Offset(2)), Err(hole.clone()));
        let mut mark = Cursor::start(STREAM);
        mark.set(lane(1).origin, Partition(0), Offset(2));
        assert_eq!(resume.on_mark(&mark), Err(hole));
    }

    #[test]
    fn a_gap_stands_for_what_is_missing() {
        let mut resume = started(StartFrom::Start);
        assert_eq!(read(&mut resume, 0, 2), [0, 1]);
        assert_eq!(resume.on_gap(lane(1), Offset(1), Offset(5)), Ok(Some((Offset(2), Offset(5)))));
        assert_eq!(resume.on_gap(lane(1), Offset(1), Offset(5)), Ok(None));
        assert!(matches!(resume.on_gap(lane(1), Offset(7), Offset(8)), Err(ConsumeError::Hole { .. })));
        assert_eq!(read(&mut resume, 4, 2), [5]);
    }

    #[test]
    fn after_a_start_in_time_a_new_lane_begins_where_the_server_says() {
        let mut resume = started(StartFrom::Time(Timestamp(1)));
        assert_eq!(resume.admit(lane(1), Offset(4), 4, Offset(6)), Ok(Admit::From(Offset(6))));
        resume.advance(lane(1), Offset(8));
        // From then on it is a lane like any other.
        assert!(matches!(
            resume.admit(lane(1), Offset(9), 1, Offset(9)),
            Err(ConsumeError::Hole { expected: Offset(8), .. })
        ));
    }

    #[test]
    fn a_mark_adds_lanes_that_were_silent() {
        let mut resume = started(StartFrom::End);
        let mut mark = Cursor::start(STREAM);
        mark.set(lane(3).origin, Partition(0), Offset(7));
        resume.on_mark(&mark).unwrap();
        assert_eq!(resume.cursor().map(|c| c.next(lane(3).origin, Partition(0))), Some(Offset(7)));
    }

    #[test]
    fn another_stream_under_the_same_name_is_noticed() {
        let mut resume = started(StartFrom::Start);
        let other = StreamId(10);
        assert_eq!(
            resume.on_started(other, Cursor::start(other)),
            Err(ConsumeError::OtherStream { expected: STREAM, found: other })
        );
    }
}
