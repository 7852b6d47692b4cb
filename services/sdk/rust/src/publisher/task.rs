//! The tasks that do what the publisher's core wants done.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use meridian_types::{ProducerEpoch, ProducerId};
use meridian_wire::v1::{PublishBatchesRequest, PublishBatchesResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::Shared;
use super::error::{PublishError, Stored};
use crate::client::{Client, events};
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
                    shared.work.notify_one();
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
            Fault::Retry { after, text } => {
                tracing::debug!(endpoints = client.endpoints(), fault = text, "no producer session yet");
                shared.core.lock().on_trouble(text);
                tokio::time::sleep(backoff.next().max(after.unwrap_or_default())).await;
            }
            fault => return shared.end(final_error(fault, &client)),
        }
    }
}

/// Keeps a connection while there is something to send, and everything on it moving.
pub(super) async fn send_batches(shared: Arc<Shared>, client: Client) {
    let mut backoff = client.backoff();
    loop {
        if shared.tick() {
            return;
        }
        if !shared.core.lock().wants_connection(Instant::now()) {
            shared.wait().await;
            continue;
        }
        let (node, answered, fault) = one_connection(&shared, &client).await;
        if answered {
            backoff.reset();
        }
        let (wait, trouble) = match fault {
            // The server ended the stream as it does when it stops; another node may be there already.
            None => (backoff.next(), None),
            Some(Fault::Retry { after, text }) => (backoff.next().max(after.unwrap_or_default()), Some(text)),
            Some(fault) => return shared.end(final_error(fault, &client)),
        };
        tracing::debug!(endpoints = client.endpoints(), fault = trouble, "publishing broke off");
        client.failed(node);
        shared.core.lock().on_disconnected(trouble);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if shared.tick() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = shared.until_wake() => {}
            }
        }
    }
}

/// Sends and takes answers until the connection ends: on which node, whether it ever answered, and why it ended.
async fn one_connection(shared: &Shared, client: &Client) -> (usize, bool, Option<Fault>) {
    let (node, channel) = client.dedicated();
    let mut service = events(channel);
    // A request waits here only while the connection's window is full.
    let (requests, outgoing) = mpsc::channel::<PublishBatchesRequest>(1);
    let answers = futures::stream::once(async move {
        service.publish_batches(ReceiverStream::new(outgoing)).await.map(Response::into_inner)
    })
    .try_flatten();
    tokio::pin!(answers);
    shared.core.lock().on_connected(Instant::now());
    let mut answered = false;
    // Once the server takes no more requests, its answers say why.
    let mut takes_more = true;
    loop {
        if shared.tick() {
            return (node, answered, None);
        }
        let now = Instant::now();
        let (can_send, silent) = {
            let core = shared.core.lock();
            (core.can_send(now), core.is_silent(now))
        };
        if silent {
            let text = "nothing was answered on an open connection".to_owned();
            return (node, answered, Some(Fault::Retry { after: None, text }));
        }
        tokio::select! {
            answer = answers.next() => match take_answer(shared, answer) {
                Ok(()) => answered = true,
                Err(fault) => return (node, answered, fault),
            },
            permit = requests.reserve(), if can_send && takes_more => match permit {
                Ok(permit) => {
                    if let Some(request) = shared.core.lock().next_request(Instant::now()) {
                        permit.send(request);
                    }
                }
                Err(_) => takes_more = false,
            },
            () = shared.wait() => {}
        }
    }
}

fn take_answer(
    shared: &Shared,
    answer: Option<Result<PublishBatchesResponse, Status>>,
) -> Result<(), Option<Fault>> {
    match answer {
        Some(Ok(response)) => {
            shared.core.lock().on_answer(Instant::now(), response);
            Ok(())
        }
        Some(Err(status)) => Err(Some(fault::of_status(&status))),
        None => Err(None),
    }
}

fn final_error(fault: Fault, client: &Client) -> PublishError {
    match fault.give_up(client.endpoints(), std::time::Duration::ZERO) {
        crate::SdkError::Refused(error) => PublishError::Refused { error, stored: Stored::Unknown },
        error => PublishError::Client(error),
    }
}

impl Shared {
    /// Lets the core see the time, hands out outcomes. True: the publisher has ended.
    fn tick(&self) -> bool {
        let now = Instant::now();
        let (failed, wants_session) = {
            let mut core = self.core.lock();
            core.on_time(now);
            (core.failed().is_some(), core.wants_session())
        };
        self.settle(now);
        if wants_session {
            self.session.notify_one();
        }
        failed
    }

    /// Until there may be something to do.
    async fn wait(&self) {
        tokio::select! {
            () = self.work.notified() => {}
            () = self.until_wake() => {}
        }
    }

    /// Until the core wants to see the time.
    async fn until_wake(&self) {
        let wake = self.core.lock().wakes_at();
        match wake {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => pending().await,
        }
    }

    fn end(&self, error: PublishError) {
        let now = Instant::now();
        self.core.lock().fail_all(now, error);
        self.settle(now);
        self.work.notify_one();
    }
}
