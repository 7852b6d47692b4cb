//! Publishes that met the wrong node, on their way to the leader's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_shard::{Ack, Reject};
use meridian_types::{Boot, NodeId, ShardId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// In one life a node forwards fewer publishes than two to the power of this.
const A_LIFE: u32 = 40;
/// How long a node is waited for once another leads in its place: one that is there answers sooner.
const LEAVE: Duration = Duration::from_millis(300);

/// A publish whose answer is waited for. Dropped, whoever waits hears that it may be lost.
struct Waiting {
    shard: ShardId,
    answer: oneshot::Sender<Result<Ack, Reject>>,
    /// Since when another node is known to lead.
    left: Option<Instant>,
}

/// Who waits for which node's answer.
pub(crate) struct Forwards {
    next: AtomicU64,
    waiting: Mutex<HashMap<NodeId, HashMap<u64, Waiting>>>,
}

impl Forwards {
    /// Of a process. A leader answers the node, in whatever life that is by then: so no number comes again that an earlier life may have
    /// given, or a publish would be acknowledged by another one's answer.
    pub fn of(boot: Boot) -> Self {
        Self { next: AtomicU64::new(boot.0 << A_LIFE), waiting: Mutex::default() }
    }

    /// A number for a publish, and what its answer will arrive at. It ends without one where the answer may be lost:
    /// whether the batch is stored is then not known, and a retry finds out.
    pub fn begin(&self, node: NodeId, shard: ShardId) -> (u64, oneshot::Receiver<Result<Ack, Reject>>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, waiting) = oneshot::channel();
        self.waiting.lock().entry(node).or_default().insert(id, Waiting { shard, answer, left: None });
        (id, waiting)
    }

    /// An answer came; none: the node stops.
    pub fn answered(&self, node: NodeId, id: u64, answer: Option<Result<Ack, Reject>>) {
        let waiting = self.waiting.lock().get_mut(&node).and_then(|waiting| waiting.remove(&id));
        if let (Some(waiting), Some(answer)) = (waiting, answer) {
            let _ = waiting.answer.send(answer);
        }
    }

    /// A connection from or to the node broke: answers may be lost.
    pub fn lost(&self, node: NodeId) {
        let lost = self.waiting.lock().remove(&node);
        drop(lost);
    }

    /// Gives up those that wait for a node in whose place another leads, as far as is known here: at once where the node
    /// is not heard, as nothing is on its way then. One that stands still keeps its connections, so nothing else would end
    /// the wait. Forgets those for which nobody waits any more, and whose answer may never come.
    pub fn leave(
        &self,
        now: Instant,
        leader: impl Fn(ShardId) -> Option<NodeId>,
        is_heard: impl Fn(NodeId) -> bool,
    ) {
        for (node, waiting) in self.waiting.lock().iter_mut() {
            let patience = if is_heard(*node) { LEAVE } else { Duration::ZERO };
            waiting.retain(|_, waiting| {
                if waiting.answer.is_closed() {
                    return false;
                }
                let elsewhere = leader(waiting.shard).is_some_and(|leader| leader != *node);
                waiting.left = elsewhere.then(|| waiting.left.unwrap_or(now));
                waiting.left.is_none_or(|left| now < left + patience)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Incarnation, Origin, RegionId, ShardNo};
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    const OLD: NodeId = NodeId(1);
    const NEW: NodeId = NodeId(2);

    fn shard(number: u16) -> ShardId {
        let origin = Origin { region: RegionId(1), incarnation: Incarnation(1) };
        ShardId { origin, no: ShardNo(number) }
    }

    #[test]
    fn a_node_that_stands_still_is_waited_for_until_another_leads() {
        let forwards = Forwards::of(Boot(1));
        let (_, mut moved) = forwards.begin(OLD, shard(1));
        let (id, mut stays) = forwards.begin(OLD, shard(2));
        let mut now = Instant::now();
        let leads = |of_one| move |asked| if asked == shard(1) { of_one } else { Some(OLD) };
        for of_one in [Some(OLD), None, Some(NEW), Some(OLD), Some(NEW)] {
            now += LEAVE;
            forwards.leave(now, leads(of_one), |_| true);
            assert_eq!(moved.try_recv(), Err(TryRecvError::Empty), "{of_one:?}");
        }
        forwards.leave(now + LEAVE, leads(Some(NEW)), |_| true);
        assert_eq!(moved.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(stays.try_recv(), Err(TryRecvError::Empty));
        forwards.answered(OLD, id, Some(Err(Reject::NotLeader)));
        assert_eq!(stays.try_recv(), Ok(Err(Reject::NotLeader)));
        // Nothing is on its way from one that is not heard any more.
        let (_, mut silent) = forwards.begin(OLD, shard(1));
        forwards.leave(now, leads(Some(OLD)), |_| false);
        assert_eq!(silent.try_recv(), Err(TryRecvError::Empty), "nobody else leads");
        forwards.leave(now, leads(Some(NEW)), |_| false);
        assert_eq!(silent.try_recv(), Err(TryRecvError::Closed));
    }

    #[test]
    fn what_an_earlier_life_asked_for_is_answered_to_nobody() {
        let (before, now) = (Forwards::of(Boot(1)), Forwards::of(Boot(2)));
        let (late, _) = before.begin(OLD, shard(1));
        let (own, mut waits) = now.begin(OLD, shard(1));
        assert_ne!(late, own);
        now.answered(OLD, late, Some(Err(Reject::Damaged)));
        assert_eq!(waits.try_recv(), Err(TryRecvError::Empty));
        now.answered(OLD, own, Some(Err(Reject::NotLeader)));
        assert_eq!(waits.try_recv(), Ok(Err(Reject::NotLeader)));
    }

    #[test]
    fn what_nobody_waits_for_is_forgotten() {
        let forwards = Forwards::of(Boot(1));
        let (_, given_up) = forwards.begin(OLD, shard(1));
        let (_, waits) = forwards.begin(OLD, shard(1));
        drop(given_up);
        forwards.leave(Instant::now(), |_| Some(OLD), |_| true);
        assert_eq!(forwards.waiting.lock()[&OLD].len(), 1);
        drop(waits);
    }
}
