//! A set of seqs, kept as ranges: what is damaged lies side by side, and may be a whole file.
//!
//! In: seqs and ranges, in any order. Out: ranges that neither overlap nor touch, rising.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use meridian_types::Seq;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeqRanges(BTreeMap<Seq, Seq>);

impl SeqRanges {
    /// Adds a range; an empty one adds nothing.
    pub fn insert(&mut self, range: RangeInclusive<Seq>) {
        let (mut first, mut last) = range.into_inner();
        if first > last {
            return;
        }
        // Those that overlap or touch it become part of it.
        let after = |seq: Seq| Seq(seq.0.saturating_add(1));
        while let Some((&start, &end)) = self.0.range(..=after(last)).next_back()
            && after(end) >= first
        {
            self.0.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: RangeInclusive<Seq>) {
        let (first, last) = range.into_inner();
        if first > last {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..=last).next_back()
            && end >= first
        {
            self.0.remove(&start);
            if end > last {
                self.0.insert(last.next(), end);
            }
            if start < first {
                self.0.insert(start, first.prev());
            }
        }
    }

    /// Whether it holds a seq.
    pub fn contains(&self, seq: Seq) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, &end)| end >= seq)
    }

    /// The lowest seq.
    pub fn first(&self) -> Option<Seq> {
        self.0.first_key_value().map(|(&start, _)| start)
    }

    /// The lowest seq that is not below `from`.
    pub fn first_from(&self, from: Seq) -> Option<Seq> {
        if self.contains(from) { Some(from) } else { self.0.range(from..).next().map(|(&start, _)| start) }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many seqs it holds.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end.0 - start.0 + 1).sum()
    }

    /// The ranges, rising.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<Seq>> + '_ {
        self.0.iter().map(|(&start, &end)| start..=end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_seqs(steps in proptest::collection::vec((any::<bool>(), 1u64..40, 0u64..8), 0..60)) {
            let (mut ranges, mut model) = (SeqRanges::default(), BTreeSet::new());
            for (add, first, len) in steps {
                let last = first + len;
                if add {
                    ranges.insert(Seq(first)..=Seq(last));
                    model.extend(first..=last);
                } else {
                    ranges.remove(Seq(first)..=Seq(last));
                    model.retain(|seq| !(first..=last).contains(seq));
                }
                let listed: Vec<u64> = ranges.iter().flat_map(|r| r.start().0..=r.end().0).collect();
                prop_assert!(listed.iter().eq(model.iter()), "{listed:?}");
                let all: Vec<_> = ranges.iter().collect();
                prop_assert!(all.windows(2).all(|two| two[0].end().0 + 1 < two[1].start().0), "{all:?}");
                prop_assert_eq!(ranges.count(), model.len() as u64);
                prop_assert_eq!(ranges.first().map(|seq| seq.0), model.first().copied());
                for seq in 0..50 {
                    prop_assert_eq!(ranges.contains(Seq(seq)), model.contains(&seq));
                    let from = model.range(seq..).next().copied();
                    prop_assert_eq!(ranges.first_from(Seq(seq)).map(|seq| seq.0), from);
                }
            }
        }
    }
}
