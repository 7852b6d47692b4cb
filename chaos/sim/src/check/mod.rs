//! The laws, one file each, and what all of them rest on: the truth, what is committed in each origin.
//!
//! Each is told what happened as it happens, and answers with what is wrong. The first breach ends the history.

pub mod committed_leaves;
pub mod cursors;
pub mod durable_ack;
pub mod durable_marks;
pub mod hlc_rises;
pub mod liveness;
pub mod marks;
pub mod no_hole_no_twin;
pub mod one_writer;
pub mod promises;
pub mod reads;
pub mod same_bytes;
pub mod stored;
pub mod truth;

use std::fmt;

/// Which law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    DurableAck,
    OneWriter,
    SameBytes,
    OnlyCommittedLeaves,
    NoHoleNoTwin,
    NoCursorAhead,
    HlcRises,
    LinearizableReads,
    StoredLast,
    MarksInOrder,
    PromisesHold,
    NoFault,
    GetsWell,
    /// What the cores assert of themselves.
    OwnChecks,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DurableAck => "durable ack",
            Self::OneWriter => "one writer",
            Self::SameBytes => "same bytes",
            Self::OnlyCommittedLeaves => "only committed leaves",
            Self::NoHoleNoTwin => "no hole, no twin",
            Self::NoCursorAhead => "no cursor ahead",
            Self::HlcRises => "time goes forward",
            Self::LinearizableReads => "linearizable reads",
            Self::StoredLast => "what was stored last",
            Self::MarksInOrder => "marks in order",
            Self::PromisesHold => "promises hold",
            Self::NoFault => "no fault without damage",
            Self::GetsWell => "gets well again",
            Self::OwnChecks => "the cores' own checks",
        })
    }
}

/// What was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub law: Law,
    pub what: String,
}

/// All checkers of a history.
#[derive(Default)]
pub struct Laws {
    pub truth: truth::Truth,
    pub one_writer: one_writer::OneWriter,
    pub durable: durable_ack::DurableAck,
    pub lanes: no_hole_no_twin::NoHoleNoTwin,
    pub cursors: cursors::Cursors,
    pub hlc: hlc_rises::HlcRises,
    pub marks: durable_marks::DurableMarks,
    pub breach: Option<Breach>,
}

impl Laws {
    /// Keeps the first breach.
    pub fn judge(&mut self, law: Law, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.breach.get_or_insert(Breach { law, what });
        }
    }
}
