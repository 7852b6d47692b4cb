//! Recovery: from the bytes of a volume to what stands.
//!
//! In: a disk. Out: what each shard has, where the next round goes, and what is damaged. It writes nothing: a folder
//! that it refuses is left as it was.
//!
//! Round n+1 is written only after round n is synced. So a header of round n+1, or a file that was rolled to, proves
//! that all rounds up to n were whole on the disk once: if one is not now, that is corruption, and what can be told of
//! it is kept and the rest reported. Only where nothing follows was a write cut off: that round was never acknowledged,
//! and goes as a whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use meridian_types::{Seq, ShardId};
use parking_lot::RwLock;

use super::error::VolumeError;
use super::file::{FileHeader, FileHeaderError, file_name};
use super::reader::{Files, OpenFile};
use super::replay::{RecoveredShard, Replay};
use super::restart::Restart;
use crate::aligned::{AlignedBuf, BLOCK, to_blocks};
use crate::disk::{Disk, DiskFile};
use crate::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader};
use crate::identity::Secret;
use crate::place::Place;
use crate::record::{Promise, RECORD_BYTES, RECORD_KIND_MIN, Record, RecordError};
use crate::round::{ROUND_HEADER_BYTES, RoundError, RoundHeader, Seed};

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What each shard has.
    pub shards: BTreeMap<ShardId, RecoveredShard>,
    /// The last promise of each shard.
    pub promises: BTreeMap<ShardId, Promise>,
    /// What is damaged; empty on a sound disk.
    pub damage: Vec<Damage>,
    /// Some of the damage hides what it held: promises, cuts and shards that turn up nowhere else may have been there.
    pub hidden: bool,
    /// How many whole rounds were read.
    pub rounds: u64,
    /// How many files were not read, for the index has all that is in them.
    pub files_passed: usize,
    /// The round that was cut off by the end of the last process, if any: it was never acknowledged.
    pub torn: Option<TornTail>,
}

/// A last round that was not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// In which file.
    pub file: u64,
    /// Where it began.
    pub at: u64,
    /// How long it was to be, as far as that is known.
    pub bytes: u64,
}

/// A range of a volume that was whole on the disk once and is not now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub file: u64,
    /// From which byte.
    pub at: u64,
    /// What was there.
    pub what: DamageKind,
}

/// What was there before it was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A file's header block. The rounds in the file were read none the less.
    FileHeader,
    /// Rounds of which nothing can be told, the file that held them included.
    Rounds {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// A round whose header is whole.
    Round {
        /// Its number.
        number: u64,
        /// The frames in it that are damaged. The other ones are kept.
        frames: Vec<(ShardId, Seq)>,
        /// Whether there were entries of which nothing can be told.
        hidden: bool,
    },
}

/// Where the next round goes.
pub(super) struct Position {
    pub number: u64,
    pub generation: u64,
    pub file: Arc<dyn DiskFile>,
    pub at: u64,
    pub len: u64,
}

pub(super) struct Outcome {
    pub recovered: Recovered,
    pub files: Files,
    /// `None`: roll to a new file first.
    pub position: Option<Position>,
    pub next_round: u64,
    pub last_is_empty: bool,
    pub max_generation: u64,
}

/// Something that is no whole round, until it is known whether a round follows.
struct Pending {
    file: u64,
    at: u64,
    /// A round whose header is whole, and what there is of its entries.
    bad: Option<(RoundHeader, Vec<u8>)>,
}

pub(super) struct Recovery<'a> {
    disk: &'a dyn Disk,
    secret: &'a Secret,
    files: BTreeMap<u64, Arc<OpenFile>>,
    replay: Replay<'a>,
    recovered: Recovered,
    /// The number of the next whole round.
    expected: u64,
    pending: Option<Pending>,
    last_is_empty: bool,
    max_generation: u64,
}

