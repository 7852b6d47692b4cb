//! Spans of a volume's files in memory, read past the page cache: for whoever reads much of what lies far behind.
//!
//! In: places. Out: bytes as they were on the disk a moment ago. What a link reads of one shard lies between frames of others, which it
//! reads next; and the log is written past the page cache, so that each page of that would be filled, copied out of and thrown
//! away. Must never hold what is not synced, or outlive its use: [`Spans::forget_unused`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::reader::OpenFile;
use crate::aligned::AlignedBuf;
use crate::place::Place;

/// How much is read at once, from a multiple of itself on.
pub(super) const AROUND: u64 = 2 * 1024 * 1024;
/// How many are held, and how many buffers wait to be used again.
const HELD_MAX: usize = 6;

/// See the module.
#[derive(Default)]
pub(super) struct Spans {
    held: Mutex<VecDeque<Held>>,
    buffers: Arc<Mutex<Vec<AlignedBuf>>>,
    /// What follows the span that was used last: its file and number.
    next: Mutex<Option<(u64, u64)>>,
    is_used: AtomicBool,
}

struct Held {
    file: u64,
    number: u64,
    /// Filled by whoever comes first, while others wait. None: it cannot be read.
    bytes: Arc<OnceLock<Option<Bytes>>>,
}

impl Spans {
    /// The bytes of a place; none: it is too long, not all around it is synced, or the disk does not give it.
    pub fn bytes(&self, place: Place, open: &OpenFile) -> Option<Bytes> {
        let end = place.at.checked_add(u64::from(place.len))?;
        let (first, last) = (place.at / AROUND, end.saturating_sub(1) / AROUND);
        let span = self.span(place.file, first, open)?;
        let from = (place.at % AROUND) as usize;
        *self.next.lock() = Some((place.file, last + 1));
        if first == last {
            return Some(span.slice(from..from + place.len as usize));
        }
        if last > first + 1 {
            return None;
        }
        let rest = self.span(place.file, last, open)?;
        let mut both = BytesMut::with_capacity(place.len as usize);
        both.extend_from_slice(&span[from..]);
        both.extend_from_slice(&rest[..place.len as usize - both.len()]);
        Some(both.freeze())
    }

    /// Reads what follows the span that was used last, unless that was done before: while what is before it is on its way. Where its file
    /// ends, that is the next one's first.
    pub fn read_ahead(&self, open: impl Fn(u64) -> Option<Arc<OpenFile>>) {
        let Some((file, number)) = self.next.lock().take() else { return };
        let is_in = |open: &Arc<OpenFile>| number * AROUND < open.synced();
        let (file, number, open) = match open(file).filter(is_in) {
            Some(open) => (file, number, Some(open)),
            None => (file + 1, 0, open(file + 1)),
        };
        if let Some(open) = open {
            self.span(file, number, &open);
        }
    }

    /// Gives memory back, if nothing was read since the last time.
    pub fn forget_unused(&self) {
        if !self.is_used.swap(false, Ordering::Relaxed) {
            self.held.lock().clear();
            self.buffers.lock().clear();
        }
    }

    fn span(&self, file: u64, number: u64, open: &OpenFile) -> Option<Bytes> {
        let from = number * AROUND;
        if from + AROUND > open.synced() {
            return None;
        }
        self.is_used.store(true, Ordering::Relaxed);
        let bytes = {
            let mut held = self.held.lock();
            let known = held.iter().position(|span| (span.file, span.number) == (file, number));
            let span = known.and_then(|at| held.remove(at)).unwrap_or_else(|| Held {
                file,
                number,
                bytes: Arc::default(),
            });
            let bytes = Arc::clone(&span.bytes);
            held.push_back(span);
            if held.len() > HELD_MAX {
                held.pop_front();
            }
            bytes
        };
        let read = bytes.get_or_init(|| self.read(open, from)).clone();
        if read.is_none() {
            self.held.lock().retain(|span| !Arc::ptr_eq(&span.bytes, &bytes));
        }
        read
    }

    fn read(&self, open: &OpenFile, from: u64) -> Option<Bytes> {
        let buffer = self.buffers.lock().pop();
        let mut buffer = buffer.unwrap_or_else(|| AlignedBuf::zeroed(AROUND as usize));
        open.file.read_at_uncached(buffer.bytes_mut(), from).ok()?;
        Some(Bytes::from_owner(Lent { buffer: Some(buffer), to: Arc::clone(&self.buffers) }))
    }
}

/// A buffer that is used again once nobody reads it any more: fresh memory takes the system longer than the disk does.
struct Lent {
    buffer: Option<AlignedBuf>,
    to: Arc<Mutex<Vec<AlignedBuf>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], AlignedBuf::bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffers = self.to.lock();
        if buffers.len() < HELD_MAX {
            buffers.extend(self.buffer.take());
        }
    }
}
