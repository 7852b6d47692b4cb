//! Messages as they came, from the body that metered them to the service that reads them.
//!
//! They pass tonic by: its buffer keeps the size of a stream's largest message for as long as the stream lives. What
//! tonic decodes in the place of each is an empty message, which says that one is here.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use meridian_wire::{ApiError, Message, Reason};
use parking_lot::Mutex;
use tonic::{Extensions, Request, Status, Streaming};

use crate::budget::Taken;

/// A message as it came, and its room, which is to be held until it is done with.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// Its bytes, in a buffer of their own.
    pub bytes: Bytes,
    /// Its room.
    pub taken: Taken,
}

/// The messages of a request that came whole and were not read yet, in its extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received(Arc<Mutex<VecDeque<Arrived>>>);

impl Received {
    /// Those of a request.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// A message has come whole.
    pub fn push(&self, message: Arrived) {
        self.0.lock().push_back(message);
    }

    /// The oldest.
    ///
    /// # Errors
    /// There is none: the request came past the layer that meters it.
    pub fn next(&self) -> Result<Arrived, ApiError> {
        let message = self.0.lock().pop_front();
        message.ok_or_else(|| ApiError::new(Reason::Internal, "a request came past its metering"))
    }
}

/// The messages of a client's stream.
pub(crate) struct Incoming<T> {
    /// An empty message for each that has come.
    news: Streaming<T>,
    received: Received,
}

impl<T: Message + Default> Incoming<T> {
    /// Those of a request.
    pub fn new(request: Request<Streaming<T>>) -> Self {
        let received = Received::of(request.extensions());
        Self { news: request.into_inner(), received }
    }

    /// The next message and its room; none: the client sends no more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// It was refused, or cannot be read.
    pub async fn message(&mut self) -> Result<Option<(T, Taken)>, Status> {
        if self.news.message().await?.is_none() {
            return Ok(None);
        }
        let Arrived { bytes, taken } = self.received.next()?;
        Ok(Some((meridian_wire::decode(bytes)?, taken)))
    }
}
