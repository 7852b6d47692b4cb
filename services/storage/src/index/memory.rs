//! The twin in memory, for simulations and tests.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use super::keys::Family;
use super::{Batch, Change, Direction, KeyRange, KeyValue, KvError, Pair};

/// A [`KeyValue`] that loses in a [`crash`](Self::crash) exactly what was written after the last flush.
#[derive(Debug, Default)]
pub struct MemoryKeyValue(Mutex<State>);

type Rows = BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Debug, Default)]
struct State {
    live: Rows,
    durable: Rows,
    /// What leads from `durable` to `live`, so that a flush costs what was written and not what is there.
    since: Vec<Change>,
}

impl MemoryKeyValue {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process ends without a word: back to the last flush, over all families at once.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.since.clear();
        state.live = state.durable.clone();
    }
}

fn change(rows: &mut Rows, change: Change) {
    match change {
        Change::Put { family, key, value } => {
            rows.entry(family).or_default().insert(key, value);
        }
        Change::Delete { family, key } => {
            rows.entry(family).or_default().remove(&key);
        }
    }
}

impl KeyValue for MemoryKeyValue {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut state = self.0.lock();
        for one in batch.changes {
            state.since.push(one.clone());
            change(&mut state.live, one);
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.lock().live.get(&family).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, KvError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.0.lock();
        let Some(rows) = state.live.get(&family) else { return Ok(Vec::new()) };
        let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = rows.range::<[u8], _>((Bound::Included(range.from.as_slice()), to));
        let own = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match direction {
            Direction::Forward => rows.take(limit).map(own).collect(),
            Direction::Reverse => rows.rev().take(limit).map(own).collect(),
        })
    }

    fn flush(&self) -> Result<(), KvError> {
        let state = &mut *self.0.lock();
        for one in state.since.drain(..) {
            change(&mut state.durable, one);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::conformance::{self, Subject};
    use super::*;

    impl Subject for Arc<MemoryKeyValue> {
        fn kv(&self) -> &dyn KeyValue {
            &**self
        }

        fn crash(self) -> Self {
            MemoryKeyValue::crash(&self);
            self
        }
    }

    #[test]
    fn conforms() {
        conformance::suite(Arc::<MemoryKeyValue>::default);
    }
}
