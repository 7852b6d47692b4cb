//! Ports for a world's listeners.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Where free ports are looked for, unless the system's own range reaches into it.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// Whether a listener could have the port now.
pub(super) fn check(port: u16) -> io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// `count` ports that nobody listens on.
///
/// They are taken from below the range that the system gives to outgoing connections: a node that was killed must find
/// its ports free when it starts again, and any connection made meanwhile could have got one from that range.
pub(super) fn free(count: usize) -> Option<Vec<u16>> {
    let last = outgoing_range_start().map_or(LAST, |start| start.saturating_sub(1).min(LAST));
    let (first, last) = if last > FIRST + 1000 { (FIRST, last) } else { (1025, u16::MAX) };
    let span = u32::from(last - first) + 1;
    // Worlds that start at the same time begin at different places.
    let start = u32::from_le_bytes(first_bytes(uuid::Uuid::new_v4())) % span;
    let mut held = Vec::with_capacity(count);
    for step in 0..span {
        if held.len() == count {
            break;
        }
        let port = first + ((start + step) % span) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    (held.len() == count).then(|| held.iter().map(|(port, _)| *port).collect())
}

fn first_bytes(uuid: uuid::Uuid) -> [u8; 4] {
    let [a, b, c, d, ..] = uuid.into_bytes();
    [a, b, c, d]
}

fn outgoing_range_start() -> Option<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct_and_free_and_not_the_systems_to_give() {
        let ports = free(30).unwrap();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 30);
        if let Some(start) = outgoing_range_start().filter(|start| *start > FIRST + 1001) {
            assert!(ports.iter().all(|port| *port < start), "{ports:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(check(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        check(port).unwrap();
    }
}
