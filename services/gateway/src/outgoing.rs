//! A stream of answers: what is queued comes first, then how it ends. And clients that do not fetch them.

use std::convert::Infallible;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use meridian_wire::{ApiError, Reason};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::connections::Connection;
use crate::shared::Gateway;

/// The sending side. Dropped without [`Outgoing::end`], the stream ends well.
pub(crate) struct Outgoing<T> {
    /// Queues an answer. The stream ends only when every clone and permit of it is gone.
    pub answers: mpsc::Sender<T>,
    last: oneshot::Sender<Status>,
    gone: oneshot::Receiver<Infallible>,
    connection: Option<Connection>,
}

/// How a stream ends: an error, or nothing.
pub(crate) type End = BoxStream<'static, Status>;

/// A queue of so many answers; what is queued; and how it ends, to be asked for after that.
pub(crate) fn outgoing<T: Send + 'static>(
    queue: usize,
    connection: Option<Connection>,
) -> (Outgoing<T>, ReceiverStream<T>, End) {
    let (answers, queued) = mpsc::channel(queue);
    let (last, end) = oneshot::channel();
    let (alive, gone) = oneshot::channel();
    let end = futures::stream::once(async move {
        let end = end.await;
        // Dropped with the stream at the latest.
        drop(alive);
        end
    });
    let end = end.filter_map(|end| std::future::ready(end.ok())).boxed();
    (Outgoing { answers, last, gone, connection }, ReceiverStream::new(queued), end)
}

/// What is queued, then how it ends.
pub(crate) fn in_order<T: Send + 'static>(
    queued: ReceiverStream<T>,
    end: End,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    queued.map(Ok).chain(end.map(Err))
}

/// Lives as long as an answer was not fetched.
pub(crate) struct Unfetched(
    #[allow(dead_code, reason = "what counts is when it is dropped")] oneshot::Sender<Infallible>,
);

/// Closes the connection of a client that does not fetch its answer: what lies there for it is memory that others need.
pub(crate) fn close_unless_fetched(gateway: &Gateway, connection: Option<Connection>) -> Unfetched {
    let (alive, gone) = oneshot::channel();
    close_unless(gone, 2 * gateway.config().slow_reader, connection);
    Unfetched(alive)
}

fn close_unless(
    gone: oneshot::Receiver<Infallible>,
    within: std::time::Duration,
    connection: Option<Connection>,
) {
    tokio::spawn(async move {
        if tokio::time::timeout(within, gone).await.is_err()
            && let Some(connection) = connection
        {
            connection.close();
        }
    });
}

impl<T: Send + 'static> Outgoing<T> {
    /// Ends the stream with an error, after what is queued.
    pub fn end(self, error: ApiError) {
        self.end_with(error.into());
    }

    /// Ends the stream with a status, after what is queued.
    pub fn end_with(self, status: Status) {
        // A reader that is gone does not ask why.
        let _ = self.last.send(status);
    }

    /// Ends the stream of a reader that takes nothing. If it does not even take the news of that, its connection is
    /// closed: what lies there for it is memory that others need.
    pub fn cut_off(self, gateway: &Gateway) {
        let patience = gateway.config().slow_reader;
        let error = ApiError::new(
            Reason::SlowReader,
            format!(
                "the reader took nothing for {patience:?}; read on from your cursor, or send what was not answered again"
            ),
        );
        gateway.refused(&error);
        let Self { answers, last, gone, connection } = self;
        let _ = last.send(error.into());
        drop(answers);
        close_unless(gone, patience, connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let (out, queued, end) = outgoing::<u32>(4, None);
        let stream = in_order(queued, end);
        out.answers.send(1).await.unwrap();
        let late = out.answers.clone().reserve_owned().await.unwrap();
        out.end(ApiError::new(Reason::NotReady, "stopping"));
        let all = tokio::spawn(stream.collect::<Vec<_>>());
        tokio::task::yield_now().await;
        late.send(2);
        let all = all.await.unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].as_ref().unwrap(), all[1].as_ref().unwrap()), (&1, &2));
        assert_eq!(ApiError::from_status(all[2].as_ref().unwrap_err()).unwrap().reason, Reason::NotReady);
    }

    #[tokio::test]
    async fn without_an_error_it_ends_well_and_says_when_it_is_gone() {
        let (out, queued, end) = outgoing::<u32>(1, None);
        let stream = in_order(queued, end);
        let Outgoing { answers, last, gone, .. } = out;
        answers.send(1).await.unwrap();
        drop((answers, last));
        assert_eq!(stream.map(|item| item.unwrap()).collect::<Vec<_>>().await, [1]);
        assert!(gone.await.is_err());

        let (out, _queued, end) = outgoing::<u32>(1, None);
        drop(end);
        assert!(out.gone.await.is_err());
    }
}
