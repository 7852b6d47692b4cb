//! One request to an admin listener: a line out, a status and a text back. No HTTP library is needed for that.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// `GET path`: the status and the body.
///
/// # Errors
/// Nobody listens, or what answers does not speak HTTP.
pub fn get(base: &str, path: &str) -> io::Result<(u16, String)> {
    ask("GET", base, path, ANSWER_WITHIN)
}

/// `POST path`, without a body. It may take its time.
///
/// # Errors
/// As [`get`].
pub fn post(base: &str, path: &str) -> io::Result<(u16, String)> {
    ask("POST", base, path, 3 * ANSWER_WITHIN)
}

fn ask(method: &str, base: &str, path: &str, within: Duration) -> io::Result<(u16, String)> {
    let host = base.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(within))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((status, body.to_owned()))
}
