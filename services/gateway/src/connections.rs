//! Clients' connections: no more than so many, each of which can be closed from inside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{Stream, StreamExt as _};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// How long a listener waits when the system refuses it a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A connection on which nothing was said for so long is closed: it has a place that others need. Later HTTP/2 asks
/// whether its client is there.
const SPEAK_WITHIN: Duration = Duration::from_secs(10);

/// A connection, in the extensions of its requests.
#[derive(Clone, Debug)]
pub struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    closed: AtomicBool,
    reader: AtomicWaker,
    remote: Option<SocketAddr>,
}

impl Connection {
    /// Closes it: what HTTP/2 holds for a reader that takes nothing is freed by nothing else.
    pub(crate) fn close(&self) {
        tracing::info!(remote = ?self.0.remote, "closing a connection whose client takes nothing");
        self.0.closed.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed: the client takes nothing"));
        }
        Ok(())
    }
}

/// What comes in at a listener, named for the log. When the system has none left to give, files for instance, it is asked
/// again a little later.
pub fn accepted(
    listener: TcpListener,
    name: &'static str,
) -> impl Stream<Item = io::Result<TcpStream>> + Send + 'static {
    futures::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Messages are small, and nobody waits for more of them.
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(name, %error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    })
}

/// Accepts up to `limit` connections at once; one more is closed at once, and its client tries another node or later.
pub fn accept(
    listener: TcpListener,
    limit: usize,
) -> impl Stream<Item = io::Result<ClientStream>> + Send + 'static {
    let places = Arc::new(Semaphore::new(limit));
    accepted(listener, "client").filter_map(move |accepted| {
        let place = places.clone().try_acquire_owned();
        std::future::ready(
            accepted
                .map(|stream| match place {
                    Ok(place) => Some(ClientStream::new(stream, place)),
                    Err(_) => {
                        tracing::warn!(limit, "a connection is refused: `limits.connections` are open");
                        None
                    }
                })
                .transpose(),
        )
    })
}

/// A client's TCP connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    connection: Connection,
    /// Until something came: by when it must.
    silent: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl ClientStream {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        let remote = stream.peer_addr().ok();
        let state = State { closed: AtomicBool::new(false), reader: AtomicWaker::new(), remote };
        let silent = Some(Box::pin(tokio::time::sleep(SPEAK_WITHIN)));
        Self { stream, connection: Connection(Arc::new(state)), silent, _place: place }
    }
}

impl Connected for ClientStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.0.reader.register(context.waker());
        self.connection.check()?;
        if let Some(silent) = &mut self.silent
            && silent.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.silent = None;
        }
        polled
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
