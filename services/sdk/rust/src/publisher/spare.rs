//! The memory of batches that are done, for the next ones. Given back and asked for anew it would be cleared by the kernel page
//! by page each time, which costs more than filling it.

use bytes::Bytes;

/// No more than this is kept, in bytes: acknowledgements come about as often as batches are begun.
const MOST: usize = 2 * 1024 * 1024;

/// Buffers with room for a batch.
pub(super) struct Spare {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spare {
    /// Of batches of so many bytes; none is larger than a server takes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { buffers: Vec::new(), bytes: bytes.min(meridian_types::limits::BATCH_BYTES) }
    }

    /// A batch that grows to this gets one, and so the room for the rest at once: what is in it already is moved once, and no batch takes more than
    /// eight times what is in it.
    pub(super) fn from(&self) -> usize {
        self.bytes / 8
    }

    /// One with nothing in it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(self.bytes))
    }

    /// Keeps a batch's memory, if it is of the right size and nobody else holds it.
    pub(super) fn give(&mut self, batch: Bytes) {
        let is_enough = (self.buffers.len() + 1) * self.bytes > MOST;
        if is_enough || batch.len() < self.bytes / 2 || !batch.is_unique() {
            return;
        }
        let mut buffer = Vec::from(batch);
        if (self.bytes..=2 * self.bytes).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(capacity: usize, len: usize) -> Bytes {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.resize(len, 7);
        buffer.into()
    }

    #[test]
    fn memory_is_used_again_if_it_is_of_the_size_and_nobodys() {
        let mut spare = Spare::new(1000);
        let done = batch(1000, 900);
        let at = done.as_ptr();
        spare.give(done);
        let again = spare.take();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (at, 0, 1000));

        let held = batch(1000, 900);
        spare.give(held.clone());
        spare.give(batch(1000, 100));
        spare.give(batch(999, 900));
        spare.give(batch(2001, 1900));
        assert!(spare.buffers.is_empty());
        assert_eq!(held[..], [7; 900]);

        (0..MOST / 900).for_each(|_| spare.give(batch(1000, 900)));
        assert_eq!(spare.buffers.len(), MOST / 1000);
    }
}
