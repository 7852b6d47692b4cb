//! The rules of this repository that a compiler does not know: which crate may import which (DESIGN §9), what a pure core
//! may not name, and what a file owes its reader.
//!
//! Flows in: `cargo metadata` and source text. Flows out: a list of breaches, each saying where and what rule. Must never
//! change anything.

mod layers;
mod sources;

pub use layers::{Manifest, RULES, Rule, check_layers};
pub use sources::check_source;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// A crate or a file.
    pub place: String,
    /// What is wrong, and what the rule is.
    pub what: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}
