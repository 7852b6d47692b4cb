//! How a driver behaves.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{NodeId, Origin, Seq, ShardId, Timestamp};

/// A driver's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// A node that was not heard for so long is dead.
    pub dead_after: Duration,
    /// A new driver takes nobody for dead before it has listened so long.
    pub first_wait: Duration,
    /// A node whose connection broke is dead if it is not heard again within this.
    pub suspect_after: Duration,
    /// A replica that has not answered its fence is asked again after this, and after some tries less and less often.
    pub fence_retry: Duration,
    /// The longest between two tries.
    pub fence_retry_max: Duration,
    /// Once somebody can be elected: how long the other live replicas may take to answer, so that the preferred wins.
    pub prefer_wait: Duration,
    /// Once somebody can be elected although another that does not count has more: how long those may take that have not
    /// answered. Those frames are not committed, but an answer may save them.
    pub longer_wait: Duration,
    /// Once somebody can be elected in a copy's set that never had a leader: how long the live replicas may take that have not
    /// answered. Of a new set a majority may hold nothing, and one of them what nobody else does.
    pub first_leader_wait: Duration,
    /// A proposal without an outcome is made again after this.
    pub propose_timeout: Duration,
    /// Nothing is proposed for so long after a proposal failed.
    pub propose_pause: Duration,
    /// An elected node that does not lead yet is told again after this.
    pub tell_retry: Duration,
    /// An elected node that does not lead for so long after it was told is passed over in a new election; each failure in
    /// a row doubles it.
    pub lead_wait: Duration,
    /// The longest that [`Config::lead_wait`] grows to.
    pub lead_wait_max: Duration,
    /// A draining leader is asked to give way again after this, where the last try elected it once more.
    pub transfer_retry: Duration,
    /// A member that is dead for longer is replaced.
    pub grace: Duration,
    /// A learner that is dead for longer is given up.
    pub learner_grace: Duration,
    /// How many shards may change their sets at a time.
    pub changes_at_once: usize,
    /// The region's own incarnation: shards of any other are copies. None: no shard is known to be one.
    pub home: Option<Origin>,
    /// Who held something of a past shard when the region was restored, and how far: perhaps nobody else does.
    pub holders: BTreeMap<ShardId, BTreeMap<NodeId, Seq>>,
    /// A new driver waits so long for all who held something of a past shard, and for those who held more than all that are heard
    /// until they are heard, or removed.
    pub holders_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dead_after: Duration::from_secs(1),
            first_wait: Duration::from_millis(500),
            suspect_after: Duration::from_millis(200),
            fence_retry: Duration::from_millis(150),
            fence_retry_max: Duration::from_secs(1),
            prefer_wait: Duration::from_millis(50),
            longer_wait: Duration::from_secs(1),
            first_leader_wait: Duration::from_secs(10),
            propose_timeout: Duration::from_secs(1),
            propose_pause: Duration::from_millis(50),
            tell_retry: Duration::from_millis(200),
            lead_wait: Duration::from_secs(1),
            lead_wait_max: Duration::from_secs(60),
            transfer_retry: Duration::from_secs(5),
            grace: Duration::from_secs(300),
            learner_grace: Duration::from_secs(30),
            changes_at_once: 8,
            home: None,
            holders: BTreeMap::new(),
            holders_wait: Duration::from_secs(10),
        }
    }
}

/// Whether `wait` has passed since `since`. Both are milliseconds of one monotonic clock.
pub(super) fn passed(since: Timestamp, now: Timestamp, wait: Duration) -> bool {
    u128::from(now.0.saturating_sub(since.0)) >= wait.as_millis()
}
