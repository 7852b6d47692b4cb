//! Asks the region which nodes it has and who leads what: one question at a time, and not more often than is of use.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use meridian_wire::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::nodes::NodeIndex;
use super::{Client, Inner, cluster};

/// Between two questions.
const GAP: Duration = Duration::from_millis(100);
/// A node that has not answered for so long is not waited for alone.
const HEDGE: Duration = Duration::from_millis(250);
/// What a question may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How far the client is with its questions.
#[derive(Default)]
pub(super) struct Learning {
    running: bool,
    asked: Option<Instant>,
    /// Counts questions: each begins at another node, as one that is cut off from the others knows nothing new.
    rounds: usize,
}

/// Ends a question, also one whose runtime ends before it.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.learning.lock().running = false;
        self.0.learned.send_modify(|version| *version += 1);
    }
}

type Told = Result<(v1::GetTopologyResponse, Option<v1::ListShardsResponse>), Status>;

impl Client {
    /// Asks once, in the background: what there is to know before anything went wrong.
    pub(crate) fn discover(&self) {
        if self.inner.learning.lock().rounds == 0 {
            self.refresh();
        }
    }

    /// Asks again, in the background, unless a question is under way.
    pub(crate) fn refresh(&self) {
        if !self.inner.options.discover {
            return;
        }
        let (at, round) = {
            let mut learning = self.inner.learning.lock();
            if learning.running {
                return;
            }
            let now = Instant::now();
            let at = learning.asked.map_or(now, |asked| (asked + GAP).max(now));
            learning.running = true;
            learning.asked = Some(at);
            learning.rounds += 1;
            (at, learning.rounds - 1)
        };
        let running = Running(Arc::clone(&self.inner));
        let client = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            if tokio::time::timeout(TIMEOUT, client.ask(round)).await.is_err() {
                tracing::debug!(endpoints = client.endpoints(), "no node says who leads");
            }
            drop(running);
        });
    }

    /// Changes whenever a question has ended.
    pub(crate) fn learned(&self) -> watch::Receiver<u64> {
        self.inner.learned.subscribe()
    }

    /// Waits a moment for the first answer, so that what is sent goes to the right nodes from the start.
    pub(crate) async fn first_learned(&self) {
        let mut learned = self.learned();
        self.discover();
        if self.inner.options.discover && *learned.borrow() == 0 {
            // Whether it came or not: nothing depends on it but a hop.
            let _ = tokio::time::timeout(HEDGE, learned.changed()).await;
        }
    }

    async fn ask(&self, round: usize) {
        let mut left = self.inner.state.lock().nodes.candidates(Instant::now());
        let usable = {
            let state = self.inner.state.lock();
            left.iter().take_while(|node| state.nodes.is_usable(**node, Instant::now())).count()
        };
        left[..usable].rotate_left(round % usable.max(1));
        let mut left = left.into_iter();
        let mut asked: Vec<(NodeIndex, Instant)> = Vec::new();
        let mut answers = FuturesUnordered::new();
        loop {
            if let Some(node) = left.next() {
                asked.push((node, Instant::now()));
                answers.push(self.ask_one(node));
            }
            let answer = tokio::time::timeout(HEDGE, answers.next()).await;
            let Ok(answer) = answer else { continue };
            let Some((node, told)) = answer else { return };
            match told {
                Ok((topology, shards)) => {
                    let options = &self.inner.options;
                    self.inner.state.lock().learn(node, topology, shards.as_ref(), options);
                    asked.retain(|(other, at)| *other != node && at.elapsed() >= HEDGE);
                    // They were asked first, and say nothing.
                    asked.into_iter().for_each(|(silent, _)| self.failed(silent));
                    return;
                }
                Err(status) => {
                    tracing::debug!(endpoint = self.endpoint_of(node), %status, "does not say who leads");
                    asked.retain(|(other, _)| *other != node);
                    self.failed(node);
                }
            }
        }
    }

    async fn ask_one(&self, node: NodeIndex) -> (NodeIndex, Told) {
        let (mut first, mut second) = (cluster(self.channel(node)), cluster(self.channel(node)));
        let (topology, shards) = futures::join!(
            first.get_topology(v1::GetTopologyRequest {}),
            second.list_shards(v1::ListShardsRequest::default())
        );
        let told = topology.and_then(|topology| {
            let shards = match shards {
                Ok(shards) => Some(shards.into_inner()),
                // An older node; its region has no other.
                Err(status) if status.code() == Code::Unimplemented => None,
                Err(status) => return Err(status),
            };
            Ok((topology.into_inner(), shards))
        });
        (node, told)
    }
}
