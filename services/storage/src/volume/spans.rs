//! Spans of a volume's files in memory, read past the page cache: for whoever reads much of what lies far behind.
//!
//! In: spans that are wanted. Out: their bytes, as they were on the disk a moment ago. What a link reads of one shard lies between frames of
//! others, which it reads next; and the log is written past the page cache, so that each page of that would be filled, copied out of
//! and thrown away. Must never hold what is not synced, or outlive its use: [`Spans::forget_unused`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::reader::OpenFile;
use crate::aligned::{AlignedBuf, BLOCK};

/// The longest span.
pub(super) const SPAN_MAX: u64 = 2 * 1024 * 1024;
/// A file has at least so many.
const SPANS_OF_A_FILE: u64 = 16;
/// How many are held, and how many buffers wait to be used again.
const HELD_MAX: usize = 6;

/// See the module.
pub(super) struct Spans {
    /// How much is read at once, from a multiple of itself on.
    pub len: u64,
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
    /// Of a volume with files of that length.
    pub fn of(file_bytes: u64) -> Self {
        let block = BLOCK as u64;
        let len = (file_bytes / SPANS_OF_A_FILE / block * block).clamp(block, SPAN_MAX);
        let (held, buffers, next) = Default::default();
        Self { len, held, buffers, next, is_used: AtomicBool::new(false) }
    }

    /// A span; none: not all of it is synced, or the disk does not give it.
    pub fn get(&self, file: u64, number: u64, open: &OpenFile) -> Option<Bytes> {
        let from = number.checked_mul(self.len)?;
        if from.checked_add(self.len)? > open.synced() {
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

    /// This span was used, and what follows it may be wanted next.
    pub fn used(&self, file: u64, number: u64) {
        *self.next.lock() = Some((file, number.saturating_add(1)));
    }

    /// Reads what follows the span that was used last, unless that was done before: while what is before it is on its way. Where its file
    /// ends, that is the next one's first.
    pub fn read_ahead(&self, open: impl Fn(u64) -> Option<Arc<OpenFile>>) {
        let Some((file, number)) = self.next.lock().take() else { return };
        let is_in = |open: &Arc<OpenFile>| number.saturating_add(1).saturating_mul(self.len) <= open.synced();
        let (file, number, open) = match open(file).filter(is_in) {
            Some(open) => (file, number, Some(open)),
            None => (file + 1, 0, open(file + 1)),
        };
        if let Some(open) = open {
            self.get(file, number, &open);
        }
    }

    /// Gives memory back, if nothing was read since the last time.
    pub fn forget_unused(&self) {
        if !self.is_used.swap(false, Ordering::Relaxed) {
            self.held.lock().clear();
            self.buffers.lock().clear();
        }
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    fn read(&self, open: &OpenFile, from: u64) -> Option<Bytes> {
        let buffer = self.buffers.lock().pop();
        let mut buffer = buffer.unwrap_or_else(|| AlignedBuf::zeroed(self.len as usize));
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
