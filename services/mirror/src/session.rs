//! A connection to a node of another region, from the end that asks.

use std::sync::Arc;

use meridian_wire::{ApiError, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};
use v1::link_request::Request as Out;
use v1::link_response::Response as In;

use crate::hello::{Identity, PeerHello, Vetting};
use crate::links::Dialer;
use crate::sources::Source;

/// A frame may be as large as a batch, and a message holds at least one.
const MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// One whose peer was accepted.
pub(crate) struct Session {
    pub source: Source,
    pub requests: mpsc::UnboundedSender<v1::LinkRequest>,
    pub responses: Streaming<v1::LinkResponse>,
}

impl Session {
    /// A connection that is gone says so on its other half.
    pub fn ask(&self, request: Out) {
        let _ = self.requests.send(v1::LinkRequest { request: Some(request) });
    }
}

/// Dials a node, greets it, and makes sure that it is who it should be.
pub(crate) async fn open(
    dialer: Arc<dyn Dialer>,
    me: Identity,
    vetting: Vetting,
    source: Source,
) -> Result<Session, String> {
    let channel = dialer.dial(source.node).await?;
    let mut client = v1::peer_service_client::PeerServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let (requests, stream) = mpsc::unbounded_channel();
    let hello = v1::LinkRequest { request: Some(Out::Hello(me.to_hello())) };
    requests.send(hello).map_err(|_| "the request stream is closed".to_owned())?;
    let response =
        client.link(UnboundedReceiverStream::new(stream)).await.map_err(|status| describe(&status))?;
    let mut responses = response.into_inner();
    let first = responses.message().await.map_err(|status| describe(&status))?;
    let Some(v1::LinkResponse { response: Some(In::Hello(hello)) }) = first else {
        return Err("the peer did not say Hello".to_owned());
    };
    let peer = PeerHello::read(&hello).map_err(|error| error.to_string())?;
    peer.check(&me).map_err(|error| error.to_string())?;
    vetting(&peer).map_err(|error| error.to_string())?;
    if peer.identity.region != source.region || peer.identity.node != source.node {
        return Err(format!(
            "dialled node {} of {}, reached node {} of {}",
            source.node, source.region, peer.identity.node, peer.identity.region
        ));
    }
    Ok(Session { source, requests, responses })
}

/// What a peer's refusal says.
pub(crate) fn describe(status: &Status) -> String {
    ApiError::from_status(status).map_or_else(|| status.to_string(), |error| error.to_string())
}
