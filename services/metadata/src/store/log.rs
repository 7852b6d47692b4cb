//! openraft's log storage over [`Disk`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::disk::{Disk, blocking};
use crate::raft::{
    Entry, LogId, TypeConfig, Vote, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};

/// How many bytes of entries are sent in one message, unless one entry alone has more.
const SEND_BYTES: usize = 256 * 1024;

/// The log and the vote.
#[derive(Clone)]
pub(crate) struct LogStore {
    disk: Arc<Disk>,
}

impl LogStore {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(blocking(|| self.disk.read(start, end, None))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(blocking(|| self.disk.read(start, end, Some(SEND_BYTES)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let writer = self.disk.writer();
        writer
            .anchor
            .state()
            .vote
            .as_ref()
            .map(|vote| vote_from_wire(Some(vote)))
            .transpose()
            .map_err(io::Error::other)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let writer = self.disk.writer();
        Ok(LogState { last_purged_log_id: writer.purged, last_log_id: writer.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = vote_to_wire(vote);
        Ok(blocking(|| self.disk.writer().anchor.update(|anchor| anchor.vote = Some(vote)))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let committed = committed.as_ref().map(log_id_to_wire);
        Ok(blocking(|| self.disk.writer().anchor.update(|anchor| anchor.committed = committed))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.disk.writer().anchor.state().committed.as_ref().map(log_id_from_wire))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        match self.disk.append(&entries) {
            Ok(()) => {
                callback.io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::other(error.to_string())));
                Err(error.into())
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.disk.truncate(last_log_id)?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.disk.purge(log_id)?)
    }
}
