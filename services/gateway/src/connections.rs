//! Clients' connections: no more than so many, each of which can be closed from inside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;

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

/// Accepts up to `limit` connections at once; one more is closed at once, and its client tries another node or later.
pub fn accept(
    listener: TcpListener,
    limit: usize,
) -> impl Stream<Item = io::Result<ClientStream>> + Send + 'static {
    let places = Arc::new(Semaphore::new(limit));
    TcpListenerStream::new(listener).filter_map(move |accepted| {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(limit, "a connection is refused: `limits.connections` are open");
            return None;
        };
        // Answers are small, and nobody waits for more of them.
        let _ = stream.set_nodelay(true);
        let remote = stream.peer_addr().ok();
        let state = State { closed: AtomicBool::new(false), reader: AtomicWaker::new(), remote };
        Some(Ok(ClientStream { stream, connection: Connection(Arc::new(state)), _place: place }))
    })
}

/// A client's TCP connection.
#[derive(Debug)]
pub struct ClientStream {
    stream: TcpStream,
    connection: Connection,
    _place: OwnedSemaphorePermit,
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
