//! The body of a request, whose messages need room before they are taken off the connection.
//!
//! A message is let in whole, when its length is known and before its bytes are taken. So two halves never wait for each
//! other, and what waits lies in HTTP/2's windows, which bound it. Of what came in one part with the end of a message, the
//! message is passed on first.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use meridian_wire::{ApiError, GRPC_PREFIX, Reason};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body as TonicBody;

use crate::budget::{ByteBudget, Taken};
use crate::call::Call;
use crate::metered::{PATIENCE, RETRY_AFTER, overloaded};
use crate::metrics::Metrics;
use crate::received::{Arrived, Received};

/// A message that was let in holds its room for so long, and a second longer for each mebibyte; then it must have come
/// whole, and so must a request that is one message.
const MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// What tonic sees of a message that is received past it: an empty one.
const NEWS: [u8; GRPC_PREFIX] = [0; GRPC_PREFIX];

fn too_late() -> ApiError {
    ApiError::new(
        Reason::Overloaded,
        "the message did not come whole in time, and its room is others'; try again",
    )
    .retry_after(RETRY_AFTER)
}

/// A gRPC message's flag and length, as far as they have come.
#[derive(Debug, Default)]
struct Prefix {
    bytes: [u8; GRPC_PREFIX],
    have: usize,
}

impl Prefix {
    /// Takes what belongs to it; gives the message's length once it is whole.
    ///
    /// # Errors
    /// The message is compressed.
    fn take_from(&mut self, part: &mut Bytes) -> Result<Option<usize>, ApiError> {
        let step = (GRPC_PREFIX - self.have).min(part.len());
        part.copy_to_slice(&mut self.bytes[self.have..self.have + step]);
        self.have += step;
        if self.have < GRPC_PREFIX {
            return Ok(None);
        }
        self.have = 0;
        let [flag, a, b, c, d] = self.bytes;
        if flag != 0 {
            return Err(ApiError::new(
                Reason::InvalidArgument,
                "the message is compressed, which is not offered; compress the batch in it",
            ));
        }
        Ok(Some(u32::from_be_bytes([a, b, c, d]) as usize))
    }
}

/// A message of which the length has come.
struct Coming {
    /// Bytes that have not come.
    left: usize,
    taken: Taken,
    /// What has come, where the service receives it past tonic.
    bytes: Vec<u8>,
}

/// See the module.
pub(crate) struct MeteredBody {
    inner: TonicBody,
    call: Call,
    budget: Arc<ByteBudget>,
    metrics: Arc<Metrics>,
    received: Received,
    prefix: Prefix,
    /// A message's length, while it waits for room.
    waiting: Option<(usize, BoxFuture<'static, Option<Taken>>)>,
    coming: Option<Coming>,
    /// What came behind the last message's end, or waits for room.
    rest: Bytes,
    /// When what is under way must have come whole.
    overdue: Option<Instant>,
    /// Made when there is something to wait for: most messages come in one part.
    timer: Option<Pin<Box<Sleep>>>,
    /// Messages let in.
    messages: u64,
    ended: bool,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl MeteredBody {
    /// The body of such a call. What comes whole is put into `received`.
    pub fn new(
        inner: TonicBody,
        call: Call,
        budget: Arc<ByteBudget>,
        metrics: Arc<Metrics>,
        received: Received,
    ) -> Self {
        let mut body = Self {
            inner,
            call,
            budget,
            metrics,
            received,
            prefix: Prefix::default(),
            waiting: None,
            coming: None,
            rest: Bytes::new(),
            overdue: None,
            timer: None,
            messages: 0,
            ended: false,
        };
        if call.has_one_message() {
            body.must_come_within(MESSAGE_WITHIN);
        }
        body
    }

    fn must_come_within(&mut self, within: Duration) {
        self.overdue = Some(Instant::now() + within);
    }

    /// Whether it is too late for what is under way; if not, the task is woken when it is.
    fn is_too_late(&mut self, context: &mut Context<'_>) -> bool {
        let Some(overdue) = self.overdue else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(overdue)));
        if timer.deadline() != overdue {
            timer.as_mut().reset(overdue);
        }
        timer.as_mut().poll(context).is_ready()
    }

    fn fail(&mut self, error: ApiError) -> Polled {
        self.metrics.count_refusal(&error);
        (self.ended, self.waiting, self.coming, self.overdue) = (true, None, None, None);
        // What was sent ahead is given back to the connection.
        (self.inner, self.rest) = (TonicBody::empty(), Bytes::new());
        Poll::Ready(Some(Err(error.into())))
    }

