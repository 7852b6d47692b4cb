//! The tasks that do what the publisher's core wants done.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use meridian_types::{ProducerEpoch, ProducerId, StreamId};
use meridian_wire::v1::PublishBatchesResponse;
use tokio::task::JoinSet;
use tonic::{Response, Status};

use super::Shared;
use super::core::PROBE;
use super::error::{PublishError, Stored};
use super::outgoing::{Outgoing, WithBody};
use super::timer::Timer;
use super::wake::{EndOnDrop, Link};
use crate::backoff::Backoff;
use crate::client::{Client, NodeIndex, events_over};
use crate::fault::{self, Fault};

/// Fetches a session whenever the core lacks one.
pub(super) async fn fetch_sessions(shared: Arc<Shared>, client: Client) {
    let mut backoff = client.backoff();
    loop {
        if !shared.core.lock().wants_session() {
            shared.session.notified().await;
            continue;
        }
        let fault = match client.init_producer_once().await {
            Ok(session) => match i16::try_from(session.epoch) {
                Ok(epoch) if epoch >= 0 && session.id >= 0 => {
                    backoff.reset();
                    shared.core.lock().on_session(ProducerId(session.id), ProducerEpoch(epoch));
                    shared.wake.all();
                    continue;
                }
                _ => {
                    let text = format!("producer {} with epoch {}", session.id, session.epoch);
                    return shared.end(PublishError::Protocol(text));
                }
            },
            Err(fault) => fault,
        };
        match fault {
            Fault::Retry { after, text, .. } => {
                tracing::debug!(endpoints = client.endpoints(), fault = text, "no producer session yet");
                shared.core.lock().on_trouble(text);
                tokio::time::sleep(backoff.next().max(after.unwrap_or_default())).await;
            }
            fault => return shared.end(final_error(fault, &client)),
        }
    }
}

/// Why a connection ended.
enum End {
    /// Nothing goes there any more.
    Unneeded,
    /// The publisher has ended.
    Over,
    /// It broke; without a fault the server ended it, as it does when it stops.
    Broke(Option<Fault>),
}

/// A connection that ended: to which node, and whether it ever answered.
struct Ended {
    node: NodeIndex,
    answered: bool,
    end: End,
}

/// When a node that broke off is tried again.
struct Pause {
    backoff: Backoff,
    until: Instant,
}

/// Sends each partition to its leader, and keeps connections to those while there is something to send.
pub(super) async fn send_batches(shared: Arc<Shared>, client: Client, stream: StreamId, partitions: u32) {
    let mut links: JoinSet<Ended> = JoinSet::new();
    let mut pauses: HashMap<NodeIndex, Pause> = HashMap::new();
    let mut learned = client.learned();
    loop {
        let now = Instant::now();
        let targets = client.targets(stream, partitions);
        let (stale, wanted) = {
            let mut core = shared.core.lock();
            core.set_targets(now, &targets.nodes, client.has_several_nodes());
            (core.take_stale(), core.wants_links(now))
        };
        if shared.tick() {
            return;
        }
        if stale {
            client.refresh();
        }
        let mut look_again = targets.until.map(tokio::time::Instant::into_std);
        for node in wanted {
            match pauses.get(&node) {
                Some(pause) if pause.until > now => {
                    look_again = look_again.into_iter().chain([pause.until]).min();
                }
                _ => {
                    shared.core.lock().on_connected(now, node);
                    let link = shared.wake.begin(node);
                    links.spawn(one_connection(Arc::clone(&shared), client.clone(), node, link));
                }
            }
        }
        tokio::select! {
            Some(ended) = links.join_next() => {
                let Ok(ended) = ended else {
                    return shared.end(PublishError::Closed);
                };
                if let Some(error) = shared.on_ended(&client, &mut pauses, ended) {
                    return shared.end(error);
                }
            }
            _ = learned.changed() => {}
            () = shared.wake.opener() => {}
            () = shared.until_wake() => {}
            () = until(look_again) => {}
        }
    }
}

