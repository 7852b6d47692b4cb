//! The laws, one file each, and what all of them rest on: the truth, what is committed in each origin.
//!
//! Each is told what happened as it happens, and answers with what is wrong. The first breach ends the history.

pub(crate) mod committed_leaves;
pub(crate) mod cursors;
pub(crate) mod doubt;
pub(crate) mod durable_ack;
pub(crate) mod durable_marks;
pub(crate) mod hlc_rises;
pub(crate) mod incarnations;
pub(crate) mod liveness;
pub(crate) mod marks;
pub(crate) mod no_hole_no_twin;
pub(crate) mod one_writer;
pub(crate) mod promises;
pub(crate) mod reads;
pub(crate) mod same_bytes;
pub(crate) mod stored;
pub(crate) mod truth;

use std::fmt;

/// Which law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    /// Law 1.
    DurableAck,
    /// Law 2.
    OneWriter,
    /// Law 3.
    SameBytes,
    /// Law 4.
    OnlyCommittedLeaves,
    /// Law 5.
    NoHoleNoTwin,
    /// Law 6, as far as the cores know cursors.
    NoCursorAhead,
    /// Law 7.
    HlcRises,
    /// A read misses nothing that was acknowledged before it.
    LinearizableReads,
    /// What is recovered is what was stored last.
    StoredLast,
    /// The order of a replica's marks.
    MarksInOrder,
    /// A promise is synced before it is given, and kept.
    PromisesHold,
    /// What damage may have cost is in doubt until it is made good.
    InDoubt,
    /// What a survivor had of an incarnation that is over stays.
    Survives,
    /// Nothing is faulted where nothing was damaged.
    NoFault,
    /// Once the faults have ended all gets well.
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
            Self::InDoubt => "in doubt until it is made good",
            Self::Survives => "what survives stays",
            Self::NoFault => "no fault without damage",
            Self::GetsWell => "gets well again",
            Self::OwnChecks => "the cores' own checks",
        })
    }
}

/// What was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which law.
    pub law: Law,
    /// How, in a sentence.
    pub what: String,
}

/// All checkers of a history.
#[derive(Default)]
pub(crate) struct Laws {
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
