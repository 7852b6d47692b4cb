//! One function a command: checks all, then changes. A refusal leaves the state as it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_types::limits::{PARTITIONS, SHARDS};
use meridian_types::{Incarnation, RegionId, StreamId, TenantId, TenantName, Timestamp};

use super::command::{Change, Command, CreateStream, Genesis, UpdateStream};
use super::nodes::check_node;
use super::reply::{Outcome, Refusal, RefusalCode as Code, Reply};
use super::rows::{NodeRow, RegionRow, StreamRow, StreamSettings, TenantRow};
use super::state::{Answered, Catalog, Founded, REMEMBERED};
use super::{MAX_FEATURE_LEVEL, NODES_CHANGE};

/// The most labels of a stream, and the longest key and value in bytes: a row is in memory on every node.
const LABELS: usize = 64;
const LABEL_KEY_BYTES: usize = 63;
const LABEL_VALUE_BYTES: usize = 256;

/// The level from which on a command may be applied. A command that a later build adds takes the next level.
fn level_of(change: &Change) -> u32 {
    match change {
        Change::Genesis(_)
        | Change::CreateStream(_)
        | Change::UpdateStream(_)
        | Change::DeleteStream(_)
        | Change::RegisterNode(_)
        | Change::RaiseFeatureLevel(_) => 1,
        Change::RemoveNode(_) | Change::RestoreRegion(_) => NODES_CHANGE,
    }
}

impl Catalog {
    /// Applies a command. The same commands in the same order give the same state, everywhere.
    ///
    /// # Errors
    /// [`Refusal`] where the command changed nothing.
    pub fn apply(&mut self, command: Command) -> Reply {
        if let Some(answered) = self.answered.iter().rev().find(|a| a.request == command.request) {
            return Ok(answered.outcome.clone());
        }
        let Command { request, at, change } = command;
        let outcome = match change {
            Change::Genesis(genesis) => self.found(genesis, at)?,
            change => {
                self.gate(&change)?;
                self.change(change, at)?
            }
        };
        self.revision += 1;
        self.answered.push_back(Arc::new(Answered { request, outcome: outcome.clone() }));
        while self.answered.len() > REMEMBERED {
            self.answered.pop_front();
        }
        Ok(outcome)
    }

    fn gate(&self, change: &Change) -> Result<(), Refusal> {
        if self.founded.is_none() {
            return Err(refuse(Code::NotFounded, "the cluster has no genesis yet; wait for its first node"));
        }
        let needs = level_of(change);
        if needs > self.feature_level {
            return Err(refuse(
                Code::FeatureLevel,
                format!(
                    "needs feature level {needs}, the cluster is at {}; upgrade every node, then raise the level",
                    self.feature_level
                ),
            ));
        }
        Ok(())
    }

    fn change(&mut self, change: Change, at: Timestamp) -> Reply {
        match change {
            Change::Genesis(genesis) => self.found(genesis, at),
            Change::CreateStream(create) => self.create_stream(create, at),
            Change::UpdateStream(update) => self.update_stream(update),
            Change::DeleteStream(id) => self.delete_stream(id),
            Change::RegisterNode(node) => self.register_node(node),
            Change::RemoveNode(id) => self.remove_node(id),
            Change::RestoreRegion(restore) => self.restore_region(restore),
            Change::RaiseFeatureLevel(level) => self.raise_feature_level(level),
        }
    }

    fn found(&mut self, genesis: Genesis, at: Timestamp) -> Reply {
        if let Some(founded) = self.founded {
            return Err(refuse(
                Code::AlreadyFounded,
                format!(
                    "the cluster {} is founded already; a genesis is its first command only",
                    founded.cluster
                ),
            ));
        }
        if !(1..=MAX_FEATURE_LEVEL).contains(&genesis.feature_level) {
            return Err(malformed(format!(
                "a cluster cannot begin at feature level {}; 1 to {MAX_FEATURE_LEVEL} is possible",
                genesis.feature_level
            )));
        }
        check_regions(&genesis.regions)?;
        let regions: BTreeSet<RegionId> = genesis.regions.iter().map(|region| region.id).collect();
        check_founders(&genesis, &regions)?;

        self.founded = Some(Founded { cluster: genesis.cluster, at });
        self.feature_level = genesis.feature_level;
        for region in genesis.regions {
            self.regions.insert_mut(region.id, Arc::new(region));
        }
        for node in genesis.nodes {
            self.nodes.insert_mut(node.id, Arc::new(NodeRow { added: false, replaces: None, ..node }));
        }
        let tenant = TenantRow { id: TenantId::DEFAULT, name: TenantName::default() };
        self.tenants.insert_mut(tenant.id, Arc::new(tenant));
        self.next_tenant = TenantId::DEFAULT.0 + 1;
        self.next_stream = 1;
        Ok(Outcome::Founded(genesis.cluster))
    }

    fn create_stream(&mut self, create: CreateStream, at: Timestamp) -> Reply {
        let CreateStream { tenant, name, settings } = create;
        check_settings(&settings)?;
        if self.tenant(tenant).is_none() {
            return Err(refuse(Code::TenantNotFound, format!("there is no tenant {tenant}")));
        }
        if let Some(stream) = self.stream_named(tenant, &name) {
            if stream.settings != settings {
                return Err(refuse(
                    Code::StreamExists,
                    format!(
                        "stream {name} is there already with other settings ({}); update it, or take another name",
                        stream.settings.unlike(&settings)
                    ),
                ));
            }
            return Ok(Outcome::StreamCreated { stream: Arc::clone(stream), created: false });
        }
        let id = StreamId(self.next_stream);
        let stream =
            Arc::new(StreamRow { id, tenant, name: name.clone(), settings, created_at: at, version: 1 });
        self.next_stream += 1;
        self.streams.insert_mut(id, Arc::clone(&stream));
        let names = self.names.get(&tenant).cloned().unwrap_or_default().insert(name, id);
        self.names.insert_mut(tenant, names);
        Ok(Outcome::StreamCreated { stream, created: true })
    }

