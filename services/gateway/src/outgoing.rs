//! A stream of answers: what is queued comes first, then how it ends.

use std::convert::Infallible;

use futures::{Stream, StreamExt as _};
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

/// A queue of so many answers, and the stream of them.
pub(crate) fn outgoing<T: Send + 'static>(
    queue: usize,
    connection: Option<Connection>,
) -> (Outgoing<T>, impl Stream<Item = Result<T, Status>> + Send + 'static) {
    let (answers, queued) = mpsc::channel(queue);
    let (last, end) = oneshot::channel();
    let (alive, gone) = oneshot::channel();
    let end = futures::stream::once(async move {
        let end = end.await;
        // Dropped with the stream at the latest.
        drop(alive);
        end
    });
    let stream = ReceiverStream::new(queued)
        .map(Ok)
        .chain(end.filter_map(|end| std::future::ready(end.ok().map(Err))));
    (Outgoing { answers, last, gone, connection }, stream)
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
        tokio::spawn(async move {
            if tokio::time::timeout(patience, gone).await.is_err()
                && let Some(connection) = connection
            {
                connection.close();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let (out, stream) = outgoing::<u32>(4, None);
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
        let (out, stream) = outgoing::<u32>(1, None);
        let Outgoing { answers, last, gone, .. } = out;
        answers.send(1).await.unwrap();
        drop((answers, last));
        assert_eq!(stream.map(|item| item.unwrap()).collect::<Vec<_>>().await, [1]);
        assert!(gone.await.is_err());

        let (out, stream) = outgoing::<u32>(1, None);
        drop(stream);
        assert!(out.gone.await.is_err());
    }
}
