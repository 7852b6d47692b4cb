//! A simulated wide area network for worlds on one machine: what peers dial through.
//!
//! Flows in: the bytes of a TCP connection to another region's node. Flows out: the same bytes, in the same order, half a
//! round trip later in each direction. Must never lose, reorder or merge connections' bytes, nor hold more than
//! [`WINDOW_BYTES`] a direction: beyond that it pushes back, as a full pipe does. Only the dialing side delays, so each
//! connection has its round trip once.

mod delay;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

pub use delay::{WINDOW_BYTES, delayed};

use crate::socket_buffers::widen_receiving;

/// Dials peers.
#[derive(Clone, Debug)]
pub struct WanConnector {
    round_trip: Duration,
}

impl WanConnector {
    /// With the given round trip. Where none is simulated it is plain TCP.
    pub const fn new(round_trip: Duration) -> Self {
        Self { round_trip }
    }

    /// The round trip that is simulated; zero: none is.
    pub const fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Dials `http://host:port`; for bulk, with room for so many bytes on their way.
    ///
    /// # Errors
    /// The address is not of that form, or what TCP says.
    pub async fn connect_to(&self, url: &str, bulk: Option<usize>) -> io::Result<WanStream> {
        let uri: Option<Uri> = url.parse().ok();
        match uri.as_ref().and_then(|uri| Some((uri.host()?, uri.port_u16()?))) {
            Some((host, port)) => self.connect(&format!("{host}:{port}"), bulk).await,
            None => {
                let message = format!("{url} is not of the form http://host:port");
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
        }
    }

    /// As [`Self::connect_to`], of `host:port`. Over a simulated WAN the handshake takes a round trip too.
    ///
    /// # Errors
    /// What TCP says.
    pub async fn connect(&self, authority: &str, bulk: Option<usize>) -> io::Result<WanStream> {
        let tcp = dial(authority, bulk).await;
        if !self.round_trip.is_zero() {
            // A refusal travels as far as an acceptance does.
            tokio::time::sleep(self.round_trip).await;
        }
        let tcp = tcp?;
        tcp.set_nodelay(true)?;
        Ok(if self.round_trip.is_zero() {
            WanStream::Near(tcp)
        } else {
            WanStream::Far(delayed(tcp, self.round_trip / 2))
        })
    }
}

/// Plain TCP to the first address that answers.
async fn dial(authority: &str, bulk: Option<usize>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{authority} has no address"));
    for address in tokio::net::lookup_host(authority).await? {
        match dial_address(address, bulk).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_address(address: SocketAddr, bulk: Option<usize>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = bulk {
        widen_receiving(&socket, bytes);
    }
    socket.connect(address).await
}

/// A connection to a peer.
#[derive(Debug)]
pub enum WanStream {
    /// Plain TCP.
    Near(TcpStream),
    /// TCP behind a simulated distance.
    Far(DuplexStream),
}

/// Calls a method on whichever stream it is.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            WanStream::Near($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            WanStream::Far($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for WanStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for WanStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Near(stream) => stream.is_write_vectored(),
            Self::Far(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests;