    /// A message's length is known: it is let in, or waits for room.
    fn begin(&mut self, len: usize) -> Result<(), ApiError> {
        if self.call.has_one_message() && self.messages > 0 {
            return Err(ApiError::new(
                Reason::InvalidArgument,
                "this call takes one message, and a second came",
            ));
        }
        let room = self.call.room(len as u64)?;
        let taken = if room == 0 { Some(Taken::default()) } else { self.budget.take(room) };
        match taken {
            Some(taken) => self.let_in(len, taken),
            None => {
                let budget = self.budget.clone();
                let room =
                    async move { tokio::time::timeout(PATIENCE, budget.acquire(room)).await.ok().flatten() };
                self.waiting = Some((len, Box::pin(room)));
            }
        }
        Ok(())
    }

    fn let_in(&mut self, len: usize, taken: Taken) {
        self.messages += 1;
        let bytes = if self.call.is_received() { Vec::with_capacity(len) } else { Vec::new() };
        self.coming = Some(Coming { left: len, taken, bytes });
        self.must_come_within(MESSAGE_WITHIN + Duration::from_secs(len as u64 >> 20));
    }

    /// Takes what belongs to the message from what is at hand; what is given is passed on to tonic.
    fn go_on(&mut self, mut coming: Coming) -> Option<Bytes> {
        let part = self.rest.split_to(coming.left.min(self.rest.len()));
        coming.left -= part.len();
        let is_whole = coming.left == 0;
        if is_whole && !self.call.has_one_message() {
            self.overdue = None;
        }
        if !self.call.is_received() {
            self.coming = (!is_whole).then_some(coming);
            return Some(part);
        }
        coming.bytes.extend_from_slice(&part);
        if !is_whole {
            self.coming = Some(coming);
            return None;
        }
        self.received.push(Arrived { bytes: coming.bytes.into(), taken: coming.taken });
        Some(Bytes::from_static(&NEWS))
    }

