//! A file, or stdin, as lines that are ready to be published. Reads on a thread of its own; never holds more than a few
//! chunks, and never a line longer than an event may be.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use meridian_types::limits::EVENT_BYTES;
use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::line;

/// One line with something on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: u64,
    /// Its bytes, without the newline.
    pub value: Bytes,
    /// Its key.
    pub key: Option<Bytes>,
}

/// The line at which reading stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number in the file, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Lines under way to the publisher.
const CHUNKS: usize = 8;
const CHUNK_LINES: usize = 256;
const CHUNK_BYTES: usize = 128 * 1024;
const BUFFER: usize = 256 * 1024;

/// Where lines come from.
pub struct Input {
    /// What is read.
    pub name: String,
    /// How many bytes the file has, packed or not; none for stdin.
    pub size: Option<u64>,
    /// How many of them were read.
    pub position: Arc<AtomicU64>,
    bytes: Box<dyn Read + Send>,
}

impl Input {
    /// Opens a file, or stdin for `-`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let position = Arc::new(AtomicU64::new(0));
        if name == "-" {
            let bytes = Box::new(Counted { inner: io::stdin(), position: Arc::clone(&position) });
            return Ok(Self { name: "stdin".to_owned(), size: None, position, bytes });
        }
        let failed = |error: io::Error| Failure::input(format!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::input(format!("{name} is a folder; name a file, or - for stdin")));
        }
        let size = metadata.is_file().then_some(metadata.len());
        let bytes = Box::new(Counted { inner: file, position: Arc::clone(&position) });
        Ok(Self { name, size, position, bytes })
    }

    /// Reads on a thread until the end, the first broken line, or until the receiver is dropped.
    pub fn read(self, key_field: Option<String>) -> mpsc::Receiver<Result<Vec<Line>, Broken>> {
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        std::thread::spawn(move || {
            let mut lines = match Lines::new(self.bytes, key_field) {
                Ok(lines) => lines,
                Err(error) => {
                    let _ = chunks.blocking_send(Err(Broken { number: 1, reason: error.to_string() }));
                    return;
                }
            };
            let mut full = true;
            while full {
                let (chunk, end) = lines.chunk();
                full = end.is_none() && !chunk.is_empty();
                // A receiver that is gone wants no more.
                if !chunk.is_empty() && chunks.blocking_send(Ok(chunk)).is_err() {
                    return;
                }
                if let Some(broken) = end {
                    let _ = chunks.blocking_send(Err(broken));
                }
            }
        });
        receiver
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Lines of bytes that may be packed with gzip, whatever they are called.
struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    key_field: Option<String>,
    number: u64,
}

impl Lines {
    fn new(bytes: Box<dyn Read + Send>, key_field: Option<String>) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(BUFFER, bytes);
        if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            let unpacked: Box<dyn Read + Send> = Box::new(MultiGzDecoder::new(reader));
            reader = BufReader::with_capacity(BUFFER, unpacked);
        }
        Ok(Self { reader, key_field, number: 0 })
    }

    /// The next lines: until enough, until reading more would wait, or until the end. Nothing: the end.
    fn chunk(&mut self) -> (Vec<Line>, Option<Broken>) {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        loop {
            match self.next() {
                None => return (lines, None),
                Some(Err(broken)) => return (lines, Some(broken)),
                Some(Ok(line)) => {
                    bytes += line.value.len();
                    lines.push(line);
                }
            }
            if lines.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES || self.reader.buffer().is_empty() {
                return (lines, None);
            }
        }
    }

    fn next(&mut self) -> Option<Result<Line, Broken>> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let number = self.number;
            let broken = |reason: String| Some(Err(Broken { number, reason }));
            // One more for the newline, and one to see that it is too long.
            match (&mut self.reader).take(EVENT_BYTES as u64 + 2).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return broken(format!("cannot read on: {error}")),
            }
            line.pop_if(|last| *last == b'\n');
            if line.len() > EVENT_BYTES {
                return broken(too_large());
            }
            if line::is_blank(&line) {
                continue;
            }
            let key = match line::key_of(&line, self.key_field.as_deref()) {
                Ok(key) => key,
                Err(error) => return broken(error.to_string()),
            };
            if line.len() + key.as_ref().map_or(0, Bytes::len) > EVENT_BYTES {
                return broken(too_large());
            }
            return Some(Ok(Line { number, value: Bytes::from(line), key }));
        }
    }
}

