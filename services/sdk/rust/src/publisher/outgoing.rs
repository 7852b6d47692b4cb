//! The outgoing half of a connection: as soon as HTTP/2 takes more it asks the core for the next request, and sends the
//! batch's bytes as they are, without a copy.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};
use meridian_wire::framed_before;
use meridian_wire::v1::PublishBatchesRequest;
use tonic::body::Body as AnyBody;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;

use super::Shared;
use super::wake::Link;
use crate::client::NodeIndex;

/// `PublishBatchesRequest.batch`.
const BATCH: u32 = 4;

/// The body of a call of PublishBatches.
pub(super) struct Outgoing {
    shared: Arc<Shared>,
    link: Arc<Link>,
    node: NodeIndex,
    first: Option<PublishBatchesRequest>,
    /// Of the request of which the head was given.
    batch: Option<Bytes>,
}

impl Outgoing {
    /// `first` is what was taken from the core for this connection already.
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<Link>,
        node: NodeIndex,
        first: Option<PublishBatchesRequest>,
    ) -> Self {
        Self { shared, link, node, first, batch: None }
    }

    fn next_request(&mut self) -> Option<PublishBatchesRequest> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let (request, failed) = {
            let mut core = self.shared.core.lock();
            if self.link.is_ended() {
                return None;
            }
            let request = core.next_request(Instant::now(), self.node);
            (request, core.failed().is_some())
        };
        // The task hands out what failed, and minds the time as soon as an answer is waited for.
        if failed || request.is_some() && !self.link.is_watched() {
            self.link.wake_task();
        }
        request
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(batch) = self.batch.take() {
            return Poll::Ready(Some(Ok(Frame::data(batch))));
        }
        // First, so that what comes after the core was asked is not missed.
        self.link.outgoing_waits(context.waker());
        if self.link.is_ended() {
            return Poll::Ready(None);
        }
        let Some(mut request) = self.next_request() else { return Poll::Pending };
        let batch = std::mem::take(&mut request.batch);
        let head = framed_before(&request, BATCH, batch.len());
        self.batch = Some(batch);
        Poll::Ready(Some(Ok(Frame::data(head))))
    }
}

/// A channel that sends this body in place of the one that the generated client makes, which copies each batch.
pub(super) struct WithBody {
    pub(super) channel: Channel,
    pub(super) body: Option<Outgoing>,
}

impl Service<http::Request<AnyBody>> for WithBody {
    type Response = http::Response<AnyBody>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<AnyBody>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<AnyBody>) -> Self::Future {
        let body = self.body.take();
        self.channel.call(match body {
            Some(body) => request.map(|_| AnyBody::new(body)),
            None => request,
        })
    }
}
