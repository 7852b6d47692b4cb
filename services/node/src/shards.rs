//! Which shards a node's region has, as the catalog knows them now.

use meridian_metadata::CatalogHandle;
use meridian_region::Shards;
use meridian_types::{Incarnation, Origin, Seq, ShardId};

/// The catalog's word on shards, for a node that writes as `home`.
pub struct CatalogShards {
    /// The catalog.
    pub catalog: CatalogHandle,
    /// The incarnation of its region that this process serves.
    pub home: Origin,
}

impl Shards for CatalogShards {
    /// Every region keeps a copy of every region's shards, those of past incarnations too. What a later incarnation of this
    /// region has is for the process that serves that.
    fn wanted(&self) -> Vec<ShardId> {
        let state = self.catalog.state();
        let of_later =
            |origin: &Origin| origin.region == self.home.region && origin.incarnation > self.home.incarnation;
        state
            .regions()
            .flat_map(|region| region.origins().map(move |origin| (region, origin)))
            .filter(|(_, origin)| !of_later(origin))
            .flat_map(|(region, origin)| region.shards_of(origin))
            .collect()
    }

    fn held_before(&self, shard: ShardId) -> Option<(ShardId, Seq)> {
        let state = self.catalog.state();
        let region = state.region(shard.origin.region).filter(|region| region.origin() == shard.origin)?;
        let through = *region.recovered.get(usize::from(shard.no.0))?;
        let incarnation = Incarnation(shard.origin.incarnation.0 - 1);
        let origin = Origin { incarnation, ..shard.origin };
        Some((ShardId { origin, ..shard }, through))
    }
}
