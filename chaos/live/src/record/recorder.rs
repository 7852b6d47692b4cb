//! Writes the record.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::record::{Entry, What};
use crate::trouble::{Context as _, Trouble};

/// The record under way; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    begun: Instant,
    path: PathBuf,
    written: Mutex<Written>,
    acks: AtomicU64,
}

#[derive(Debug)]
struct Written {
    file: BufWriter<File>,
    entries: Vec<Entry>,
    /// The first failure to write.
    failed: Option<String>,
}

impl Recorder {
    /// Begins a record in this file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(path: &Path) -> Result<Self, Trouble> {
        let file = BufWriter::new(File::create(path).context(path.display())?);
        let written = Mutex::new(Written { file, entries: Vec::new(), failed: None });
        let acks = AtomicU64::new(0);
        Ok(Self { inner: Arc::new(Inner { begun: Instant::now(), path: path.to_owned(), written, acks }) })
    }

    /// Notes what happened, now.
    pub fn note(&self, what: What) {
        let mut written = self.inner.written.lock();
        // Under the lock, so that times rise from line to line.
        let at = self.inner.begun.elapsed().as_micros() as u64;
        if matches!(what, What::Ack { .. }) {
            self.inner.acks.fetch_add(1, Ordering::Relaxed);
        }
        let entry = Entry { at, what };
        let line = serde_json::to_vec(&entry).map_err(std::io::Error::from);
        let done =
            line.and_then(|line| written.file.write_all(&line).and_then(|()| written.file.write_all(b"\n")));
        if let Err(error) = done {
            written.failed.get_or_insert_with(|| error.to_string());
        }
        written.entries.push(entry);
    }

    /// Time since the record began.
    pub fn elapsed(&self) -> Duration {
        self.inner.begun.elapsed()
    }

    /// Acknowledged events so far, of all publishers.
    pub fn acks(&self) -> u64 {
        self.inner.acks.load(Ordering::Relaxed)
    }

    /// How many entries are of a kind, so far.
    pub fn count(&self, wanted: impl Fn(&What) -> bool) -> u64 {
        self.inner.written.lock().entries.iter().filter(|entry| wanted(&entry.what)).count() as u64
    }

    /// Everything so far; the file holds it too.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn entries(&self) -> Result<Vec<Entry>, Trouble> {
        let mut written = self.inner.written.lock();
        written.file.flush().context(self.inner.path.display())?;
        match &written.failed {
            None => Ok(written.entries.clone()),
            Some(failed) => Err(Trouble::tool(format!("{}: {failed}", self.inner.path.display()))),
        }
    }
}
