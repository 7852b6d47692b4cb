//! The bodies of answers: handed to HTTP/2 in small pieces, each in a buffer of its own, so that a reader that takes nothing
//! holds what lies in HTTP/2's buffers and not the batches that they were cut from. Each piece holds its request's place
//! too.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::stream::{BoxStream, Stream, StreamExt as _};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body as TonicBody;

use crate::budget::Taken;
use crate::outgoing::Unfetched;

/// The largest piece.
const PIECE: usize = 64 * 1024;

/// Large enough to be a piece of its own, without others behind it.
const OWN_PIECE: usize = 16 * 1024;

/// Messages behind their gRPC prefixes in a buffer of their own, and their room.
type Framed = (Bytes, Taken);

/// Messages that go into the body before what tonic encodes, in an answer's extensions: tonic's buffer would keep the size
/// of the largest for as long as the stream lives.
#[derive(Clone)]
pub(crate) struct AnswerMessages(Arc<Mutex<Option<BoxStream<'static, Framed>>>>);

impl AnswerMessages {
    pub fn new(messages: impl Stream<Item = Framed> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(messages.boxed()))))
    }
}

/// Room that an answer takes until it was handed over, in its extensions.
#[derive(Clone)]
pub(crate) struct AnswerRoom(Arc<Mutex<Option<(Taken, Unfetched)>>>);

impl AnswerRoom {
    pub fn new(room: Taken, unfetched: Unfetched) -> Self {
        Self(Arc::new(Mutex::new(Some((room, unfetched)))))
    }
}

/// See the module.
pub(crate) struct AnswerBody {
    inner: TonicBody,
    messages: Option<BoxStream<'static, Framed>>,
    /// What is left of the last message, or of the last chunk of tonic's.
    rest: Bytes,
    /// Its room.
    taken: Taken,
    _room: Option<(Taken, Unfetched)>,
    place: Arc<OwnedSemaphorePermit>,
}

impl AnswerBody {
    /// A body that holds a place until HTTP/2 has nothing left of it.
    pub fn new(
        inner: TonicBody,
        messages: Option<AnswerMessages>,
        room: Option<AnswerRoom>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            inner,
            messages: messages.and_then(|messages| messages.0.lock().take()),
            rest: Bytes::new(),
            taken: Taken::default(),
            _room: room.and_then(|room| room.0.lock().take()),
            place: Arc::new(place),
        }
    }

    /// Copies what fits of what is left; gives its room back when nothing is.
    fn copy_into(&mut self, piece: &mut Vec<u8>) {
        let part = &self.rest[..self.rest.len().min(PIECE - piece.len())];
        piece.extend_from_slice(part);
        let copied = part.len();
        self.rest.advance(copied);
        if self.rest.is_empty() {
            // An empty slice would keep all of it.
            (self.rest, self.taken) = (Bytes::new(), Taken::default());
        }
    }
}

/// Bytes on their way to a client, and the place of their request.
struct Piece<B> {
    bytes: B,
    _place: Arc<OwnedSemaphorePermit>,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Piece<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

fn handed<B: AsRef<[u8]> + Send + 'static>(bytes: B, place: &Arc<OwnedSemaphorePermit>) -> Frame<Bytes> {
    Frame::data(Bytes::from_owner(Piece { bytes, _place: place.clone() }))
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut piece = Vec::new();
        this.copy_into(&mut piece);
        // Messages that are at hand share a piece.
        while piece.len() < PIECE
            && let Some(messages) = &mut this.messages
        {
            match messages.poll_next_unpin(context) {
                // No batch is held by it: it is a copy already.
                Poll::Ready(Some((messages, _given_back)))
                    if piece.is_empty() && (OWN_PIECE..=PIECE).contains(&messages.len()) =>
                {
                    return Poll::Ready(Some(Ok(handed(messages, &this.place))));
                }
                Poll::Ready(Some(messages)) => {
                    (this.rest, this.taken) = messages;
                    this.copy_into(&mut piece);
                }
                Poll::Ready(None) => this.messages = None,
                Poll::Pending if piece.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if piece.is_empty() {
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(chunk) => this.rest = chunk,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
            this.copy_into(&mut piece);
        }
        Poll::Ready(Some(Ok(handed(piece.into_boxed_slice(), &this.place))))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.is_none() && self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let is_inner = self.messages.is_none() && self.rest.is_empty();
        if is_inner { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::budget::ByteBudget;

    struct Chunks(Vec<Bytes>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let chunk = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
            Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn chunks() -> Vec<Bytes> {
        let sizes = [10, PIECE, 0, 1, PIECE + 1, 5 * PIECE, 3];
        sizes.iter().map(|&len| Bytes::from(vec![len as u8; len])).collect()
    }

    #[test]
    fn pieces_are_copies_that_hold_the_place() {
        let budget = ByteBudget::new(1 << 20);
        let places = Arc::new(Semaphore::new(1));
        for past_tonic in [false, true] {
            let (inner, messages) = if past_tonic { (vec![], chunks()) } else { (chunks(), vec![]) };
            let messages: Vec<Framed> = messages
                .into_iter()
                .map(|chunk| {
                    let taken = budget.take(chunk.len() as u64).unwrap();
                    (chunk, taken)
                })
                .collect();
            let all = budget.taken();
            let messages = AnswerMessages::new(futures::stream::iter(messages));
            let place = places.clone().try_acquire_owned().unwrap();
            let mut body = AnswerBody::new(TonicBody::new(Chunks(inner)), Some(messages), None, place);
            let (mut got, mut pieces) = (0, Vec::new());
            let mut context = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(piece.len() <= PIECE);
                got += piece.len();
                if past_tonic {
                    assert!(budget.taken() <= all.saturating_sub(got as u64) + 5 * PIECE as u64);
                }
                pieces.push(piece);
            }
            assert_eq!(pieces.concat(), chunks().concat());
            drop(body);
            assert_eq!((budget.taken(), places.available_permits()), (0, 0));
            pieces.truncate(1);
            assert_eq!(places.available_permits(), 0, "HTTP/2 still has a piece");
            pieces.clear();
            assert_eq!(places.available_permits(), 1);
        }
    }
}