impl<'a> Recovery<'a> {
    /// Reads the files `numbers` (rising) of a volume; from `restart` on where that holds.
    pub fn run(
        disk: &'a dyn Disk,
        secret: &'a Secret,
        numbers: &[u64],
        restart: Option<&Restart>,
        applied_from: &'a dyn Fn(ShardId) -> Seq,
    ) -> Result<Outcome, VolumeError> {
        let new = || Self {
            disk,
            secret,
            files: BTreeMap::new(),
            replay: Replay::new(applied_from),
            recovered: Recovered::default(),
            expected: 1,
            pending: None,
            last_is_empty: false,
            max_generation: 0,
        };
        let mut this = new();
        let restart = restart.filter(|restart| restart.is_covered(applied_from));
        if restart.is_some_and(|restart| this.pass(restart, numbers).is_none()) {
            this = new();
        }
        let mut position = None;
        let mut buf = AlignedBuf::with_capacity(0);
        for number in &numbers[this.recovered.files_passed..] {
            position = this.file(*number, &mut buf)?;
        }
        if let Some(position) = &mut position {
            let name = file_name(position.number);
            let opened = disk.open_uncached(&name);
            position.file = opened.map_err(|source| VolumeError::Io { action: "open", name, source })?;
        }
        Ok(this.finish(position))
    }

    /// Takes the files before a restart as read, if they are there and it is of this volume. None: something is not as it says.
    fn pass(&mut self, restart: &Restart, numbers: &[u64]) -> Option<()> {
        let first = numbers.first().filter(|first| **first == restart.first_file)?;
        let count = usize::try_from(restart.file.checked_sub(*first)?).ok()?;
        if !(restart.first_file..=restart.file).eq(numbers.get(..=count)?.iter().copied()) {
            return None;
        }
        for number in &numbers[..count] {
            let (file, header) = self.open_with_header(*number)?;
            self.max_generation = self.max_generation.max(header.generation);
            let open = OpenFile { file, end: AtomicU64::new(header.len - header.len % BLOCK as u64) };
            self.files.insert(*number, Arc::new(open));
        }
        let (_, header) = self.open_with_header(restart.file)?;
        if (header.generation, header.first_round) != (restart.generation, restart.first_round) {
            return None;
        }
        for (shard, (seq, place)) in &restart.tails {
            let header = read_header(&self.files, *place)?;
            if (header.shard_id(), header.seq) != (*shard, *seq) {
                return None;
            }
            self.replay.begin_after(header, *place);
        }
        for promise in restart.promises.values() {
            self.replay.record(Record::Promise(*promise), &|_| None);
        }
        self.expected = restart.first_round;
        self.recovered.files_passed = count;
        Some(())
    }

    /// A file that has its length and its header.
    fn open_with_header(&self, number: u64) -> Option<(Arc<dyn DiskFile>, FileHeader)> {
        let file = self.disk.open(&file_name(number)).ok()?;
        let mut block = AlignedBuf::with_capacity(0);
        block.set_len(BLOCK);
        file.read_at_uncached(block.bytes_mut(), 0).ok()?;
        let header = FileHeader::decode(block.bytes(), self.secret).ok()?;
        (header.number == number && file.len().ok()? == header.len).then_some((file, header))
    }

    /// Reads a file; where the next round would go if it is the last one.
    fn file(&mut self, number: u64, buf: &mut AlignedBuf) -> Result<Option<Position>, VolumeError> {
        let name = file_name(number);
        let io = |action| {
            let name = name.clone();
            move |source| VolumeError::Io { action, name, source }
        };
        let file = self.disk.open(&name).map_err(io("open"))?;
        // An earlier process may have ended between a write and its sync: what is read next must be durable.
        file.sync_data().map_err(io("sync"))?;
        let len = file.len().map_err(io("read"))?;
        buf.set_len((len - len % BLOCK as u64) as usize);
        file.read_at_uncached(buf.bytes_mut(), 0).map_err(io("read"))?;
        let open = OpenFile { file: Arc::clone(&file), end: AtomicU64::new(buf.len() as u64) };
        self.files.insert(number, Arc::new(open));

        let header = match FileHeader::decode(buf.bytes(), self.secret) {
            Ok(header) if header.number == number => Some(header),
            Err(FileHeaderError::Newer(version)) => {
                return Err(VolumeError::Newer { name, what: format!("on-disk format {version}") });
            }
            Ok(_) | Err(FileHeaderError::Damaged) => None,
        };
        let Some(header) = header else {
            self.damaged(number, 0, DamageKind::FileHeader);
            self.headless(number, buf.bytes())?;
            return Ok(None);
        };
        self.max_generation = self.max_generation.max(header.generation);
        self.proven(header.first_round, number, 0);
        self.rounds(number, header.generation, buf.bytes())?;
        let at = match &self.pending {
            Some(pending) => pending.at,
            None => buf.len() as u64,
        };
        // A file that has lost its end is read, but no longer written.
        let whole = header.len == len;
        let (generation, len) = (header.generation, header.len);
        Ok(whole.then_some(Position { number, generation, file, at, len }))
    }

