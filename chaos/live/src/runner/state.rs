//! What was done before an interruption: a file with a line for each run that came to its end.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::runner::RunResult;
use crate::trouble::{Context as _, Trouble};

/// The runs that are done.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// In the order in which they ended.
    pub done: Vec<RunResult>,
}

impl State {
    /// Goes on with this file, or begins it anew.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path, resume: bool) -> Result<Self, Trouble> {
        let mut done = Vec::new();
        if resume && path.exists() {
            let text = std::fs::read_to_string(path).context(path.display())?;
            // A line that was cut short by the interruption is a run that did not end.
            done = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).context(folder.display())?;
        }
        let state = Self { path: path.to_owned(), done };
        let lines: Result<String, Trouble> = state.done.iter().map(line).collect();
        std::fs::write(path, lines?).context(path.display())?;
        Ok(state)
    }

    /// Begins anew.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn anew(self) -> Result<Self, Trouble> {
        Self::open(&self.path, false)
    }

    /// Whether this run is done.
    pub fn has(&self, scenario: &str, time: u32) -> bool {
        self.done.iter().any(|run| run.scenario == scenario && run.time == time)
    }

    /// One more is done.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, run: RunResult) -> Result<(), Trouble> {
        let mut file = OpenOptions::new().append(true).open(&self.path).context(self.path.display())?;
        file.write_all(line(&run)?.as_bytes()).context(self.path.display())?;
        file.sync_data().context(self.path.display())?;
        self.done.push(run);
        Ok(())
    }
}

fn line(run: &RunResult) -> Result<String, Trouble> {
    Ok(serde_json::to_string(run).context("a result")? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Ended;

    #[test]
    fn what_was_done_is_known_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let run = |time| RunResult {
            scenario: "01".to_owned(),
            time,
            seed: 7,
            seconds: 1.0,
            verdict: Default::default(),
            ended: Ended::Skipped("no root".to_owned()),
        };
        let mut state = State::open(&path, false).unwrap();
        state.add(run(1)).unwrap();
        state.add(run(2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let state = State::open(&path, true).unwrap();
        assert!(state.has("01", 1) && !state.has("01", 2));
        assert!(!state.anew().unwrap().has("01", 1));
        assert!(!State::open(&path, true).unwrap().has("01", 1));
    }
}
