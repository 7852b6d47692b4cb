//! What happened in a history, line by line: hashed always, kept where somebody wants to read it.

use std::fmt::{self, Write as _};

use xxhash_rust::xxh3::Xxh3;

/// The trace of a history. Its hash covers every byte of every line, so two runs with one hash did the same.
pub struct Trace {
    hasher: Xxh3,
    line: String,
    kept: Option<Vec<String>>,
    lines: u64,
}

impl Trace {
    /// An empty one; `keep`: its lines are kept too.
    pub fn new(keep: bool) -> Self {
        Self { hasher: Xxh3::new(), line: String::new(), kept: keep.then(Vec::new), lines: 0 }
    }

    /// Adds a line; `now` in microseconds.
    pub fn line(&mut self, now: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{:>5}.{:06} ", now / 1_000_000, now % 1_000_000);
        let _ = self.line.write_fmt(what);
        self.hasher.update(self.line.as_bytes());
        self.hasher.update(b"\n");
        self.lines += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(self.line.clone());
        }
    }

    /// Over all lines so far.
    pub fn hash(&self) -> u128 {
        self.hasher.digest128()
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The lines, if they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.kept.unwrap_or_default()
    }
}