    fn is_between_messages(&self) -> bool {
        self.waiting.is_none() && self.coming.is_none() && self.rest.is_empty() && self.prefix.have == 0
    }
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some((len, room)) = &mut this.waiting {
                let (len, room) = (*len, ready!(room.as_mut().poll(context)));
                this.waiting = None;
                let Some(taken) = room else {
                    let error = overloaded("requests", &this.budget);
                    return this.fail(error);
                };
                this.let_in(len, taken);
            }
            if this.coming.as_ref().is_some_and(|coming| coming.left == 0 || !this.rest.is_empty()) {
                let Some(coming) = this.coming.take() else { continue };
                match this.go_on(coming) {
                    Some(part) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                    None => continue,
                }
            }
            if !this.rest.is_empty() {
                let begun = match this.prefix.take_from(&mut this.rest) {
                    Ok(Some(len)) => this.begin(len).map(|()| true),
                    Ok(None) => Ok(false),
                    Err(error) => Err(error),
                };
                match begun {
                    // tonic reads the prefix too, where it reads the message.
                    Ok(true) if !this.call.is_received() => {
                        return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(
                            &this.prefix.bytes,
                        )))));
                    }
                    Ok(_) => continue,
                    Err(error) => return this.fail(error),
                }
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(part) => this.rest = part,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(None) if !this.is_between_messages() => {
                    return this
                        .fail(ApiError::new(Reason::InvalidArgument, "the last message is cut short"));
                }
                Poll::Ready(end) => {
                    (this.ended, this.overdue) = (true, None);
                    return Poll::Ready(end);
                }
                Poll::Pending => {
                    return if this.is_too_late(context) { this.fail(too_late()) } else { Poll::Pending };
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.is_between_messages() && self.inner.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;
    use crate::call::{BATCH_OVERHEAD, MESSAGE_BYTES, PUBLISH_BATCHES};

    /// The parts of a body, which then ends, or does not.
    struct Parts(VecDeque<Bytes>, bool);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            match self.0.pop_front() {
                Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
                None if self.1 => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn message(bytes: usize) -> Vec<u8> {
        let mut all = vec![0];
        all.extend_from_slice(&(bytes as u32).to_be_bytes());
        all.resize(GRPC_PREFIX + bytes, bytes as u8);
        all
    }

    fn body(
        call: Call,
        budget: &Arc<ByteBudget>,
        parts: impl IntoIterator<Item = Vec<u8>>,
        ends: bool,
    ) -> MeteredBody {
        let parts = Parts(parts.into_iter().map(Bytes::from).collect(), ends);
        let (metrics, received) = (Arc::default(), Received::default());
        MeteredBody::new(TonicBody::new(parts), call, budget.clone(), metrics, received)
    }

    fn poll(body: &mut MeteredBody) -> Polled {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn data(polled: Polled) -> Bytes {
        let Poll::Ready(Some(Ok(frame))) = polled else { panic!("{polled:?}") };
        frame.into_data().unwrap()
    }

    fn reason(polled: Polled) -> Reason {
        let Poll::Ready(Some(Err(status))) = polled else { panic!("{polled:?}") };
        ApiError::from_status(&status).unwrap().reason
    }

    async fn next(body: &mut MeteredBody) -> Polled {
        Poll::Ready(std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await)
    }

    #[tokio::test]
    async fn messages_are_told_apart_however_they_are_cut() {
        let sizes = [0, 1, 5, 300, 0, 30_000, 4];
        let stream: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        let budget = ByteBudget::new(1 << 20);
        for step in [1, 2, 3, 4, 5, 6, 7, 64, 1000, stream.len()] {
            let parts = || stream.chunks(step).map(<[u8]>::to_vec);
            let mut batches = body(Call::PublishBatches, &budget, parts(), true);
            for size in sizes {
                assert_eq!(data(poll(&mut batches)), NEWS.as_slice(), "cut by {step}");
                let Arrived { bytes, taken } = batches.received.next().unwrap();
                assert_eq!(bytes, message(size)[GRPC_PREFIX..], "cut by {step}");
                assert_eq!(taken.bytes(), size as u64 + BATCH_OVERHEAD);
                assert!(batches.received.next().is_err(), "each is passed on before the next is let in");
                assert!(batches.overdue.is_none());
            }
            assert!(matches!(poll(&mut batches), Poll::Ready(None)) && batches.is_end_stream());
            assert_eq!(budget.taken(), 0);
            // What is not received is passed on as it is.
            let mut small = body(Call::SmallMessages, &budget, parts(), true);
            let mut all = Vec::new();
            while let Poll::Ready(Some(Ok(frame))) = poll(&mut small) {
                all.extend_from_slice(&frame.into_data().unwrap());
            }
            assert_eq!((all, budget.taken()), (stream.clone(), 0));
        }
    }

    #[tokio::test]
    async fn what_is_too_long_compressed_or_cut_short_is_refused() {
        let budget = ByteBudget::new(1 << 20);
        for (call, bytes, expected) in [
            (Call::Publish, message(MESSAGE_BYTES + 1)[..5].to_vec(), Reason::BatchTooLarge),
            (Call::PublishBatches, vec![0, 0xff, 0xff, 0xff, 0xff], Reason::BatchTooLarge),
            (Call::SmallMessage, vec![0, 0xff, 0xff, 0xff, 0xff], Reason::InvalidArgument),
            (Call::Publish, vec![1, 0, 0, 0, 0], Reason::InvalidArgument),
            (Call::Publish, message(9)[..13].to_vec(), Reason::InvalidArgument),
            (Call::Subscribe, vec![0, 0], Reason::InvalidArgument),
        ] {
            let mut body = body(call, &budget, [bytes.clone()], true);
            assert_eq!(reason(poll(&mut body)), expected, "{call:?} {bytes:?}");
            assert_eq!((budget.taken(), body.is_end_stream()), (0, true));
        }
    }

    /// The end of one message and the beginning of the next in one part: the first does not wait for the second's room.
    #[tokio::test(start_paused = true)]
    async fn a_message_does_not_wait_for_the_room_of_the_next() {
        let budget = ByteBudget::new(10_000);
        let both = [message(4_000), message(4_000)].concat();
        let mut body = body(Call::PublishBatches, &budget, [both], false);
        assert_eq!(data(poll(&mut body)), NEWS.as_slice());
        let first = body.received.next().unwrap();
        assert!(poll(&mut body).is_pending(), "there is no room for two");
        assert_eq!(first.bytes.len(), 4_000);
        drop(first);
        assert_eq!(data(next(&mut body).await), NEWS.as_slice());
        // And a third that finds none is refused after a while.
        let _second = body.received.next().unwrap();
        let mut third = super::tests::body(Call::PublishBatches, &budget, [message(6_000)], false);
        assert_eq!(reason(next(&mut third).await), Reason::Overloaded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_of_one_message_ends_in_time_or_gives_its_room_back() {
        let budget = ByteBudget::new(1 << 20);
        for parts in [vec![], vec![message(100)], vec![message(100)[..50].to_vec()]] {
            let begun = Instant::now();
            let mut body = body(Call::Publish, &budget, parts.clone(), false);
            let mut polled = next(&mut body).await;
            if parts == [message(100)] {
                assert_eq!(data(polled), NEWS.as_slice());
                assert_eq!(budget.taken(), 100 + PUBLISH_BATCHES * BATCH_OVERHEAD);
                polled = next(&mut body).await;
            }
            assert_eq!(reason(polled), Reason::Overloaded);
            assert!((MESSAGE_WITHIN..MESSAGE_WITHIN * 2).contains(&begun.elapsed()));
            drop(body);
            assert_eq!(budget.taken(), 0);
        }
        // A stream may be silent between its messages.
        let mut stream = body(Call::PublishBatches, &budget, [message(100)], false);
        assert_eq!(data(next(&mut stream).await), NEWS.as_slice());
        tokio::time::sleep(10 * MESSAGE_WITHIN).await;
        assert!(poll(&mut stream).is_pending());
        let mut twice = body(Call::Publish, &budget, [message(1), message(1)], true);
        assert_eq!(data(poll(&mut twice)), NEWS.as_slice());
        assert_eq!(reason(poll(&mut twice)), Reason::InvalidArgument, "a second message");
    }
}
