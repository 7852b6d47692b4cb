//! Counts requests, and the bytes of their messages, against what the node may hold, before anything is decoded: a flood
//! fills the budget, not the memory.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_wire::{ApiError, Reason};
use tonic::Status;
use tonic::body::Body as TonicBody;

use crate::answered::AnswerBody;
use crate::budget::ByteBudget;
use crate::call::Call;
use crate::metered_body::MeteredBody;
use crate::received::Received;
use crate::shared::Gateway;

/// How long a message waits for room before its request is refused.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// What a refused client is told to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What a client gets when a budget is used up; `what` is in it.
pub(crate) fn overloaded(what: &str, budget: &ByteBudget) -> ApiError {
    let limit = budget.capacity();
    let message =
        format!("this node has {limit} bytes of {what} in hand and takes no more for now; try again");
    ApiError::new(Reason::Overloaded, message).with("limit_bytes", limit).retry_after(RETRY_AFTER)
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
        let received = Received::default();
        parts.extensions.insert(received.clone());
        let (budget, metrics) = (self.gateway.budget().clone(), self.gateway.shared_metrics().clone());
        let body = MeteredBody::new(body, Call::of(parts.uri.path()), budget, metrics, received);
        let answer = self.inner.call(http::Request::from_parts(parts, TonicBody::new(body)));
        Box::pin(async move {
            let mut answer = answer.await?;
            let extensions = answer.extensions_mut();
            let (messages, kept) = (extensions.remove(), extensions.remove());
            // The place is taken until HTTP/2 has nothing left of the answer.
            Ok(answer.map(|body| TonicBody::new(AnswerBody::new(body, messages, kept, place))))
        })
    }
}
