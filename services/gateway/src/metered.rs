//! Counts requests and the bytes of their bodies against what the node may hold, before anything is decoded: a flood
//! fills the budget, not the memory.
//!
//! A message is let in whole, when its length is known and before its bytes are taken off the connection. So two halves
//! never wait for each other, and what waits lies in HTTP/2's windows, which bound it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use meridian_types::limits::BATCH_BYTES;
use meridian_wire::{ApiError, Reason};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body as TonicBody;

use crate::answered::AnswerBody;
use crate::budget::{ByteBudget, Taken};
use crate::shared::Gateway;

/// A batch at its limit, and the message around it.
pub(crate) const MESSAGE_BYTES: usize = BATCH_BYTES + 64 * 1024;
/// A message that carries no events: a cursor is the largest, with a mebibyte.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// How long a message waits for room before its request is refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// A message that was let in holds its room for so long, and a second longer for each mebibyte; then it must have come
/// whole.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// What a refused client is told to wait.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Length prefix of a gRPC message: a flag and the length.
const PREFIX: usize = 5;
/// The calls whose messages are held until they are answered, one by one.
const PUBLISHING: &str = "/meridian.v1.EventService/Publish";

/// The bytes of the messages that a request has brought, in its extensions.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<Mutex<VecDeque<Taken>>>);

impl Received {
    /// The bytes of the oldest message that was not asked for yet. Messages are decoded in the order in which they come,
    /// so this is the one just decoded. To be held until it is done with.
    pub fn next(&self) -> Taken {
        self.0.lock().pop_front().unwrap_or_default()
    }
}

/// What a client gets when the budget is used up.
fn overloaded(budget: &ByteBudget) -> ApiError {
    ApiError::new(
        Reason::Overloaded,
        format!(
            "this node has {} bytes of requests in hand and takes no more for now; try again",
            budget.capacity()
        ),
    )
    .with("limit_bytes", budget.capacity())
    .retry_after(RETRY_AFTER)
}

fn too_long(bytes: u64, limit: usize) -> ApiError {
    ApiError::new(
        Reason::BatchTooLarge,
        format!("the message has {bytes} bytes; at most {limit} are taken: send smaller batches"),
    )
    .with("limit", limit)
}

/// A tower layer that meters requests.
#[derive(Clone)]
pub struct MeteredLayer(pub Gateway);

impl<S> tower::Layer<S> for MeteredLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        Metered { inner, gateway: self.0.clone() }
    }
}

/// See [`MeteredLayer`].
#[derive(Clone)]
pub struct Metered<S> {
    inner: S,
    gateway: Gateway,
}

impl<S> tower::Service<http::Request<TonicBody>> for Metered<S>
where
    S: tower::Service<http::Request<TonicBody>, Response = http::Response<TonicBody>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<TonicBody>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<TonicBody>) -> Self::Future {
        let place = match self.gateway.take_request() {
            Ok(place) => place,
            Err(error) => {
                self.gateway.refused(&error);
                let refusal = Status::from(error).into_http();
                return Box::pin(std::future::ready(Ok(refusal)));
            }
        };
        let (mut parts, body) = request.into_parts();
        let publishes = parts.uri.path().starts_with(PUBLISHING);
        let received = Received::default();
        parts.extensions.insert(received.clone());
        let body = MeteredBody {
            inner: body,
            messages: Messages::new(if publishes { MESSAGE_BYTES } else { SMALL_MESSAGE_BYTES }),
            gateway: self.gateway.clone(),
            held: (!publishes).then(Taken::default),
            received,
            admission: None,
            overdue: None,
            ended: false,
        };
        let answer = self.inner.call(http::Request::from_parts(parts, TonicBody::new(body)));
        Box::pin(async move {
            let answer = answer.await?;
            // The place is taken until the last byte of the answer has been handed over.
            Ok(answer_with(answer, place))
        })
    }
}

fn answer_with(
    mut answer: http::Response<TonicBody>,
    place: tokio::sync::OwnedSemaphorePermit,
) -> http::Response<TonicBody> {
    let delivered = answer.extensions_mut().remove();
    answer.map(|body| TonicBody::new(AnswerBody::new(body, delivered, place)))
}

/// Where in the sequence of messages a body is.
#[derive(Debug)]
struct Messages {
    limit: usize,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that have come.
    have: usize,
    /// Bytes of the message that have not.
    left: u64,
}

impl Messages {
    fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX], have: 0, left: 0 }
    }

    /// Follows the next bytes; notes the size of each message whose prefix is whole now.
    fn follow(&mut self, mut bytes: &[u8], begun: &mut Vec<u64>) -> Result<(), ApiError> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= step as u64;
                bytes = &bytes[step..];
                continue;
            }
            let step = (PREFIX - self.have).min(bytes.len());
            self.prefix[self.have..self.have + step].copy_from_slice(&bytes[..step]);
            self.have += step;
            bytes = &bytes[step..];
            if self.have == PREFIX {
                self.have = 0;
                let [_, a, b, c, d] = self.prefix;
                let len = u64::from(u32::from_be_bytes([a, b, c, d]));
                if len > self.limit as u64 {
                    return Err(too_long(len, self.limit));
                }
                self.left = len;
                begun.push(PREFIX as u64 + len);
            }
        }
        Ok(())
    }

    fn is_within(&self) -> bool {
        self.left > 0 || self.have > 0
    }
}

