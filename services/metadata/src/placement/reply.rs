//! What placement answers.

use meridian_wire::v1;

/// What a command came to: one outcome a change, in order.
pub type Reply = Vec<Outcome>;

/// What a change came to.
pub type Outcome = Result<(), Refusal>;

/// Why a change changed nothing, for programs.
pub type RefusalCode = v1::placement_refused::Code;

/// Why a change changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What a program acts on.
    pub code: RefusalCode,
    /// What a person reads: what is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

pub(crate) fn refuse(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

pub(crate) fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Malformed, message)
}
