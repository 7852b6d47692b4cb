//! Which shards a node's region has, as the catalog knows them now.

use meridian_metadata::CatalogHandle;
use meridian_region::Shards;
use meridian_types::{Origin, Seq, ShardId};

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

    fn held_before(&self, shard: ShardId) -> Option<(ShardId, Seq)> {
        self.catalog.state().region(shard.origin.region)?.held_before(shard)
    }
}
