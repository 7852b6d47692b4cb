//! The delay itself: one task for each direction of a connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep_until};

/// How many bytes are on their way at most, in each direction of a connection. Throughput is bounded by this over the
/// delay: 64 MiB and 40 ms leave 1.6 GB/s.
pub const WINDOW_BYTES: usize = 64 << 20;

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// What the near end's pipe holds between two wakes of its task.
const PIPE_BYTES: usize = 256 << 10;
/// What is written in one call.
const CHUNKS_AT_ONCE: usize = 32;

/// Puts a stream at a distance: bytes arrive `delay` after they were written, in each direction.
///
/// Must be called within a Tokio runtime: two tasks carry the bytes, and end when either side does.
pub fn delayed<S>(far: S, delay: Duration) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    delayed_within(far, delay, WINDOW_BYTES)
}

/// [`delayed`] with another bound than [`WINDOW_BYTES`].
pub(super) fn delayed_within<S>(far: S, delay: Duration, window: usize) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (near, inner) = tokio::io::duplex(PIPE_BYTES);
    let (inner_read, inner_write) = tokio::io::split(inner);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::spawn(carry(inner_read, far_write, delay, window));
    tokio::spawn(carry(far_read, inner_write, delay, window));
    near
}

/// What is on its way, each with the instant at which it arrives.
struct Pipe {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// Set once the sending side has ended: when the receiving side learns of it.
    end: Option<Instant>,
}

impl Pipe {
    /// When something happens next at the receiving end.
    fn next_arrival(&self) -> Option<Instant> {
        self.chunks.front().map(|(at, _)| *at).or(self.end)
    }
}

/// Carries one direction. An error or the end of the sender reaches the receiver as its end, after all that was sent;
/// an error of the receiver drops what is on its way and the sender's half, as a reset does.
async fn carry<R, W>(mut from: R, mut to: W, delay: Duration, window: usize)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut pipe = Pipe { chunks: VecDeque::new(), bytes: 0, end: None };
    let mut buffer = BytesMut::new();
    loop {
        let reading = pipe.end.is_none() && pipe.bytes < window;
        let next = pipe.next_arrival();
        if reading && buffer.capacity() < CHUNK_BYTES / 2 {
            buffer.reserve(CHUNK_BYTES);
        }
        tokio::select! {
            // Arrivals first: a flood of new bytes must not hold up those that are due.
            biased;
            done = deliver(&mut to, &pipe, next), if next.is_some() => match done {
                Ok(0) | Err(_) => return,
                Ok(written) => advance(&mut pipe, written),
            },
            read = from.read_buf(&mut buffer), if reading => match read {
                Ok(0) | Err(_) => pipe.end = Some(Instant::now() + delay),
                Ok(count) => {
                    pipe.bytes += count;
                    pipe.chunks.push_back((Instant::now() + delay, buffer.split().freeze()));
                }
            },
        }
    }
}

/// Waits until `next`, then writes what is due; 0 once the end was passed on. Nothing is written if it is cancelled.
async fn deliver<W: AsyncWrite + Unpin>(to: &mut W, pipe: &Pipe, next: Option<Instant>) -> io::Result<usize> {
    if let Some(next) = next {
        sleep_until(next).await;
    }
    if pipe.chunks.is_empty() {
        to.shutdown().await?;
        return Ok(0);
    }
    let now = Instant::now();
    let due: Vec<IoSlice<'_>> = pipe
        .chunks
        .iter()
        .take(CHUNKS_AT_ONCE)
        .take_while(|(at, _)| *at <= now)
        .map(|(_, chunk)| IoSlice::new(chunk))
        .collect();
    to.write_vectored(&due).await
}

/// Drops what was written.
fn advance(pipe: &mut Pipe, mut written: usize) {
    pipe.bytes -= written;
    while let Some((_, chunk)) = pipe.chunks.front_mut() {
        if chunk.len() > written {
            chunk.advance(written);
            return;
        }
        written -= chunk.len();
        pipe.chunks.pop_front();
    }
}
