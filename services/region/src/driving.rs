//! Executes what the placement driver wants, while this node leads the placement group.

use std::time::Duration;

use meridian_metadata::driver::{Config, Driver, Effect, Heartbeat, Input};
use meridian_metadata::placement::{Change, Command};
use meridian_types::{ShardId, Timestamp};
use meridian_wire::v1;
use v1::word::Word;

use crate::agent::Event;
use crate::convert::{election_of, told_to_wire};
use crate::elections;
use crate::region::Region;

/// Changes in a command: more than that would be a large one.
const CHANGES: usize = 128;
const PROPOSE_WITHIN: Duration = Duration::from_secs(1);

/// A leadership of the placement group.
pub(crate) struct Driving {
    region: Region,
    driver: Driver,
}

impl Driving {
    /// Begins to drive: `wanted` is every shard that the region shall have, `heard` each node's last heartbeat and when it
    /// came.
    pub fn new(
        region: Region,
        wanted: Vec<ShardId>,
        heard: impl Iterator<Item = (Heartbeat, Timestamp)>,
        now: Timestamp,
    ) -> Self {
        let config = Config {
            dead_after: region.0.config.dead_after,
            grace: region.0.config.grace,
            home: region.0.host.get().map(|host| host.home()),
            holders: region.0.shards.holders(),
            ..Config::default()
        };
        let mut driving = Self { region, driver: Driver::new(config, now) };
        for (heartbeat, at) in heard {
            driving.driver.heard_before(heartbeat, at);
        }
        driving.step(Input::Wanted(wanted), now);
        driving
    }

    pub fn step(&mut self, input: Input, now: Timestamp) {
        let state = self.region.placement();
        let mut effects = Vec::new();
        self.driver.step(&state, input, now, &mut effects);
        for effect in effects {
            self.execute(effect);
        }
    }

    fn execute(&self, effect: Effect) {
        let (region, inner) = (self.region.clone(), &self.region.0);
        match effect {
            Effect::Propose(changes) => drop(tokio::spawn(propose(region, changes))),
            Effect::Fence { node, epochs } if node == inner.me.node => {
                tokio::spawn(async move {
                    let answers = elections::fence(&region, epochs).await;
                    let (node, boot) = (region.0.me.node, region.0.me.boot);
                    let _ = region.0.events.send(Event::Fenced { node, boot, answers });
                });
            }
            Effect::Fence { node, epochs } => {
                let shards = epochs
                    .into_iter()
                    .map(|(shard, epoch)| v1::FenceShard { shard: Some(shard.into()), epoch: epoch.0 });
                inner.say(node, Word::Fence(v1::FenceNode { shards: shards.collect() }));
            }
            Effect::Tell { node, elections } if node == inner.me.node => {
                tokio::spawn(async move {
                    for told in elections {
                        let election = election_of(told.elected, told.version, told.members);
                        elections::tell(&region, told.shard, election).await;
                    }
                });
            }
            Effect::Tell { node, elections } => inner.say(node, Word::Tell(told_to_wire(&elections))),
        }
    }
}

async fn propose(region: Region, changes: Vec<Change>) {
    let mut done = true;
    for changes in changes.chunks(CHANGES) {
        let command = Command { changes: changes.to_vec() }.to_bytes();
        match region.0.placement.propose_bytes(command, PROPOSE_WITHIN).await {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a proposal to placement failed; the driver looks again");
                done = false;
                break;
            }
        }
    }
    let _ = region.0.events.send(Event::Proposed(done));
}
