//! No error reaches a publisher that a client must handle: what waiting can heal, the SDK waits for.

use super::Evidence;
use crate::record::What;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    if evidence.errors_allowed {
        return Vec::new();
    }
    let errors = evidence.entries.iter().filter_map(|entry| match &entry.what {
        What::Error { id, error } => Some(format!("error: {id} was answered: {error}")),
        _ => None,
    });
    errors.collect()
}
