//! What `meridian shard list --json` and `meridian node list --json` print, as far as tests look at it.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Background, World, meridian, until};

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const REPLICATED_WITHIN: Duration = Duration::from_secs(120);

/// A shard, as a node of the region that holds it knows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ShardRow {
    /// The region that writes it.
    pub origin: String,
    /// Its number.
    pub number: u32,
    /// The region that holds it.
    pub region: String,
    /// The node that leads it.
    pub leader: Option<u32>,
    /// In which epoch.
    pub epoch: u32,
    /// The nodes that have replicas.
    pub members: Vec<u32>,
    /// The node that is to get one.
    pub learner: Option<u32>,
    /// How often its members changed.
    pub version: u32,
    /// Whether they are changing.
    pub changing: bool,
}

impl ShardRow {
    /// Whether a node has, or shall have, a part in it.
    pub fn uses(&self, node: u32) -> bool {
        self.members.contains(&node) || self.learner == Some(node)
    }

    /// As the command line names it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.origin, self.number)
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct NodeRow {
    /// Its number.
    pub node: u32,
    /// Its region.
    pub region: String,
    /// Whether its region hears it.
    pub live: Option<bool>,
    /// Whether it is being emptied.
    pub draining: Option<bool>,
    /// Whether it has come.
    pub joined: Option<bool>,
    /// What clients dial.
    pub endpoint: String,
}

impl World {
    /// `meridian shard list` of a region: its own shards and its copies of others'.
    pub fn shards(&self, region: &str) -> Vec<ShardRow> {
        self.listed("shard", region)
    }

    /// `meridian node list` of a region.
    pub fn nodes_listed(&self, region: &str) -> Vec<NodeRow> {
        let mut rows: Vec<NodeRow> = self.listed("node", region);
        rows.retain(|row| row.region == region);
        rows
    }

    /// Asks those nodes of a region that can answer: a listing is how a test looks, not what it tests.
    fn listed<T: DeserializeOwned>(&self, what: &str, region: &str) -> T {
        let nodes = self.nodes_of(region);
        let running = nodes.iter().filter(|node| self.runs(node));
        let endpoints: Vec<&str> = running.map(|node| self.endpoint(node)).collect();
        let mut command = Command::new(meridian());
        command.args([what, "list", "--json", "--endpoint", &endpoints.join(",")]);
        Background::start(command).finish(SETTLED_WITHIN).ok().json()
    }

    /// The shards of a region, once all are led by nodes that live and none changes.
    ///
    /// # Panics
    /// Not in time.
    pub fn settled_shards(&self, region: &str) -> Vec<ShardRow> {
        until(&format!("the shards of {region} are settled"), SETTLED_WITHIN, || {
            let rows = self.shards(region);
            let nodes = self.nodes_listed(region);
            let lives = |id: u32| nodes.iter().any(|node| node.node == id && node.live == Some(true));
            let odd = rows.iter().find(|row| row.changing || !row.leader.is_some_and(lives));
            match odd {
                Some(row) => Err(format!("{row:?}")),
                // Twice the same: whoever was asked first may have been the last to hear.
                None if self.shards(region) == rows => Ok(rows),
                None => Err("they differ from one look to the next".to_owned()),
            }
        })
    }

    /// Has each shard of a region on so many nodes.
    ///
    /// # Panics
    /// It does not come to that in time.
    pub fn set_replication(&self, region: &str, replicas: usize) {
        let _ = self.cli(&["region", "set-replication", &replicas.to_string(), "--region", region]).ok();
        until(&format!("the shards of {region} have {replicas} replicas"), REPLICATED_WITHIN, || {
            let rows = self.settled_shards(region);
            match rows.iter().find(|row| row.members.len() != replicas) {
                Some(row) => Err(format!("{row:?}")),
                None => Ok(()),
            }
        });
    }
}
