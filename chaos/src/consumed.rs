//! What `meridian consume --with-metadata` prints.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use serde::Deserialize;

use crate::{Background, World};

/// An event.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its partition.
    pub partition: u32,
    /// Its origin's name.
    pub origin: String,
    /// Its origin's incarnation, where that is not the first.
    pub incarnation: Option<u16>,
    /// Its offset.
    pub offset: u64,
    /// Its hybrid logical time, as text.
    pub hlc: String,
    /// Its producer's time.
    pub timestamp: u64,
    /// Its key.
    pub key: Option<String>,
    /// What it says.
    pub value: String,
}

/// Reads a stream in a region from the start until it is caught up. A gap is no [`Row`], and so a failure.
///
/// # Panics
/// The command fails, or prints anything but events.
pub fn consume(world: &World, region: &str, stream: &str, within: Duration, take: impl FnMut(Row)) {
    next_rows(world, region, stream, &["--from", "start", "--until-caught-up"], within, take);
}

/// Reads a stream in a region with other options.
///
/// # Panics
/// As [`consume`].
pub fn next_rows(
    world: &World,
    region: &str,
    stream: &str,
    options: &[&str],
    within: Duration,
    mut take: impl FnMut(Row),
) {
    let mut arguments = vec!["consume", stream, "--with-metadata", "--region", region];
    arguments.extend(options);
    let (running, stdout) = Background::start_reading(world.command(&arguments));
    for line in BufReader::with_capacity(1 << 20, stdout).lines() {
        let line = line.expect("a pipe from a child can be read");
        take(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}")));
    }
    let _ = running.finish(within).ok();
}
