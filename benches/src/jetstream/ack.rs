//! JetStream's acknowledgements, and the subjects that they come back on. Pure.
//!
//! A message by itself is published with the reply subject `prefix.DUE`, which brings back when it was due; one
//! subscription to `prefix.*` takes all of them, as the Go client does. In fast batched ingest (its ADR-50) the subject
//! says what the message is: `prefix.ACK_EVERY.fail.NUMBER.OPERATION.$FI`, where the
//! prefix's last part names the batch.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::BenchError;

/// What a batched message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The first message of a batch.
    Start = 0,
    /// A further one.
    Append = 1,
    /// The end, which is no message itself.
    End = 3,
}

/// What an acknowledgement says.
#[derive(Debug, PartialEq, Eq)]
pub enum Ack {
    /// A message by itself is stored.
    Stored,
    /// Of a batch, the messages up to this number are stored.
    Upto(u64),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a str>,
    seq: Option<u64>,
    /// In a batch's last.
    count: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Ack {
    /// Reads one.
    ///
    /// # Errors
    /// It says that something was not stored, or is no acknowledgement.
    pub fn parse(payload: &[u8]) -> Result<Self, BenchError> {
        let refused = || {
            let said = String::from_utf8_lossy(payload);
            BenchError::wrong(format!("JetStream did not take a message: {said}"))
        };
        let wire: Wire<'_> = serde_json::from_slice(payload).map_err(|_| refused())?;
        if wire.error.is_some() || wire.duplicate {
            return Err(refused());
        }
        match (wire.kind, wire.seq, wire.count) {
            (None, Some(1..), None) => Ok(Self::Stored),
            (None, Some(_), Some(count)) => Ok(Self::Upto(count)),
            (Some("ack"), Some(seq), None) => Ok(Self::Upto(seq)),
            // Among them {"type":"gap"}: messages of a batch were lost.
            _ => Err(refused()),
        }
    }
}

/// The reply subject of a message by itself.
pub fn reply(prefix: &str, due: Duration) -> String {
    format!("{prefix}.{}", due.as_nanos())
}

/// When the message was due that is acknowledged on that subject.
pub fn due(subject: &str) -> Option<Duration> {
    let (_, nanos) = subject.rsplit_once('.')?;
    nanos.parse().ok().map(Duration::from_nanos)
}

/// The reply subject of a batch's message; they are numbered from 1.
pub fn batch_reply(prefix: &str, ack_every: u16, number: u64, operation: Operation) -> String {
    format!("{prefix}.{ack_every}.fail.{number}.{}.$FI", operation as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_read() {
        let parse = |text: &str| Ack::parse(text.as_bytes()).ok();
        assert_eq!(parse(r#"{"stream":"s","domain":"us","seq":7}"#), Some(Ack::Stored));
        assert_eq!(parse(r#"{"type":"ack","seq":0,"msgs":64}"#), Some(Ack::Upto(0)));
        assert_eq!(parse(r#"{"stream":"s","seq":9,"batch":"b","count":4}"#), Some(Ack::Upto(4)));
        for refused in [
            r#"{"stream":"s","seq":7,"duplicate":true}"#,
            r#"{"error":{"code":503,"description":"busy"},"stream":"s","seq":0}"#,
            r#"{"type":"gap","last_seq":3,"seq":5}"#,
            r#"{"type":"err","seq":3,"error":{"code":503}}"#,
            "",
        ] {
            assert_eq!(parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_reply_subject_brings_back_when_its_message_was_due() {
        let late = Duration::from_nanos(1_234_567_890_123);
        assert_eq!(due(&reply("_INBOX.x", late)), Some(late));
        assert_eq!(due("_INBOX.x.y"), None);
        assert_eq!(batch_reply("p", 64, 5, Operation::Append), "p.64.fail.5.1.$FI");
        assert_eq!(batch_reply("p", 64, 6, Operation::End), "p.64.fail.6.3.$FI");
    }
}