    /// Reads a file whose header block is damaged. The file was rolled to, so all before it was synced; its rounds
    /// state their generation themselves.
    fn headless(&mut self, number: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let generation = bytes
            .chunks_exact(BLOCK)
            .zip(0u64..)
            .filter_map(|(block, i)| RoundHeader::decode_any(block, self.secret, i * BLOCK as u64).ok())
            .map(|header| header.generation)
            .max();
        match generation {
            Some(generation) => {
                self.max_generation = self.max_generation.max(generation);
                self.rounds(number, generation, bytes)
            }
            None => {
                let next = self.next_number();
                self.proven(next, number, 0);
                self.hide();
                Ok(())
            }
        }
    }

    fn rounds(&mut self, file: u64, generation: u64, bytes: &[u8]) -> Result<(), VolumeError> {
        let seed = Seed::new(self.secret, generation);
        let mut at = BLOCK;
        while at < bytes.len() {
            let header = match RoundHeader::decode(&bytes[at..], self.secret, generation, at as u64) {
                Ok(header) if header.number >= self.next_number() => header,
                Err(RoundError::Version(version)) => {
                    let what = format!("round version {version}");
                    return Err(VolumeError::Newer { name: file_name(file), what });
                }
                Ok(_) | Err(RoundError::NotARound) => {
                    self.pending.get_or_insert(Pending { file, at: at as u64, bad: None });
                    at += BLOCK;
                    continue;
                }
            };
            self.proven(header.number, file, at as u64);
            let body_at = at + ROUND_HEADER_BYTES;
            let body_end = body_at.saturating_add(header.body_len as usize).min(bytes.len());
            let body = &bytes[body_at..body_end];
            if body.len() == header.body_len as usize && seed.crc(body) == header.body_crc {
                let damage = self.entries(file, body_at as u64, body, true)?;
                if damage.1 {
                    self.hide();
                }
                if damage != (Vec::new(), false) {
                    // Damaged before it was written, in memory: the round's CRC is right and an entry's is not.
                    let what =
                        DamageKind::Round { number: header.number, frames: damage.0, hidden: damage.1 };
                    self.damaged(file, at as u64, what);
                }
                self.expected = header.number + 1;
                self.recovered.rounds += 1;
                self.last_is_empty = header.entries == 0;
            } else {
                let bad = Some((header, body.to_vec()));
                self.pending = Some(Pending { file, at: at as u64, bad });
            }
            at += header.padded_len() as usize;
        }
        Ok(())
    }

    /// The least number that a round found from here on may have.
    fn next_number(&self) -> u64 {
        match &self.pending {
            Some(Pending { bad: Some((header, _)), .. }) => header.number + 1,
            _ => self.expected,
        }
    }

    /// Round `number`, or a roll for it, was found at (file, at): all rounds before it were synced.
    fn proven(&mut self, number: u64, file: u64, at: u64) {
        let mut from = (file, at);
        if let Some(pending) = self.pending.take() {
            from = (pending.file, pending.at);
            if let Some((header, body)) = pending.bad {
                self.hide_rounds(header.number, from);
                let body_at = pending.at + ROUND_HEADER_BYTES as u64;
                // The header is whole, so no entry is of a newer version than the round was when it was replayed
                // last; an entry that claims to be is damage.
                let (frames, mut hidden) =
                    self.entries(pending.file, body_at, &body, false).unwrap_or((Vec::new(), true));
                hidden |= body.len() < header.body_len as usize;
                if hidden {
                    self.hide();
                }
                self.damaged(from.0, from.1, DamageKind::Round { number: header.number, frames, hidden });
                self.expected = header.number + 1;
                from.1 += header.padded_len();
            }
        }
        self.hide_rounds(number, from);
    }

    /// Reports the rounds from the expected one up to `before` as lost without a trace.
    fn hide_rounds(&mut self, before: u64, (file, at): (u64, u64)) {
        if self.expected < before {
            let what = DamageKind::Rounds { first: self.expected, last: before - 1 };
            self.damaged(file, at, what);
            self.hide();
            self.expected = before;
        }
    }

    fn hide(&mut self) {
        self.recovered.hidden = true;
        self.replay.hidden();
    }

    fn damaged(&mut self, file: u64, at: u64, what: DamageKind) {
        self.recovered.damage.push(Damage { file, at, what });
    }

