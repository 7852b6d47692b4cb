//! How much of what is sent to another region may be on its way.
//!
//! TCP keeps what is not acknowledged in the sender's buffer, and what came behind something that is lost in the receiver's, so a
//! connection carries no more than either in a round trip, and half as much where packets are lost all the time. The system sizes them by itself,
//! up to `net.ipv4.tcp_wmem` (4 MiB as most systems come, of which 3 are data: 35 MB/s at 80 ms) and `net.ipv4.tcp_rmem` (6 to 32 MiB, of which half
//! is data). A link may have `limits.link_credit_bytes` on its way, and this is to let it. What is not sent yet stays with the
//! feed all the same: a shard's live frames go before another's backlog only as long as that is not in the socket. The system's memory for
//! both is beyond what `NodeConfig::memory_bound` adds up, and bounded by the credit too.

use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Once;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{SetSockOpt, setsockopt};

/// How much may lie in a socket that was not sent yet: enough to keep a line busy until its task runs again.
const UNSENT: u32 = 1024 * 1024;

/// `TCP_NOTSENT_LOWAT` (tcp(7)): a socket takes no more while so many bytes are not sent yet. What it accepts does the same.
#[allow(unsafe_code, reason = "no library has a name for this option")]
fn bound_unsent(listener: &impl AsFd, bytes: u32) -> nix::Result<()> {
    let value: libc::c_uint = bytes;
    let (pointer, len) = ((&raw const value).cast(), size_of_val(&value) as libc::socklen_t);
    let socket = listener.as_fd().as_raw_fd();
    // SAFETY: the socket is open while it is borrowed, and the value is read during the call alone.
    let result =
        unsafe { libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, pointer, len) };
    Errno::result(result).map(drop)
}

/// Widens the send buffer of all connections that a listener will accept to so many bytes of data, if the system lets it be wider than
/// what it would choose.
pub fn widen_sending(listener: &impl AsFd, bytes: usize) {
    match bound_unsent(listener, UNSENT) {
        Ok(()) => widen(listener, bytes, &SEND),
        Err(error) => {
            tracing::info!(%error, "send buffers stay as the system has them: what waits in one could not be bounded");
        }
    }
}

/// The same for the receive buffer of a connection, before it is made: its width is agreed on then.
pub fn widen_receiving(socket: &impl AsFd, bytes: usize) {
    widen(socket, bytes, &RECEIVE);
}

/// The widest that is asked for: the system reads more as a number below zero.
const WIDEST: usize = 1 << 30;

/// One of a socket's two buffers.
struct Buffer<Option, Force> {
    option: Option,
    /// Beyond the system's limit, for those who may (CAP_NET_ADMIN).
    force: Force,
    /// How much wider than what was asked for the system makes it, for what it keeps beside the data; 1 where some systems
    /// let data have no more than what was asked for.
    doubled: usize,
    /// Said once, not with every connection.
    said: &'static Once,
    /// Where the system says how wide one that is set may be, and what one that grows by itself comes to.
    limit: &'static str,
    by_itself: &'static str,
}

static SAID_OF_SENDING: Once = Once::new();
static SAID_OF_RECEIVING: Once = Once::new();

const SEND: Buffer<SndBuf, SndBufForce> = Buffer {
    option: SndBuf,
    force: SndBufForce,
    doubled: 2,
    said: &SAID_OF_SENDING,
    limit: "core/wmem_max",
    by_itself: "ipv4/tcp_wmem",
};
const RECEIVE: Buffer<RcvBuf, RcvBufForce> = Buffer {
    option: RcvBuf,
    force: RcvBufForce,
    doubled: 1,
    said: &SAID_OF_RECEIVING,
    limit: "core/rmem_max",
    by_itself: "ipv4/tcp_rmem",
};

fn widen<O, F>(socket: &impl AsFd, bytes: usize, buffer: &Buffer<O, F>)
where
    O: SetSockOpt<Val = usize> + Copy,
    F: SetSockOpt<Val = usize> + Copy,
{
    let bytes = bytes.min(WIDEST);
    let (limit, by_itself) = (number(buffer.limit, 0), number(buffer.by_itself, 2));
    // One that is set no longer grows by itself.
    let is_wider =
        |most: usize| by_itself.is_none_or(|by_itself| is_wider(bytes.min(most), buffer.doubled, by_itself));
    if is_wider(usize::MAX) && setsockopt(socket, buffer.force, &bytes).is_ok() {
        return;
    }
    match limit {
        Some(limit) if is_wider(limit) => {
            if let Err(error) = setsockopt(socket, buffer.option, &bytes) {
                tracing::debug!(%error, buffer.limit, "a buffer stays as the system has it");
            }
        }
        _ if is_wider(usize::MAX) => buffer.said.call_once(|| {
            tracing::info!(
                ?limit,
                ?by_itself,
                "over long distances a link is as fast as the system's buffers let it be: raise net/{} to {bytes}",
                buffer.limit
            );
        }),
        _ => {}
    }
}

/// Whether a buffer that is set to so many bytes is wider than what the system would come to by itself.
fn is_wider(bytes: usize, doubled: usize, by_itself: usize) -> bool {
    bytes.saturating_mul(doubled) > by_itself
}

/// A number of a setting of the network.
fn number(name: &str, place: usize) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    text.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use nix::sys::socket::getsockopt;

    use super::*;

    const BYTES: usize = 64 << 20;

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_accepted_has_no_smaller_buffer_than_the_system_gives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = getsockopt(&pair(&listener).1, SndBuf).unwrap();
        widen_sending(&listener, BYTES);
        let widened = getsockopt(&pair(&listener).1, SndBuf).unwrap();
        let limit = number("core/wmem_max", 0).unwrap();
        assert!(widened >= plain && (widened == plain || widened >= BYTES.min(limit)), "{plain} {widened}");
    }

    #[test]
    fn what_is_dialled_has_no_smaller_buffer_than_the_system_gives() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let plain = getsockopt(&socket, RcvBuf).unwrap();
        widen_receiving(&socket, 1);
        assert_eq!(getsockopt(&socket, RcvBuf).unwrap(), plain, "a narrow one would not grow");
        widen_receiving(&socket, usize::MAX);
        assert!(getsockopt(&socket, RcvBuf).unwrap() >= plain, "no number below zero");
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        widen_receiving(&socket, BYTES);
        let widened = getsockopt(&socket, RcvBuf).unwrap();
        let limit = number("core/rmem_max", 0).unwrap();
        assert!(widened >= plain && (widened == plain || widened >= BYTES.min(limit)), "{plain} {widened}");
    }

    #[test]
    fn what_is_not_sent_yet_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        widen_sending(&listener, BYTES);
        // It never reads: what was sent fills its buffer, and the rest is not sent.
        let (_client, mut accepted) = pair(&listener);
        accepted.set_nonblocking(true).unwrap();
        let (mut taken, chunk) = (0, vec![0; 64 * 1024]);
        while let Ok(bytes) = accepted.write(&chunk) {
            taken += bytes;
        }
        // Buffers of a receiver that has read nothing are small.
        assert!((UNSENT as usize / 2..8 * UNSENT as usize).contains(&taken), "{taken}");
    }

    #[test]
    fn a_narrow_limit_is_no_reason_to_fix_a_buffer_that_would_grow() {
        let (default_limit, grows_to) = (212_992, 4 << 20);
        assert!(!is_wider(default_limit, 2, grows_to));
        assert!(is_wider(4 << 20, 2, grows_to) && !is_wider(4 << 20, 1, grows_to));
        assert!(is_wider(usize::MAX, 2, grows_to));
    }
}
