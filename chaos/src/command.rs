//! A command that runs beside the test, and what it came to.

use std::io::{Read, Write as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The command, for messages.
    pub what: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said besides.
    pub stderr: String,
}

impl Ended {
    /// Itself, if it did what it was asked.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{} failed:\n{}", self.what, self.stderr);
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// It is no JSON of that form.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| {
            let text = String::from_utf8_lossy(&self.stdout);
            panic!("{} printed what is not expected: {error}\n{text}\n{}", self.what, self.stderr)
        })
    }

    /// Itself, if it failed and said all of this on stderr.
    ///
    /// # Panics
    /// It did not.
    #[must_use]
    pub fn failed_saying(self, parts: &[&str]) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{} should fail: {:?}", self.what, self.code);
        for part in parts {
            assert!(self.stderr.contains(part), "{} should say {part:?}:\n{}", self.what, self.stderr);
        }
        self
    }
}

/// A command under way. Dropped before its end, it is killed.
#[derive(Debug)]
pub struct Background {
    what: String,
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Background {
    /// Starts it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: Command) -> Self {
        let (mut this, stdout) = Self::start_reading(command);
        this.stdout = Some(collect(stdout));
        this
    }

    /// Starts it, and gives what it prints to the caller, who must read to the end.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_reading(mut command: Command) -> (Self, ChildStdout) {
        let what = describe(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what} cannot start: {error}"));
        let stdout: ChildStdout = child.stdout.take().expect("it was asked for");
        let stderr: ChildStderr = child.stderr.take().expect("it was asked for");
        (Self { what, child, stdout: None, stderr: Some(collect(stderr)) }, stdout)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end in time; it is killed then.
    pub fn finish(mut self, within: Duration) -> Ended {
        let until = Instant::now() + within;
        let status: ExitStatus = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                other => {
                    let _ = self.child.kill();
                    let said = self.stderr.take().map(text).unwrap_or_default();
                    panic!("{} did not end within {within:?} ({other:?}):\n{said}", self.what);
                }
            }
        };
        Ended {
            what: self.what.clone(),
            code: status.code(),
            stdout: self.stdout.take().map(bytes).unwrap_or_default(),
            stderr: self.stderr.take().map(text).unwrap_or_default(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Err(error) = from.read_to_end(&mut all) {
            let _ = write!(all, "\n(the rest cannot be read: {error})");
        }
        all
    })
}

fn bytes(reader: JoinHandle<Vec<u8>>) -> Vec<u8> {
    reader.join().unwrap_or_default()
}

fn text(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes(reader)).into_owned()
}

fn describe(command: &Command) -> String {
    let mut text = "meridian".to_owned();
    for argument in command.get_args() {
        text = format!("{text} {}", argument.to_string_lossy());
    }
    text
}