    /// Walks the entries of a round by their own headers. The damaged frames, and whether the walk had to stop.
    fn entries(
        &mut self,
        file: u64,
        body_at: u64,
        body: &[u8],
        sound: bool,
    ) -> Result<(Vec<(ShardId, Seq)>, bool), VolumeError> {
        let mut damaged = Vec::new();
        let mut at = 0;
        // What the record before has announced.
        let mut moved: Option<(ShardId, Seq)> = None;
        let newer = |what: String| VolumeError::Newer { name: file_name(file), what };
        while let Some(kind) = body.get(at) {
            let rest = &body[at..];
            let files = &self.files;
            let read = |place: Place| read_header(files, place);
            if *kind < RECORD_KIND_MIN {
                let header = match FrameHeader::decode(rest) {
                    Ok(header) if header.frame_len() <= rest.len() => header,
                    Err(error @ (FrameError::Version(_) | FrameError::Kind(_) | FrameError::Reserved)) => {
                        return Err(newer(error.to_string()));
                    }
                    Ok(_) | Err(_) => return Ok((damaged, true)),
                };
                let len = header.frame_len();
                // The round's CRC covers the payload too: one pass over the bytes is enough where it is right.
                let good = sound || crc32c::crc32c(&rest[FRAME_HEADER_BYTES..len]) == header.payload_crc;
                if !good {
                    damaged.push((header.shard_id(), header.seq));
                }
                let place = Place { file, at: body_at + at as u64, len: len as u32 };
                match moved.take() {
                    None => self.replay.frame(header, place, good, &read),
                    Some(of) if of == (header.shard_id(), header.seq) => {
                        self.replay.moved(header, place, good);
                    }
                    Some(_) => return Ok((damaged, true)),
                }
                at += len;
            } else {
                match Record::decode(rest) {
                    // Its frame is to follow, and nothing else.
                    Ok(_) if moved.is_some() => return Ok((damaged, true)),
                    Ok(Record::Moved { shard, seq }) => moved = Some((shard, seq)),
                    Ok(record) => self.replay.record(record, &read),
                    Err(error @ RecordError::Unknown { .. }) => return Err(newer(error.to_string())),
                    Err(RecordError::Short(_) | RecordError::Crc) => return Ok((damaged, true)),
                }
                at += RECORD_BYTES;
            }
        }
        Ok((damaged, moved.is_some()))
    }

    fn finish(mut self, position: Option<Position>) -> Outcome {
        if let Some(position) = &position {
            // Nothing follows what is pending: it was cut off. Readers must not see it.
            if let Some(Pending { bad: Some((header, _)), .. }) = &self.pending {
                let (file, at) = (position.number, position.at);
                self.recovered.torn = Some(TornTail { file, at, bytes: header.padded_len() });
            }
            if let Some(open) = self.files.get(&position.number) {
                open.end.store(position.at, std::sync::atomic::Ordering::Release);
            }
        } else {
            // The last file is not written any more, so what is pending in it will not be overwritten either. Were it
            // taken for torn now, the next file would prove it damaged later: say so at once.
            let next = self.next_number();
            self.proven(next, 0, 0);
        }
        let (shards, promises) = self.replay.finish();
        self.recovered.shards = shards;
        self.recovered.promises = promises;
        Outcome {
            recovered: self.recovered,
            files: Arc::new(RwLock::new(self.files)),
            position,
            next_round: self.expected,
            last_is_empty: self.last_is_empty,
            max_generation: self.max_generation,
        }
    }
}

/// Reads a header that replay has met before. What cannot be read is as if it were not there: the log then begins anew.
fn read_header(files: &BTreeMap<u64, Arc<OpenFile>>, place: Place) -> Option<FrameHeader> {
    let mut bytes = [0u8; FRAME_HEADER_BYTES];
    let read = files.get(&place.file).map_or_else(
        || Err(io::ErrorKind::NotFound.into()),
        |open| open.file.read_at_uncached(&mut bytes, place.at),
    );
    read.ok().and_then(|()| FrameHeader::decode(&bytes).ok())
}

/// The longest round that a file of `len` bytes takes: its header block and one block for an empty round stay free.
pub(super) fn longest_round(len: u64) -> u64 {
    (len - len % BLOCK as u64).saturating_sub(2 * BLOCK as u64)
}

/// The length on disk of a round with `body` bytes of entries.
pub(super) fn padded_round(body: u64) -> u64 {
    to_blocks(ROUND_HEADER_BYTES as u64 + body)
}
