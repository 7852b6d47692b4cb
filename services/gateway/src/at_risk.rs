//! What other regions lack of this one, by their durable marks: known here even while they are out of reach.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_shard::{Progress, ShardHandle};
use meridian_types::{Seq, ShardId, ShardNo, Timestamp};
use meridian_wire::{ApiError, v1};

use crate::held::{Gathered, not_here};
use crate::shared::{Gateway, blocking};

/// By region, and in all.
type AtRisk = (Vec<v1::Link>, v1::AtRisk);

impl Gateway {
    /// What other regions lack of all shards of this one.
    pub(crate) async fn at_risk(&self) -> Result<AtRisk, ApiError> {
        let origin = self.host().home();
        let state = self.catalog().state();
        let shards = state.region(origin.region).map_or(0, |region| region.shards);
        let all = (0..shards).map(|no| ShardId { origin, no: ShardNo(no) });
        let here = |shards| self.at_risk_here(shards);
        let there = |node, shards: Vec<ShardId>| async move {
            let answer = self.peers().at_risk(node, &shards).await?;
            let not_here = not_here(&answer.not_here);
            Ok(((answer.outbound, answer.at_risk.unwrap_or_default()), not_here))
        };
        let Gathered { mut parts, missing } = self.gather(all, Duration::ZERO, here, there).await?;
        // A row for each region, whoever answered.
        parts.push(self.read_at_risk(&[]));
        let (links, mut at_risk) = add_up(parts);
        at_risk.unknown_shards = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        Ok((links, at_risk))
    }

    /// The same of some shards, by this node's own replicas.
    pub(crate) async fn at_risk_here(&self, shards: Vec<ShardId>) -> Result<AtRisk, ApiError> {
        let this = self.clone();
        blocking(move || Ok(this.read_at_risk(&shards))).await
    }

    fn read_at_risk(&self, shards: &[ShardId]) -> AtRisk {
        let now = self.clock().now();
        let shards: Vec<(ShardHandle, Progress)> = shards
            .iter()
            .filter_map(|shard| self.host().get(*shard))
            .map(|shard| (shard.clone(), shard.progress()))
            .collect();
        let state = self.catalog().state();
        let mut links = Vec::new();
        let mut at_risk = v1::AtRisk::default();
        for row in state.regions().filter(|row| row.name != self.me().region) {
            let mut backlog = v1::Backlog::default();
            for (shard, progress) in &shards {
                let marks = self.board().of(shard.id);
                let mark = marks.into_iter().find(|(region, _)| *region == row.name).map(|(_, mark)| mark);
                let mark = mark.unwrap_or_default();
                if mark.seq < progress.applied {
                    backlog.events += progress.totals.events.saturating_sub(mark.totals.events);
                    backlog.bytes += progress.totals.bytes.saturating_sub(mark.totals.bytes);
                    backlog.oldest_ms = backlog.oldest_ms.max(self.age_after(shard, mark.seq, now));
                }
            }
            links.push(v1::Link {
                origin: self.me().region.to_string(),
                region: row.name.to_string(),
                backlog: Some(backlog),
                ..v1::Link::default()
            });
        }
        for (shard, progress) in &shards {
            let best =
                self.board().of(shard.id).into_iter().map(|(_, mark)| mark).max_by_key(|mark| mark.seq);
            let best = best.unwrap_or_default();
            if best.seq < progress.applied {
                let events = progress.totals.events.saturating_sub(best.totals.events);
                at_risk.events += events;
                at_risk.bytes += progress.totals.bytes.saturating_sub(best.totals.bytes);
                if events > 0 {
                    at_risk.oldest_ms = at_risk.oldest_ms.max(self.age_after(shard, best.seq, now));
                }
            }
        }
        (links, at_risk)
    }

    /// How long ago the frame after `seq` was written, in milliseconds. Of one that cannot be read the age is not known,
    /// and 0: how much there is matters more.
    fn age_after(&self, shard: &ShardHandle, seq: Seq, now: Timestamp) -> u64 {
        let frames = self.host().reader().frames(shard.id, seq.next(), 1).unwrap_or_default();
        frames.first().map_or(0, |frame| now.0.saturating_sub(frame.header.hlc.time().0))
    }
}

/// What nodes say of a shard each, together.
fn add_up(parts: Vec<AtRisk>) -> AtRisk {
    let mut links: BTreeMap<String, v1::Link> = BTreeMap::new();
    let mut all = v1::AtRisk::default();
    for (outbound, at_risk) in parts {
        for link in outbound {
            let Some(known) = links.get_mut(&link.region) else {
                links.insert(link.region.clone(), link);
                continue;
            };
            let (known, more) = (known.backlog.get_or_insert_default(), link.backlog.unwrap_or_default());
            known.events += more.events;
            known.bytes += more.bytes;
            known.oldest_ms = known.oldest_ms.max(more.oldest_ms);
        }
        all.events += at_risk.events;
        all.bytes += at_risk.bytes;
        all.oldest_ms = all.oldest_ms.max(at_risk.oldest_ms);
    }
    (links.into_values().collect(), all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_by_region() {
        let link = |region: &str, events| v1::Link {
            region: region.to_owned(),
            backlog: Some(v1::Backlog { events, bytes: 10 * events, oldest_ms: events }),
            ..v1::Link::default()
        };
        let risk = |events| v1::AtRisk { events, bytes: 10 * events, oldest_ms: events, unknown_shards: 0 };
        let parts = vec![(vec![link("eu", 1), link("ap", 2)], risk(1)), (vec![link("eu", 5)], risk(7))];
        let (links, all) = add_up(parts);
        let found: Vec<_> = links.iter().map(|link| (link.region.as_str(), link.backlog.unwrap())).collect();
        let backlog = |events, bytes, oldest_ms| v1::Backlog { events, bytes, oldest_ms };
        assert_eq!(found, [("ap", backlog(2, 20, 2)), ("eu", backlog(6, 60, 5))]);
        assert_eq!((all.events, all.bytes, all.oldest_ms), (8, 80, 7));
    }
}
