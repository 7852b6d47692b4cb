//! What is left of an incarnation that is over: how far somebody holds its shards, and who of the region that is restored does.

use std::collections::BTreeMap;

use meridian_types::{Incarnation, NodeId, Origin, RegionId, Seq};
use meridian_wire::v1;

use super::convert::{malformed, narrow};
use super::reply::Refusal;

/// How far a node holds shards, by origin and number.
pub type Holdings = BTreeMap<(Origin, u32), Seq>;

/// What those who were asked before a restore said of a past incarnation, of this region or another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Which.
    pub origin: Origin,
    /// By shard number: how far a node of another region holds it.
    pub elsewhere: Vec<Seq>,
    /// By node of the region that is restored, and shard number: how far that node holds it. Those that were removed since hold nothing.
    pub held: BTreeMap<NodeId, Vec<Seq>>,
}

impl Past {
    /// What is left, where so many shards were and each node said how far it had applied them: what is applied was committed, in every
    /// copy. `said`: the node, whether it stays in the region that is restored, and what it holds, by origin and shard number.
    pub fn of(origin: Origin, shards: u16, said: &[(NodeId, bool, Holdings)]) -> Self {
        let mut past =
            Self { origin, elsewhere: vec![Seq::ZERO; usize::from(shards)], held: BTreeMap::new() };
        for (node, stays, held) in said {
            let held: Vec<Seq> = (0..u32::from(shards))
                .map(|no| held.get(&(origin, no)).copied().unwrap_or_default())
                .collect();
            if !stays {
                past.elsewhere =
                    past.elsewhere.iter().zip(&held).map(|(longest, seq)| *longest.max(seq)).collect();
            } else if held.iter().any(|seq| *seq > Seq::ZERO) {
                past.held.insert(*node, held);
            }
        }
        past
    }

    /// Keeps what was known before of nodes that stay: whoever did not answer this time, or not of this, holds it still.
    pub(super) fn keep(&mut self, before: &Self) {
        for (node, held) in &before.held {
            let now = self.held.entry(*node).or_insert_with(|| held.clone());
            for (now, before) in now.iter_mut().zip(held) {
                *now = (*now).max(*before);
            }
        }
    }

    /// How far somebody holds a shard, in whatever region; none: there is no such shard.
    pub fn through(&self, shard: u16) -> Option<Seq> {
        let of = |held: &Vec<Seq>| held.get(usize::from(shard)).copied();
        of(&self.elsewhere).map(|seq| self.held.values().filter_map(of).fold(seq, Seq::max))
    }
}

/// What each lacks is written, for that is little: an entry has room for some 48 KiB.
impl From<&Past> for v1::PastShards {
    fn from(past: &Past) -> Self {
        let through: Vec<u64> = (0..).map_while(|no| past.through(no)).map(|seq| seq.0).collect();
        let lacks = |held: &[Seq]| -> Vec<u64> {
            through.iter().zip(held).map(|(through, seq)| through.saturating_sub(seq.0)).collect()
        };
        let holders =
            past.held.iter().map(|(node, held)| v1::PastHolder { node: node.0, lacks: lacks(held) });
        let elsewhere = lacks(&past.elsewhere);
        Self {
            origin: Some(past.origin.into()),
            holders: holders.collect(),
            elsewhere_lacks: if elsewhere.iter().all(|lacks| *lacks == 0) { vec![] } else { elsewhere },
            through,
        }
    }
}

impl TryFrom<v1::PastShards> for Past {
    type Error = Refusal;

    fn try_from(wire: v1::PastShards) -> Result<Self, Refusal> {
        let origin = wire.origin.ok_or_else(|| malformed("a past incarnation without its origin"))?;
        let origin = Origin {
            region: RegionId(narrow("region", origin.region)?),
            incarnation: Incarnation(narrow("incarnation", origin.incarnation)?),
        };
        let held = |lacks: Vec<u64>, rest: u64| -> Vec<Seq> {
            let lacks = lacks.into_iter().chain(std::iter::repeat(rest));
            wire.through
                .iter()
                .zip(lacks)
                .map(|(through, lacks)| Seq(through.saturating_sub(lacks)))
                .collect()
        };
        let elsewhere = held(wire.elsewhere_lacks, 0);
        let holders = wire.holders.into_iter();
        let held = holders.map(|holder| (NodeId(holder.node), held(holder.lacks, u64::MAX))).collect();
        Ok(Self { origin, elsewhere, held })
    }
}

/// What an earlier build wrote: how far the incarnation before is to be held.
pub(super) fn of_recovered(region: RegionId, over: u16, recovered: Vec<u64>) -> Option<Past> {
    let origin = Origin { region, incarnation: Incarnation(over) };
    let elsewhere: Vec<Seq> = recovered.into_iter().map(Seq).collect();
    (!elsewhere.is_empty() && over > 0).then(|| Past { origin, elsewhere, held: BTreeMap::new() })
}
