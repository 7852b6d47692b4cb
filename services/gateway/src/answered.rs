//! The bodies of answers: handed to HTTP/2 in small pieces, each a copy of its own, so that a reader that takes nothing
//! holds what lies in HTTP/2's buffers and not the batches that they were cut from.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body as TonicBody;

use crate::budget::Taken;

/// The largest piece.
const PIECE: usize = 64 * 1024;

/// The bytes of messages that were encoded and not yet handed over, in an answer's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivered(Arc<Mutex<Vec<Taken>>>);

impl Delivered {
    /// A message is on its way into the body.
    pub fn encoded(&self, message: Taken) {
        if message.bytes() > 0 {
            self.0.lock().push(message);
        }
    }
}

/// See the module.
pub(crate) struct AnswerBody {
    inner: TonicBody,
    delivered: Option<Delivered>,
    /// What of the last chunk is left.
    rest: Bytes,
    /// The bytes of the messages in it.
    held: Vec<Taken>,
    _place: OwnedSemaphorePermit,
}

impl AnswerBody {
    /// A body that holds a place until it has been handed over.
    pub fn new(inner: TonicBody, delivered: Option<Delivered>, place: OwnedSemaphorePermit) -> Self {
        Self { inner, delivered, rest: Bytes::new(), held: Vec::new(), _place: place }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            // All of the last chunk has been copied.
            self.held.clear();
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            let chunk = match frame.into_data() {
                Ok(chunk) => chunk,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            // A chunk holds every message that was encoded so far.
            let held = self.delivered.as_ref().map(|delivered| std::mem::take(&mut *delivered.0.lock()));
            if chunk.len() <= PIECE {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            (self.rest, self.held) = (chunk, held.unwrap_or_default());
        }
        let piece = Bytes::copy_from_slice(&self.rest[..PIECE.min(self.rest.len())]);
        self.rest.advance(piece.len());
        if self.rest.is_empty() {
            // An empty slice would keep the chunk.
            self.rest = Bytes::new();
            self.held.clear();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::budget::ByteBudget;

    struct Chunks(Vec<Bytes>, Delivered, Arc<ByteBudget>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.0.is_empty() {
                return Poll::Ready(None);
            }
            let chunk = self.0.remove(0);
            self.1.encoded(self.2.take(chunk.len() as u64).unwrap());
            Poll::Ready(Some(Ok(Frame::data(chunk))))
        }
    }

    #[test]
    fn pieces_are_copies_and_what_is_handed_over_is_given_back() {
        let budget = ByteBudget::new(1 << 20);
        let places = Arc::new(Semaphore::new(1));
        let chunks: Vec<Bytes> =
            [10, PIECE, PIECE + 1, 5 * PIECE].iter().map(|&len| Bytes::from(vec![len as u8; len])).collect();
        let whole: Vec<u8> = chunks.concat();
        let delivered = Delivered::default();
        let inner = TonicBody::new(Chunks(chunks, delivered.clone(), budget.clone()));
        let place = places.clone().try_acquire_owned().unwrap();
        let mut body = AnswerBody::new(inner, Some(delivered), place);
        let mut got = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(&piece);
            assert_eq!(budget.taken() > 0, !body.rest.is_empty(), "held while there is a rest");
        }
        assert_eq!(got, whole);
        assert_eq!((budget.taken(), places.available_permits()), (0, 0));
        drop(body);
        assert_eq!(places.available_permits(), 1);
    }
}
