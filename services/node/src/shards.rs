//! Which shards a node's region has, as the catalog knows them now.

use std::collections::BTreeMap;

use meridian_metadata::CatalogHandle;
use meridian_region::Shards;
use meridian_types::{NodeId, Origin, Seq, ShardId};

/// The catalog's word on shards, for a node that writes as `home`.
pub struct CatalogShards {
    /// The catalog.
    pub catalog: CatalogHandle,
    /// The incarnation of its region that this process serves.
    pub home: Origin,
}

impl Shards for CatalogShards {
    fn wanted(&self) -> Vec<ShardId> {
        self.catalog.state().shards_for(self.home)
    }

    fn held_before(&self, shard: ShardId) -> Vec<(ShardId, Seq)> {
        let state = self.catalog.state();
        state.region(shard.origin.region).map(|region| region.held_before(shard)).unwrap_or_default()
    }

    fn holders(&self) -> BTreeMap<ShardId, BTreeMap<NodeId, Seq>> {
        let state = self.catalog.state();
        let region = state.region(self.home.region).filter(|region| region.origin() == self.home);
        region.map(|region| region.holders()).unwrap_or_default()
    }
}
