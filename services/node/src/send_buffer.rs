//! How much of what is sent to another region may be on its way.
//!
//! TCP keeps what is not acknowledged in the socket's send buffer, so a connection carries no more than the buffer in a round trip. The
//! system sizes it by itself, up to `net.ipv4.tcp_wmem` (4 MiB as most systems come, of which 3 are data): 35 MB/s at 80 ms. A link
//! may have `limits.link_credit_bytes` on its way, and this is to let it. What is not sent yet stays with the
//! feed all the same: a shard's live frames go before another's backlog only as long as that is not in the socket. The system's memory for
//! it is beyond what `NodeConfig::memory_bound` adds up, and bounded by the credit too.

use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};

/// As much as a link has of credit, by default. The system doubles it, for what it keeps beside the data.
const BYTES: usize = 32 * 1024 * 1024;

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

/// Widens the send buffer of all connections that a listener will accept, if the system lets it be wider than what it would choose.
pub fn widen(listener: &impl AsFd) {
    if let Err(error) = bound_unsent(listener, UNSENT) {
        tracing::info!(%error, "send buffers stay as the system has them: what waits in one could not be bounded");
        return;
    }
    // Beyond the system's limit, for those who may (CAP_NET_ADMIN).
    if setsockopt(listener, SndBufForce, &BYTES).is_ok() {
        return;
    }
    let (limit, by_itself) = (number("core/wmem_max", 0), number("ipv4/tcp_wmem", 2));
    match (limit, by_itself) {
        // One that is set no longer grows by itself.
        (Some(limit), Some(by_itself)) if is_wider(limit, by_itself) => {
            if let Err(error) = setsockopt(listener, SndBuf, &BYTES) {
                tracing::debug!(%error, "the send buffer stays as the system has it");
            }
        }
        _ => tracing::info!(
            ?limit,
            ?by_itself,
            "over long distances a link is as fast as the system's send buffers let it be: raise net.core.wmem_max to 32 MiB"
        ),
    }
}

/// Whether a buffer that is set, of at most `limit` bytes before they are doubled, is wider than what the system would come to.
fn is_wider(limit: usize, by_itself: usize) -> bool {
    BYTES.min(limit).saturating_mul(2) > by_itself
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

    fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_accepted_has_no_smaller_buffer_than_the_system_gives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = getsockopt(&pair(&listener).1, SndBuf).unwrap();
        widen(&listener);
        let widened = getsockopt(&pair(&listener).1, SndBuf).unwrap();
        let limit = number("core/wmem_max", 0).unwrap();
        assert!(widened >= plain && (widened == plain || widened >= BYTES.min(limit)), "{plain} {widened}");
    }

    #[test]
    fn what_is_not_sent_yet_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        widen(&listener);
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
        assert!(!is_wider(default_limit, grows_to));
        assert!(is_wider(4 << 20, grows_to) && is_wider(usize::MAX, grows_to));
    }
}