/// What waits for room: a part of the body, and the sizes of the messages that begin in it.
struct Admission {
    room: BoxFuture<'static, Option<Taken>>,
    part: Bytes,
    begun: Vec<u64>,
}

struct MeteredBody {
    inner: TonicBody,
    messages: Messages,
    gateway: Gateway,
    received: Received,
    /// For calls that do not ask for their messages' bytes: those of the last message.
    held: Option<Taken>,
    admission: Option<Admission>,
    /// When the message under way must have come whole.
    overdue: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl MeteredBody {
    fn fail(&mut self, error: ApiError) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.gateway.refused(&error);
        (self.ended, self.admission, self.overdue) = (true, None, None);
        Poll::Ready(Some(Err(error.into())))
    }

    /// Notes that the messages were let in, and passes the part on.
    fn let_in(
        &mut self,
        mut taken: Taken,
        begun: &[u64],
        part: Bytes,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        for &size in begun {
            let message = taken.split(size);
            match &mut self.held {
                // One message at a time is decoded: the earlier ones are done with.
                Some(held) => *held = message,
                None => self.received.0.lock().push_back(message),
            }
        }
        match (self.messages.is_within(), begun.is_empty()) {
            (false, _) => self.overdue = None,
            (true, false) => {
                let within = MESSAGE_WITHIN + Duration::from_secs(self.messages.left >> 20);
                self.overdue = Some(Box::pin(tokio::time::sleep_until(Instant::now() + within)));
            }
            (true, true) => {}
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(admission) = &mut this.admission {
            let room = ready!(admission.room.as_mut().poll(context));
            let Some(Admission { part, begun, .. }) = this.admission.take() else { return Poll::Ready(None) };
            return match room {
                Some(taken) => this.let_in(taken, &begun, part),
                None => {
                    let error = overloaded(this.gateway.budget());
                    this.fail(error)
                }
            };
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => {
                if let Some(overdue) = &mut this.overdue
                    && overdue.as_mut().poll(context).is_ready()
                {
                    return this.fail(
                        ApiError::new(
                            Reason::Overloaded,
                            "the message did not come whole in time, and its room is others'; try again",
                        )
                        .retry_after(RETRY_AFTER),
                    );
                }
                return Poll::Pending;
            }
            Poll::Ready(end) => {
                (this.ended, this.overdue) = (true, None);
                return Poll::Ready(end);
            }
        };
        let part = match frame.into_data() {
            Ok(part) => part,
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        let mut begun = Vec::new();
        if let Err(error) = this.messages.follow(&part, &mut begun) {
            return this.fail(error);
        }
        let size: u64 = begun.iter().sum();
        if size == 0 {
            return this.let_in(Taken::default(), &[], part);
        }
        if let Some(taken) = this.gateway.budget().take(size) {
            return this.let_in(taken, &begun, part);
        }
        let budget = this.gateway.budget().clone();
        let room =
            Box::pin(
                async move { tokio::time::timeout(PATIENCE, budget.acquire(size)).await.ok().flatten() },
            );
        this.admission = Some(Admission { room, part, begun });
        self.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.admission.is_none() && self.inner.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut all = vec![0];
        all.extend_from_slice(&(bytes as u32).to_be_bytes());
        all.resize(PREFIX + bytes, 7);
        all
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let sizes = [0, 1, 5, 300, 0, 70_000, 4];
        let stream: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        for step in [1, 2, 3, 4, 5, 6, 7, 64, 1000, stream.len()] {
            let mut messages = Messages::new(70_000);
            let mut begun = Vec::new();
            for part in stream.chunks(step) {
                messages.follow(part, &mut begun).unwrap();
            }
            let expected: Vec<u64> = sizes.iter().map(|&size| (PREFIX + size) as u64).collect();
            assert_eq!(begun, expected, "cut by {step}");
            assert!(!messages.is_within());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_message_comes() {
        let mut messages = Messages::new(100);
        messages.follow(&message(100), &mut Vec::new()).unwrap();
        let mut begun = Vec::new();
        messages.follow(&message(101)[..4], &mut begun).unwrap();
        assert!(messages.is_within() && begun.is_empty());
        let error = messages.follow(&message(101)[4..5], &mut begun).unwrap_err();
        assert_eq!(error.reason, Reason::BatchTooLarge);
        let mut messages = Messages::new(100);
        assert!(messages.follow(&[0, 0xff, 0xff, 0xff, 0xff], &mut begun).is_err());
    }
}
