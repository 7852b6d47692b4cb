//! What operators wish of a region's placement, and what stands against it besides the placement group's state.

use std::time::Duration;

use meridian_metadata::ProposeError;
use meridian_metadata::placement::{Change, Command, reply_from_bytes};
use meridian_types::{NodeId, Origin, ShardId};

use crate::Region;

/// How long an operator waits for the placement group.
const WISH_WITHIN: Duration = Duration::from_secs(10);

/// Why an operator's wish is not fulfilled. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// The state, or a node's, stands against it.
    #[error("{0}")]
    Refused(String),
    /// The placement group did not answer.
    #[error(transparent)]
    Group(#[from] ProposeError),
}

/// What this node knows of one that a replica is to be moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Placement will say so.
    Unknown,
    Silent,
    Full,
    Ready,
}

impl Region {
    /// Fulfils an operator's wish.
    ///
    /// # Errors
    /// [`WishError`] says what stands against it.
    pub async fn wish(&self, change: Change) -> Result<(), WishError> {
        if let Change::Move { to, shard, .. } = change {
            check_move(shard, self.0.home(), to, self.target(to)).map_err(WishError::Refused)?;
        }
        self.wish_all(vec![change]).await
    }

    /// Fulfils several wishes, with nothing in between.
    ///
    /// # Errors
    /// [`WishError`] says what stands against the first that is refused.
    pub async fn wish_all(&self, changes: Vec<Change>) -> Result<(), WishError> {
        let command = Command { changes }.to_bytes();
        let reply = self.0.placement.propose_bytes(command, WISH_WITHIN).await?;
        let outcomes = reply_from_bytes(&reply).map_err(ProposeError::from)?;
        match outcomes.into_iter().find_map(Result::err) {
            Some(refusal) => Err(WishError::Refused(refusal.to_string())),
            None => Ok(()),
        }
    }

    fn target(&self, node: NodeId) -> Target {
        if self.placement().node(node).is_none() {
            Target::Unknown
        } else if !self.is_live(node) {
            Target::Silent
        } else if self.is_full(node) {
            Target::Full
        } else {
            Target::Ready
        }
    }
}

/// What placement's machine cannot know: whether the node that is to take a replica is there and has room, and which of this
/// region's incarnations is over.
fn check_move(shard: ShardId, home: Option<Origin>, to: NodeId, target: Target) -> Result<(), String> {
    if let Some(home) = home.filter(|home| shard.origin.is_past(*home)) {
        let present = ShardId { origin: home, ..shard };
        return Err(format!(
            "shard {shard} is of an incarnation of this region that is over; its replicas follow those of shard {present}: move that one"
        ));
    }
    match target {
        Target::Silent => {
            Err(format!("node {to} is not heard; start it, or choose another for shard {shard}"))
        }
        Target::Full => Err(format!(
            "the disk of node {to} is at its reserve; make room there, or choose another for shard {shard}"
        )),
        Target::Unknown | Target::Ready => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Incarnation, RegionId, ShardNo};

    use super::*;

    fn origin(region: u16, incarnation: u16) -> Origin {
        Origin { region: RegionId(region), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn a_move_needs_a_node_that_is_there_and_has_room_and_a_shard_that_is_not_over() {
        let (home, to) = (Some(origin(1, 2)), NodeId(4));
        let check = |origin, target| check_move(ShardId { origin, no: ShardNo(3) }, home, to, target).err();
        assert_eq!(check(origin(1, 2), Target::Ready), None);
        assert_eq!(check(origin(1, 2), Target::Unknown), None, "placement says what it knows of it");
        assert!(check(origin(1, 2), Target::Silent).expect("refused").contains("node 4 is not heard"));
        assert!(check(origin(1, 2), Target::Full).expect("refused").contains("at its reserve"));
        let past = check(origin(1, 1), Target::Ready).expect("refused");
        let present = ShardId { origin: origin(1, 2), no: ShardNo(3) };
        assert!(past.contains(&present.to_string()), "it says which to move: {past}");
        // Another region's past shard is a copy like any other here.
        assert_eq!(check(origin(2, 1), Target::Ready), None);
    }
}
