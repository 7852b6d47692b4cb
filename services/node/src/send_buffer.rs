//! How much of what is sent to another region may be on its way.
//!
//! TCP keeps what is not acknowledged in the socket's send buffer, so a connection carries no more than the buffer in a round trip. The
//! system sizes it by itself, up to `net.ipv4.tcp_wmem` (4 MiB as most systems come, of which 3 are data): 35 MB/s at 80 ms. A link
//! may have `limits.link_credit_bytes` on its way, and this is to let it.

use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};

/// As much as a link has of credit, by default. The system doubles it, for what it keeps beside the data.
const BYTES: usize = 32 * 1024 * 1024;

/// Widens the send buffer of all connections that a listener will accept, if the system lets it be wider than what it would choose.
pub fn widen(listener: &impl AsFd) {
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
    use std::net::{TcpListener, TcpStream};

    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn what_is_accepted_has_no_smaller_buffer_than_the_system_gives() {
        let accept = |listener: &TcpListener| {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            getsockopt(&accepted, SndBuf).unwrap()
        };
        let plain = accept(&TcpListener::bind("127.0.0.1:0").unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        widen(&listener);
        let widened = accept(&listener);
        let limit = number("core/wmem_max", 0).unwrap();
        assert!(widened >= plain && (widened == plain || widened >= BYTES.min(limit)), "{plain} {widened}");
    }

    #[test]
    fn a_narrow_limit_is_no_reason_to_fix_a_buffer_that_would_grow() {
        let (default_limit, grows_to) = (212_992, 4 << 20);
        assert!(!is_wider(default_limit, grows_to));
        assert!(is_wider(4 << 20, grows_to) && is_wider(usize::MAX, grows_to));
    }
}
