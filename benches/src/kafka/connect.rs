//! MirrorMaker 2 in a Connect worker, told what to do through the worker's REST interface.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::server::{PATIENCE, Server};
use super::settings::{self, MIRROR_HEAP};
use crate::error::{BenchError, io};
use crate::site::Site;

const POLL: Duration = Duration::from_millis(5);

/// The worker.
#[derive(Debug)]
pub struct Connect {
    /// Its process.
    pub server: Server,
    rest: SocketAddr,
}

impl Connect {
    /// Starts it at the site of the cluster that is written to, and waits until it takes orders.
    pub async fn start(site: &Site, target: SocketAddr, jars: &Path, dir: &Path) -> Result<Self, BenchError> {
        let rest = SocketAddr::new(site.address, site.free_port()?);
        let file = dir.join("mm2.properties");
        std::fs::write(&file, settings::connect(target, rest)).map_err(io("write Connect's settings"))?;
        let main = "org.apache.kafka.connect.cli.ConnectDistributed";
        let server = Server::start("mm2", site, dir, jars, &MIRROR_HEAP, main, &file)?;
        let mut connect = Self { server, rest };
        let begun = Instant::now();
        // It listens before it has read its own topics; until then it answers with 404 or 503.
        while !matches!(connect.ask("GET", "/connectors", None).await, Ok((200, _))) {
            let ended = connect.server.child.try_wait().map_err(io("ask after Connect"))?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = connect.server.said();
                return Err(BenchError::wrong(format!("Connect did not come up; it said:\n{said}")));
            }
            sleep(POLL * 10).await;
        }
        Ok(connect)
    }

    /// Makes a connector that mirrors one topic, all ready and held: its tasks have started and do not poll yet.
    pub async fn prepare(&self, topic: &str, config: &Value) -> Result<(), BenchError> {
        self.order("PUT", &format!("/connectors/{topic}/config"), Some(config)).await?;
        self.until(topic, "RUNNING").await?;
        self.order("PUT", &format!("/connectors/{topic}/pause"), None).await?;
        self.until(topic, "PAUSED").await
    }

    /// Lets it mirror; comes back once all of its tasks say that they run.
    pub async fn release(&self, topic: &str) -> Result<(), BenchError> {
        self.order("PUT", &format!("/connectors/{topic}/resume"), None).await?;
        self.until(topic, "RUNNING").await
    }

    /// Takes the connector away, and waits until its tasks have ended.
    pub async fn remove(&self, topic: &str) -> Result<(), BenchError> {
        self.order("DELETE", &format!("/connectors/{topic}"), None).await?;
        let begun = Instant::now();
        while self.ask("GET", &format!("/connectors/{topic}/status"), None).await?.0 != 404 {
            if begun.elapsed() > PATIENCE {
                return Err(BenchError::wrong(format!("MirrorMaker 2 does not let go of {topic}")));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the connector and all of its tasks are in a state.
    async fn until(&self, topic: &str, state: &str) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            let (code, status) = self.ask("GET", &format!("/connectors/{topic}/status"), None).await?;
            if code == 200 && all_are(&status, state) {
                return Ok(());
            }
            if status.to_string().contains("FAILED") || begun.elapsed() > PATIENCE {
                let said = self.server.said();
                let what = format!("MirrorMaker 2 should be {state} for {topic} and says {status}:\n{said}");
                return Err(BenchError::wrong(what));
            }
            sleep(POLL).await;
        }
    }

    /// While the worker balances what it runs it says 409, and means: again.
    async fn order(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            let (code, said) = self.ask(method, path, body).await?;
            match code {
                200..=299 => return Ok(()),
                409 | 503 if begun.elapsed() < PATIENCE => sleep(POLL * 10).await,
                _ => {
                    return Err(BenchError::wrong(format!("Connect answers {method} {path}: {code} {said}")));
                }
            }
        }
    }

    /// One request on a connection of its own. Version 1.0, so that the answer ends with the connection.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), BenchError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.rest,
            body.len()
        );
        let doing = || format!("ask Connect {method} {path}");
        let mut stream = TcpStream::connect(self.rest).await.map_err(io(doing()))?;
        stream.write_all(request.as_bytes()).await.map_err(io(doing()))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(io(doing()))?;
        parse(&String::from_utf8_lossy(&answer))
            .ok_or_else(|| BenchError::wrong(format!("Connect gives no answer to {method} {path}")))
    }
}

fn parse(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, serde_json::from_str(body).unwrap_or_default()))
}

fn all_are(status: &Value, state: &str) -> bool {
    let is = |part: &Value| part["state"] == state;
    let tasks = status["tasks"].as_array();
    is(&status["connector"]) && tasks.is_some_and(|tasks| !tasks.is_empty() && tasks.iter().all(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer() {
        let answer =
            "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{\"connector\":{\"state\":\"RUNNING\"},\"tasks\":[]}";
        let (code, status) = parse(answer).unwrap();
        assert_eq!((code, all_are(&status, "RUNNING")), (200, false), "no task yet");
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n"), Some((204, Value::Null)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn every_task_counts() {
        let status = |second: &str| {
            serde_json::json!({
                "connector": {"state": "PAUSED"},
                "tasks": [{"state": "PAUSED"}, {"state": second}],
            })
        };
        assert!(all_are(&status("PAUSED"), "PAUSED") && !all_are(&status("RUNNING"), "PAUSED"));
    }
}
