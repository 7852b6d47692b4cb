//! What was measured, as it is kept: one line of JSON for each case of each turn, so that a run that was interrupted goes on
//! where it was, and runs can be compared.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, io};
use crate::latency::Quantiles;
use crate::usage::Usage;

/// One case in one turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Of which code: what git calls it.
    pub commit: String,
    /// When it ended.
    pub when: String,
    /// Its row.
    pub row: String,
    /// Its case in the row.
    pub case: String,
    /// From 1.
    pub turn: usize,
    /// How long its load was counted, in seconds.
    pub counted: f64,
    /// What came of it, or why nothing did.
    pub result: Result<Outcome, String>,
}

/// What a case came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Events, the warm-up included: so many were found in each region in the end.
    pub events: u64,
    /// Events acknowledged a second, within the counted span.
    pub rate: f64,
    /// Events a second over the whole load, until the second region had all of them.
    pub mirrored: Option<f64>,
    /// Bytes of values a second.
    pub bytes: f64,
    /// From when an event was due (closed loop: handed over) to its acknowledgement.
    pub ack: Option<Quantiles>,
    /// From when it was due to when a reader of the last region had it.
    pub lag: Option<Quantiles>,
    /// The lag's p50 less half of the round trip, in microseconds.
    pub above_one_way: Option<u64>,
    /// How long after the last acknowledgement the readers had everything, in seconds.
    pub drained: Option<f64>,
    /// How late the sender was, in an open loop.
    pub late: Option<Quantiles>,
    /// The rate at which it sent, as a part of the one it should hold.
    pub held: Option<f64>,
    /// How long the work took, where that is what is measured, in seconds.
    pub seconds: Option<f64>,
    /// What was read of the disk meanwhile, in bytes.
    pub read: Option<u64>,
    /// What it took.
    pub usage: Usage,
    /// Why this is no figure of the load it names, if so.
    pub invalid: Option<String>,
    /// What is to be known besides.
    pub note: Option<String>,
}

impl Outcome {
    /// Events a second that the bus sustains: of a mirrored load what the mirror keeps up with, if that is less.
    pub fn sustained(&self) -> f64 {
        self.mirrored.map_or(self.rate, |mirrored| self.rate.min(mirrored))
    }
}

/// The file that records are kept in.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    all: Vec<Record>,
}

impl Records {
    /// Opens it, or begins it. What a run wrote last may be half a line: it is measured again.
    ///
    /// # Errors
    /// It cannot be read, or is no file of records.
    pub fn open(path: &Path) -> Result<Self, BenchError> {
        let mut all = Vec::new();
        if let Ok(file) = File::open(path) {
            let lines: Vec<String> =
                BufReader::new(file).lines().collect::<Result<_, _>>().map_err(io("read the records"))?;
            for (at, line) in lines.iter().enumerate() {
                match serde_json::from_str(line) {
                    Ok(record) => all.push(record),
                    Err(_) if at + 1 == lines.len() => {}
                    Err(error) => {
                        let what = format!("{} line {}: {error}; remove it", path.display(), at + 1);
                        return Err(BenchError::wrong(what));
                    }
                }
            }
        }
        let records = Self { path: path.to_owned(), all };
        records.write_all()?;
        Ok(records)
    }

    /// All of them.
    pub fn all(&self) -> &[Record] {
        &self.all
    }

    /// Whether this was measured, of this code and for so many seconds, whatever came of it.
    pub fn has(&self, commit: &str, row: &str, case: &str, turn: usize, counted: f64) -> bool {
        self.all.iter().any(|record| {
            (record.commit.as_str(), record.row.as_str(), record.case.as_str(), record.turn, record.counted)
                == (commit, row, case, turn, counted)
        })
    }

    /// Keeps one more, at once.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, record: Record) -> Result<(), BenchError> {
        let mut file =
            OpenOptions::new().append(true).open(&self.path).map_err(io("open the file of records"))?;
        writeln!(file, "{}", line(&record)?).map_err(io("write a record"))?;
        self.all.push(record);
        Ok(())
    }

    fn write_all(&self) -> Result<(), BenchError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(io("make the folder of the records"))?;
        }
        let lines: Vec<String> = self.all.iter().map(line).collect::<Result<_, _>>()?;
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        std::fs::write(&self.path, text).map_err(io(format!("write {}", self.path.display())))
    }
}

fn line(record: &Record) -> Result<String, BenchError> {
    serde_json::to_string(record).map_err(|error| BenchError::wrong(format!("a record has no text: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(turn: usize) -> Record {
        let text = |text: &str| text.to_owned();
        let (commit, when, row, case) = (text("c"), text("now"), text("r"), text("meridian"));
        Record { commit, when, row, case, turn, counted: 1.0, result: Ok(Outcome::default()) }
    }

    #[test]
    fn a_run_goes_on_after_what_it_wrote_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/records.jsonl");
        let mut records = Records::open(&path).unwrap();
        records.add(record(1)).unwrap();
        records.add(Record { result: Err("refused".to_owned()), ..record(2) }).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"commit\":\"c\",";
        std::fs::write(&path, text).unwrap();
        let mut again = Records::open(&path).unwrap();
        assert_eq!(again.all(), records.all());
        assert!(again.has("c", "r", "meridian", 2, 1.0) && !again.has("c", "r", "meridian", 3, 1.0));
        assert!(!again.has("d", "r", "meridian", 1, 1.0), "of other code");
        assert!(!again.has("c", "r", "meridian", 1, 2.0), "for another time");
        again.add(record(3)).unwrap();
        assert_eq!(Records::open(&path).unwrap().all().len(), 3);
        std::fs::write(&path, "x\ny\n").unwrap();
        assert!(Records::open(&path).is_err());
    }
}
