//! Who leads which shard of the region, as far as it was told. Pure.
//!
//! Law: of each shard the highest epoch heard of stands; a node that is behind takes nothing back.

use std::collections::HashMap;

use meridian_types::{
    Incarnation, LeaderEpoch, NodeId, Origin, Partition, RegionId, ShardNo, StreamId, shard_of,
};
use meridian_wire::v1::{GetTopologyResponse, ListShardsResponse};

/// The leaders of one region's own shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The region's incarnation, and how many shards it has.
    home: Option<(Origin, u16)>,
    leaders: HashMap<ShardNo, (LeaderEpoch, Option<NodeId>)>,
}

impl Routes {
    /// Takes what a node says. `shards` absent: it is of a version that does not say who leads.
    pub(crate) fn learn(&mut self, topology: &GetTopologyResponse, shards: Option<&ListShardsResponse>) {
        let home = home(topology);
        if self.home != home {
            *self = Self { home, leaders: HashMap::new() };
        }
        let (Some((origin, _)), Some(shards)) = (home, shards) else { return };
        for row in &shards.shards {
            let (Some(of), Ok(number)) = (&row.origin, u16::try_from(row.number)) else { continue };
            if (of.region, of.incarnation) != (u32::from(origin.region.0), u32::from(origin.incarnation.0)) {
                continue;
            }
            let said = (LeaderEpoch(row.epoch), row.leader.map(NodeId));
            let known = self.leaders.entry(ShardNo(number)).or_insert(said);
            if said.0 > known.0 || (said.0 == known.0 && known.1.is_none()) {
                *known = said;
            }
        }
    }

    /// The node that leads the shard of a partition.
    pub(crate) fn leader(&self, stream: StreamId, partition: Partition) -> Option<NodeId> {
        let (_, shards) = self.home?;
        self.leaders.get(&shard_of(stream, partition, shards))?.1
    }
}

fn home(topology: &GetTopologyResponse) -> Option<(Origin, u16)> {
    let row = topology.regions.iter().find(|row| row.name == topology.region)?;
    let region = RegionId(u16::try_from(row.id).ok()?);
    let incarnation = Incarnation(u16::try_from(row.incarnation).ok()?);
    let shards = u16::try_from(row.shards).ok().filter(|shards| *shards > 0)?;
    Some((Origin { region, incarnation }, shards))
}

#[cfg(test)]
mod tests {
    use meridian_wire::v1;

    use super::*;

    const STREAM: StreamId = StreamId(1);

    fn topology(incarnation: u32) -> GetTopologyResponse {
        let region = v1::Region { id: 1, name: "us".into(), incarnation, shards: 1 };
        GetTopologyResponse { region: "us".into(), regions: vec![region], ..GetTopologyResponse::default() }
    }

    fn said(region: u32, epoch: u32, leader: Option<u32>) -> ListShardsResponse {
        let origin = Some(v1::Origin { region, incarnation: 1 });
        let shard = v1::Shard { origin, number: 0, epoch, leader, ..v1::Shard::default() };
        ListShardsResponse { shards: vec![shard], ..ListShardsResponse::default() }
    }

    #[test]
    fn the_highest_epoch_stands() {
        let mut routes = Routes::default();
        let leader = |routes: &Routes| routes.leader(STREAM, Partition(0)).map(|node| node.0);
        assert_eq!(leader(&routes), None);
        routes.learn(&topology(1), Some(&said(1, 3, Some(1))));
        assert_eq!(leader(&routes), Some(1));
        routes.learn(&topology(1), Some(&said(1, 2, Some(2))));
        assert_eq!(leader(&routes), Some(1), "that node is behind");
        routes.learn(&topology(1), Some(&said(1, 4, None)));
        assert_eq!(leader(&routes), None, "an election is under way");
        routes.learn(&topology(1), Some(&said(1, 4, Some(3))));
        assert_eq!(leader(&routes), Some(3));
        routes.learn(&topology(1), Some(&said(1, 4, None)));
        assert_eq!(leader(&routes), Some(3), "not every node has heard of it yet");
        routes.learn(&topology(1), Some(&said(2, 9, Some(2))));
        assert_eq!(leader(&routes), Some(3), "that is a copy of another region's shard");
        routes.learn(&topology(1), None);
        assert_eq!(leader(&routes), Some(3));
        routes.learn(&topology(2), None);
        assert_eq!(leader(&routes), None, "a new incarnation begins anew");
    }
}