/// Sends and takes answers until the connection ends.
async fn one_connection(shared: Arc<Shared>, client: Client, node: NodeIndex, link: Arc<Link>) -> Ended {
    // Before the core is told that the connection is gone.
    let _end = EndOnDrop(Arc::clone(&link));
    // Taken before there is a connection: one that does not come up is silence too.
    let first = shared.core.lock().next_request(Instant::now(), node);
    let body = Some(Outgoing::new(Arc::clone(&shared), Arc::clone(&link), node, first));
    let mut service = events_over(WithBody { channel: client.dedicated(node), body });
    let answers = futures::stream::once(async move {
        service.publish_batches(futures::stream::empty()).await.map(Response::into_inner)
    })
    .try_flatten();
    tokio::pin!(answers);
    let mut answered = false;
    let mut timer = Timer::new();
    let end = loop {
        if shared.tick() {
            break End::Over;
        }
        let now = Instant::now();
        if !timer.is_set_by(now + PROBE) {
            // Before the core is asked, so that whoever sends meanwhile wakes this task.
            link.set_watched(false);
        }
        let (can_send, silent, look_at, unneeded) = {
            let core = shared.core.lock();
            (
                core.can_send(now, node),
                core.is_silent(now, node),
                core.silent_at(node).into_iter().chain(core.wakes_at()).min(),
                core.is_unneeded(node),
            )
        };
        if silent {
            break End::Broke(Some(Fault::broken("nothing was answered on an open connection")));
        }
        if unneeded {
            break End::Unneeded;
        }
        timer.look_at(look_at);
        link.set_watched(timer.is_set_by(now + PROBE));
        if can_send {
            link.wake_outgoing();
        }
        tokio::select! {
            answer = answers.next() => match take_answers(&shared, answer, answers.as_mut()) {
                Ok(()) => {
                    if !answered {
                        answered = true;
                        client.worked(node);
                    }
                }
                Err(fault) => break End::Broke(fault),
            },
            () = link.woken() => {}
            () = timer.fired() => {}
        }
    };
    Ended { node, answered, end }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// Takes an answer, and all that have come with it.
fn take_answers(
    shared: &Shared,
    first: Option<Result<PublishBatchesResponse, Status>>,
    mut more: impl Stream<Item = Result<PublishBatchesResponse, Status>> + Unpin,
) -> Result<(), Option<Fault>> {
    let mut answer = Some(first);
    while let Some(this) = answer {
        match this {
            Some(Ok(response)) => shared.core.lock().on_answer(Instant::now(), response),
            Some(Err(status)) => return Err(Some(fault::of_status(&status))),
            None => return Err(None),
        }
        answer = more.next().now_or_never();
    }
    Ok(())
}

fn final_error(fault: Fault, client: &Client) -> PublishError {
    match fault.give_up(client.endpoints(), std::time::Duration::ZERO) {
        crate::SdkError::Refused(error) => PublishError::Refused { error, stored: Stored::Unknown },
        error => PublishError::Client(error),
    }
}

impl Shared {
    /// Takes a connection's end: what ends the publisher with it, if anything.
    fn on_ended(
        &self,
        client: &Client,
        pauses: &mut HashMap<NodeIndex, Pause>,
        ended: Ended,
    ) -> Option<PublishError> {
        let Ended { node, answered, end } = ended;
        self.wake.end(node);
        let fault = match end {
            End::Broke(fault) => fault,
            End::Unneeded | End::Over => {
                self.core.lock().on_disconnected(node, None);
                return None;
            }
        };
        let now = Instant::now();
        let pause = pauses.entry(node).or_insert_with(|| Pause { backoff: client.backoff(), until: now });
        if answered {
            pause.backoff.reset();
        }
        client.broke_off(node, fault.as_ref());
        let (after, trouble) = match fault {
            None => (None, None),
            Some(Fault::Retry { after, text, .. }) => (after, Some(text)),
            Some(fault) => return Some(final_error(fault, client)),
        };
        tracing::debug!(endpoint = client.endpoint_of(node), fault = trouble, "publishing broke off");
        pause.until = now + pause.backoff.next().max(after.unwrap_or_default());
        self.core.lock().on_disconnected(node, trouble);
        None
    }

    /// Lets the core see the time, hands out outcomes, wakes whom they concern. True: the publisher has ended.
    fn tick(&self) -> bool {
        let now = Instant::now();
        let (failed, wants_session, news) = {
            let mut core = self.core.lock();
            core.on_time(now);
            (core.failed().is_some(), core.wants_session(), core.take_news())
        };
        self.settle(now);
        if wants_session {
            self.session.notify_one();
        }
        if news {
            self.wake.all();
        }
        failed
    }

    /// Until the core wants to see the time.
    async fn until_wake(&self) {
        let wake = self.core.lock().wakes_at();
        until(wake).await;
    }

    fn end(&self, error: PublishError) {
        let now = Instant::now();
        self.core.lock().fail_all(now, error);
        self.settle(now);
        self.wake.all();
    }
}
