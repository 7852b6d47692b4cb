//! A buffer whose first byte lies at a block boundary, as reads and writes past the page cache want it.

/// The unit of rounds, and what direct I/O is aligned to.
pub const BLOCK: usize = 4096;

/// Rounds up to whole blocks.
pub const fn to_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64) * BLOCK as u64
}

/// A growable, block-aligned byte buffer. Kept and reused: growing copies.
#[derive(Debug)]
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        // One block more than asked for, so that an aligned start is always inside; found without unsafe code.
        let raw = vec![0u8; capacity + BLOCK];
        let start = raw.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { raw, start, len: 0 }
    }

    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::with_capacity(len);
        buf.len = len;
        buf
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Sets the length; bytes that are new hold whatever was there before.
    pub fn set_len(&mut self, len: usize) {
        self.grow(len);
        self.len = len;
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.grow(end);
        self.raw[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Appends zeros up to the next block boundary.
    pub fn pad(&mut self) {
        let end = to_blocks(self.len as u64) as usize;
        self.grow(end);
        self.raw[self.start + self.len..self.start + end].fill(0);
        self.len = end;
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }

    /// The bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }

    fn grow(&mut self, len: usize) {
        if self.start + len > self.raw.len() {
            let mut larger = Self::with_capacity(len.max(self.raw.len() * 2));
            larger.extend(self.bytes());
            *self = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buf = AlignedBuf::with_capacity(10);
        for i in 0..300u32 {
            buf.extend(&i.to_le_bytes().repeat(100));
            assert_eq!(buf.bytes().as_ptr().align_offset(BLOCK), 0);
        }
        buf.pad();
        assert_eq!(buf.len() % BLOCK, 0);
        assert_eq!(buf.bytes()[400..404], 1u32.to_le_bytes());
        assert!(buf.bytes()[300 * 400..].iter().all(|byte| *byte == 0));
    }
}
