//! Who leads what, as each node of a region says itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_sdk::v1::cluster_service_client::ClusterServiceClient;
use meridian_sdk::v1::shard::Role;
use meridian_sdk::v1::{ListShardsRequest, Shard};
use tonic::transport::Endpoint;

use crate::trouble::{Context as _, Trouble};
use crate::world::World;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a node logs when it begins to decide over its region's shards.
const DRIVES: &str = "drives the region's placement";

/// The home shards of a region, as its nodes know them.
#[derive(Clone, Debug, Default)]
pub struct Leading {
    /// What each node says, by its index; nothing of those that do not answer.
    pub said: BTreeMap<usize, Vec<Shard>>,
}

impl Leading {
    /// By shard: the latest epoch, and the node that says that it leads in it.
    pub fn leaders(&self) -> BTreeMap<u32, (u32, usize)> {
        let mut leaders: BTreeMap<u32, (u32, usize)> = BTreeMap::new();
        for (index, shards) in &self.said {
            for shard in shards.iter().filter(|shard| shard.role() == Role::Leader) {
                let latest = leaders.entry(shard.number).or_default();
                *latest = (*latest).max((shard.epoch, *index));
            }
        }
        leaders
    }

    /// The latest epoch of each shard that anybody knows of.
    pub fn epochs(&self) -> BTreeMap<u32, u32> {
        let mut epochs = BTreeMap::new();
        for shard in self.said.values().flatten() {
            let latest: &mut u32 = epochs.entry(shard.number).or_default();
            *latest = shard.epoch.max(*latest);
        }
        epochs
    }

    /// The node that leads the most shards.
    pub fn most(&self) -> Option<usize> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, index) in self.leaders().into_values() {
            *counts.entry(index).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(index, _)| index)
    }

    /// Shards that this node says that it leads, and in which epoch.
    pub fn led_by(&self, index: usize) -> BTreeMap<u32, u32> {
        let shards = self.said.get(&index).into_iter().flatten();
        let led = shards.filter(|shard| shard.role() == Role::Leader);
        led.map(|shard| (shard.number, shard.epoch)).collect()
    }

    /// What keeps the region from being well: each shard with one leader, known and followed by all other members.
    fn lacks(&self, nodes: &[usize]) -> Option<String> {
        if let Some(silent) = nodes.iter().find(|index| !self.said.contains_key(index)) {
            return Some(format!("node {} does not answer", silent + 1));
        }
        let leaders = self.leaders();
        for (index, shards) in &self.said {
            if shards.is_empty() {
                return Some(format!("node {} knows no shards", index + 1));
            }
            for shard in shards {
                let Some((epoch, leader)) = leaders.get(&shard.number) else {
                    return Some(format!("shard {} is led by nobody", shard.number));
                };
                let node = index + 1;
                let is_member = shard.members.iter().any(|member| *member as usize == node);
                let wanted = match (index == leader, is_member) {
                    (true, _) => Role::Leader,
                    (_, true) => Role::Follower,
                    _ => shard.role(),
                };
                let told = shard.epoch == *epoch && shard.leader.is_some_and(|id| id as usize == leader + 1);
                if !told || shard.role() != wanted || shard.damaged || shard.changing {
                    return Some(format!(
                        "node {node} says of shard {}: {:?} in epoch {} under {:?}, changing: {}, damaged: {}; node {} \
                         leads in {epoch}",
                        shard.number,
                        shard.role(),
                        shard.epoch,
                        shard.leader,
                        shard.changing,
                        shard.damaged,
                        leader + 1
                    ));
                }
            }
        }
        None
    }
}

impl World {
    /// Asks all nodes of a region about its own shards, at once.
    ///
    /// # Errors
    /// The world has ended.
    pub fn leading(&self, region: u8) -> Result<Leading, Trouble> {
        let nodes: Vec<(usize, String)> =
            self.nodes_of(region).into_iter().map(|index| (index, self.endpoint(index))).collect();
        let said = self.clients.run(async move {
            let mut asked = tokio::task::JoinSet::new();
            for (index, endpoint) in nodes {
                asked.spawn(async move { Some((index, ask(endpoint).await?)) });
            }
            asked.join_all().await
        })?;
        let said: Vec<(usize, Vec<Shard>)> = said.into_iter().flatten().collect();
        let own = |shard: &Shard| shard.origin.filter(|origin| origin.region == u32::from(region));
        // Those of past incarnations are copies.
        let latest =
            said.iter().flat_map(|(_, shards)| shards).filter_map(own).map(|own| own.incarnation).max();
        let said = said.into_iter().map(|(index, mut shards)| {
            shards.retain(|shard| own(shard).map(|own| own.incarnation) == latest);
            (index, shards)
        });
        Ok(Leading { said: said.collect() })
    }

    /// Waits until all nodes of a region agree on who leads each of its shards, and follow.
    ///
    /// # Errors
    /// They do not in time.
    pub fn wait_well(&self, region: u8, within: Duration) -> Result<Leading, Trouble> {
        let (nodes, until) = (self.nodes_of(region), Instant::now() + within);
        loop {
            let leading = self.leading(region)?;
            let Some(lacks) = leading.lacks(&nodes) else { return Ok(leading) };
            if Instant::now() > until {
                return Err(Trouble::broken(format!("the region is not well within {within:?}: {lacks}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The node that was the last to say that it decides over its region's shards.
    ///
    /// # Errors
    /// Nobody did.
    pub fn driver(&self, region: u8) -> Result<usize, Trouble> {
        let said = self.nodes_of(region).into_iter().filter_map(|index| {
            let log = self.node(index).log();
            let line = log.lines().rfind(|line| line.contains(DRIVES))?;
            Some((line.split_whitespace().next()?.to_owned(), index))
        });
        said.max()
            .map(|(_, index)| index)
            .ok_or_else(|| Trouble::tool("no node says that it drives placement"))
    }
}

async fn ask(endpoint: String) -> Option<Vec<Shard>> {
    let asked = async {
        let channel = Endpoint::from_shared(endpoint).context("an endpoint")?.connect().await;
        let mut client = ClusterServiceClient::new(channel.context("connecting")?);
        let answer = client.list_shards(ListShardsRequest::default()).await.context("list shards")?;
        Ok::<_, Trouble>(answer.into_inner().shards)
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()?.ok()
}