    fn update_stream(&mut self, update: UpdateStream) -> Reply {
        let UpdateStream { id, settings, expected_version } = update;
        check_settings(&settings)?;
        let stream = self.known_stream(id)?;
        if let Some(expected) = expected_version
            && expected != stream.version
        {
            return Err(refuse(
                Code::VersionConflict,
                format!(
                    "stream {} is at version {}, not {expected}; read it again and decide anew",
                    stream.name, stream.version
                ),
            ));
        }
        if settings.partitions < stream.settings.partitions {
            return Err(refuse(
                Code::BadPartitionCount,
                format!(
                    "stream {} has {} partitions; they may only grow, not shrink to {}",
                    stream.name, stream.settings.partitions, settings.partitions
                ),
            ));
        }
        if settings == stream.settings {
            return Ok(Outcome::StreamUpdated(stream));
        }
        let stream =
            Arc::new(StreamRow { settings, version: stream.version + 1, ..StreamRow::clone(&stream) });
        self.streams.insert_mut(id, Arc::clone(&stream));
        Ok(Outcome::StreamUpdated(stream))
    }

    fn delete_stream(&mut self, id: StreamId) -> Reply {
        let stream = self.known_stream(id)?;
        self.streams.remove_mut(&id);
        if let Some(names) = self.names.get(&stream.tenant) {
            let names = names.remove(&stream.name);
            if names.is_empty() {
                self.names.remove_mut(&stream.tenant);
            } else {
                self.names.insert_mut(stream.tenant, names);
            }
        }
        Ok(Outcome::StreamDeleted(stream))
    }

    fn known_stream(&self, id: StreamId) -> Result<Arc<StreamRow>, Refusal> {
        self.stream(id)
            .cloned()
            .ok_or_else(|| refuse(Code::StreamNotFound, format!("there is no stream {id}")))
    }

    fn raise_feature_level(&mut self, level: u32) -> Reply {
        if level == self.feature_level {
            return Ok(Outcome::FeatureLevelRaised(level));
        }
        if level != self.feature_level + 1 {
            return Err(refuse(
                Code::FeatureLevel,
                format!(
                    "the feature level is {} and rises by one at a time, not to {level}",
                    self.feature_level
                ),
            ));
        }
        if let Some(node) = self.nodes().find(|node| node.max_feature_level < level) {
            return Err(refuse(
                Code::FeatureLevel,
                format!(
                    "node {} knows feature level {} at most; upgrade it before raising to {level}",
                    node.id, node.max_feature_level
                ),
            ));
        }
        self.feature_level = level;
        Ok(Outcome::FeatureLevelRaised(level))
    }
}

pub(super) fn refuse(code: Code, message: impl Into<String>) -> Refusal {
    Refusal::new(code, message)
}

pub(super) fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::Malformed, message)
}

fn check_settings(settings: &StreamSettings) -> Result<(), Refusal> {
    if !(1..=PARTITIONS).contains(&settings.partitions) {
        return Err(refuse(
            Code::BadPartitionCount,
            format!("a stream has 1 to {PARTITIONS} partitions, not {}", settings.partitions),
        ));
    }
    if settings.labels.len() > LABELS {
        return Err(malformed(format!(
            "{} labels are too many; a stream has at most {LABELS}",
            settings.labels.len()
        )));
    }
    for (key, value) in &settings.labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES || value.len() > LABEL_VALUE_BYTES {
            return Err(malformed(format!(
                "a label's key has 1 to {LABEL_KEY_BYTES} bytes and its value at most {LABEL_VALUE_BYTES}"
            )));
        }
    }
    Ok(())
}

fn check_regions(regions: &[RegionRow]) -> Result<(), Refusal> {
    if regions.is_empty() {
        return Err(malformed("a genesis names at least one region"));
    }
    let mut ids = BTreeSet::new();
    let mut names = BTreeSet::new();
    for region in regions {
        if !ids.insert(region.id) || !names.insert(&region.name) {
            return Err(malformed(format!("region {} ({}) is named twice", region.name, region.id)));
        }
        if region.incarnation != Incarnation(1) {
            return Err(malformed(format!("region {} does not begin with incarnation 1", region.name)));
        }
        if !(1..=SHARDS).contains(&region.shards) {
            return Err(malformed(format!(
                "region {} has 1 to {SHARDS} shards, not {}",
                region.name, region.shards
            )));
        }
    }
    Ok(())
}

fn check_founders(genesis: &Genesis, regions: &BTreeSet<RegionId>) -> Result<(), Refusal> {
    if genesis.nodes.is_empty() {
        return Err(malformed("a genesis names at least one node"));
    }
    let mut ids = BTreeSet::new();
    let mut disks = BTreeSet::new();
    for node in &genesis.nodes {
        check_node(node)?;
        if !ids.insert(node.id) || !disks.insert(node.disk) {
            return Err(malformed(format!("node {} or its disk is named twice", node.id)));
        }
        if !regions.contains(&node.region) {
            return Err(refuse(
                Code::RegionNotFound,
                format!("node {} is in region {}, which the genesis does not name", node.id, node.region),
            ));
        }
        if node.max_feature_level < genesis.feature_level {
            return Err(refuse(
                Code::FeatureLevel,
                format!("node {} does not know feature level {}", node.id, genesis.feature_level),
            ));
        }
    }
    Ok(())
}
