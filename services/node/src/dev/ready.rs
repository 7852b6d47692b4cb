//! Asks a node's admin listener whether it is ready.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ASK_WITHIN: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Returns once `GET /readyz` answers 200.
pub(super) async fn ready(admin_port: u16) {
    while !is_ready(admin_port).await {
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn is_ready(admin_port: u16) -> bool {
    matches!(timeout(ASK_WITHIN, status(admin_port)).await, Ok(Ok(200)))
}

/// One request a connection, and of the answer only its first line: no HTTP library is needed for that.
async fn status(admin_port: u16) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin_port)).await?;
    let request = "GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let line = String::from_utf8_lossy(&answer);
    let code =
        line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    code.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}