fn too_large() -> String {
    format!("an event of more than {EVENT_BYTES} bytes (key and value together), which is the limit")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: impl AsRef<[u8]>) -> (Vec<(u64, String)>, Option<Broken>) {
        let bytes = Box::new(io::Cursor::new(bytes.as_ref().to_vec()));
        let mut lines = Lines::new(bytes, None).unwrap();
        let mut all = Vec::new();
        loop {
            let (chunk, broken) = lines.chunk();
            let end = chunk.is_empty() || broken.is_some();
            all.extend(
                chunk.into_iter().map(|line| (line.number, String::from_utf8(line.value.to_vec()).unwrap())),
            );
            if end {
                return (all, broken);
            }
        }
    }

    fn texts(lines: &[(u64, &str)]) -> Vec<(u64, String)> {
        lines.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn bytes_stay_as_they_are_and_empty_lines_are_skipped() {
        let (lines, broken) = read("{\"a\": 1}\n\n  \r\n {\"b\":2} \r\n3");
        assert_eq!(lines, texts(&[(1, "{\"a\": 1}"), (4, " {\"b\":2} \r"), (5, "3")]));
        assert_eq!(broken, None);
        assert_eq!(read(""), (vec![], None));
    }

    #[test]
    fn stops_at_the_first_broken_line_and_says_its_number() {
        let (lines, broken) = read("1\n\n2\n{\"a\":\n4\n");
        assert_eq!(lines, texts(&[(1, "1"), (3, "2")]));
        let broken = broken.unwrap();
        assert_eq!(broken.number, 4);
        assert!(broken.reason.contains("not JSON"), "{}", broken.reason);
    }

    #[test]
    fn gzip_is_known_by_its_bytes_also_in_several_members() {
        let mut packed = Vec::new();
        for text in ["1\n2\n", "3\n"] {
            let mut encoder = GzEncoder::new(&mut packed, Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap();
        }
        assert_eq!(read(&packed), (texts(&[(1, "1"), (2, "2"), (3, "3")]), None));
        packed.truncate(packed.len() - 9);
        let (lines, broken) = read(&packed);
        assert_eq!(lines[..2], texts(&[(1, "1"), (2, "2")]));
        assert!(broken.unwrap().reason.contains("cannot read on"));
    }

    #[test]
    fn a_line_over_the_limit_is_not_read_to_its_end() {
        let fits = format!("\"{}\"", "x".repeat(EVENT_BYTES - 2));
        let (lines, broken) = read(format!("1\n{fits}\n"));
        assert_eq!((lines.len(), broken), (2, None));
        let (lines, broken) = read(format!("1\n\"{}\"\n", "x".repeat(EVENT_BYTES - 1)));
        assert_eq!(lines.len(), 1);
        assert_eq!(broken.map(|b| (b.number, b.reason)), Some((2, too_large())));
        // Endless, and no newline anywhere.
        let mut endless = Lines::new(Box::new(io::repeat(b'1')), None).unwrap();
        assert!(matches!(endless.next(), Some(Err(Broken { number: 1, .. }))));
    }

    #[test]
    fn a_key_counts_towards_the_limit() {
        let line = format!("{{\"k\":\"{}\"}}", "x".repeat(EVENT_BYTES / 2));
        let bytes = Box::new(io::Cursor::new(line.into_bytes()));
        let mut lines = Lines::new(bytes, Some("k".to_owned())).unwrap();
        assert_eq!(lines.next(), Some(Err(Broken { number: 1, reason: too_large() })));
    }
}
