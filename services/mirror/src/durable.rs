//! How far other regions have a shard of this region on stable storage.

use std::collections::BTreeMap;

use meridian_shard::Totals;
use meridian_types::mutant::{self, Mutant};
use meridian_types::{LeaderEpoch, RegionName, Seq, ShardId};
use parking_lot::RwLock;

/// A region's report for a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableMark {
    /// Up to where.
    pub seq: Seq,
    /// Sums over what is durable there.
    pub totals: Totals,
    /// The incarnation of the hosting region, and the leadership of its copy: a mark of an older one is ignored.
    pub hosting: (u32, LeaderEpoch),
}

/// The newest report of each region for each shard. In memory alone: links repeat theirs when they connect.
#[derive(Debug, Default)]
pub struct DurableBoard(RwLock<BTreeMap<ShardId, BTreeMap<RegionName, DurableMark>>>);

impl DurableBoard {
    /// Takes a report. One of an older leadership of the copy, or further back in the same, changes nothing. Whether it
    /// was news.
    pub fn report(&self, shard: ShardId, region: &RegionName, mark: DurableMark) -> bool {
        let mut board = self.0.write();
        let known = board.entry(shard).or_default().entry(region.clone()).or_default();
        let newer = mark.hosting > known.hosting || (mark.hosting == known.hosting && mark.seq > known.seq);
        if newer || mutant::is(Mutant::OldDurableMark) {
            *known = mark;
        }
        newer
    }

    /// The reports for a shard.
    pub fn of(&self, shard: ShardId) -> Vec<(RegionName, DurableMark)> {
        let board = self.0.read();
        let marks = board.get(&shard).into_iter().flatten();
        marks.map(|(region, mark)| (region.clone(), *mark)).collect()
    }

    /// The regions that have a frame of a shard.
    pub fn that_have(&self, shard: ShardId, seq: Seq) -> Vec<String> {
        let board = self.0.read();
        let marks = board.get(&shard).into_iter().flatten();
        marks.filter(|(_, mark)| mark.seq >= seq).map(|(region, _)| region.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::ShardId;

    use super::*;

    #[test]
    fn an_older_copys_mark_is_ignored() {
        let board = DurableBoard::default();
        let (shard, region) = (ShardId::default(), RegionName::new("eu").unwrap());
        let mark = |epoch, seq| DurableMark {
            seq: Seq(seq),
            totals: Totals::default(),
            hosting: (1, LeaderEpoch(epoch)),
        };
        board.report(shard, &region, mark(2, 10));
        board.report(shard, &region, mark(1, 99));
        board.report(shard, &region, mark(2, 9));
        assert_eq!(board.of(shard)[0].1.seq, Seq(10));
        assert_eq!((board.that_have(shard, Seq(10)).len(), board.that_have(shard, Seq(11)).len()), (1, 0));
        board.report(shard, &region, mark(3, 4));
        assert_eq!(board.of(shard)[0].1.seq, Seq(4), "a new leadership may hold less");
    }
}
