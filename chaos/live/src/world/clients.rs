//! Those who talk to nodes from outside: a runtime whose threads are in the clients' namespace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use meridian_sdk::{Client, ClientOptions};
use tokio::runtime::Runtime;

use crate::net::{Place, enter, enter_for_good};
use crate::trouble::{Context as _, Trouble};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A runtime whose sockets are in the clients' namespace.
#[derive(Debug)]
pub struct Clients {
    runtime: Option<Runtime>,
}

impl Clients {
    pub(super) fn new() -> Result<Self, Trouble> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(|| {
                if let Err(trouble) = enter_for_good(Place::Clients) {
                    // Its sockets would be on the machine's own network: nothing may be tried there.
                    crate::say(&format!("a client's thread cannot enter its namespace: {trouble}"));
                    std::process::abort();
                }
            })
            .build()
            .context("a runtime")?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs something to its end, on a thread that is in the clients' namespace.
    ///
    /// # Errors
    /// It panicked.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Trouble> {
        let runtime = self.runtime()?;
        runtime.block_on(runtime.spawn(work)).context("a client")
    }

    /// Lets something go on in the background.
    ///
    /// # Errors
    /// The world has ended.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>, Trouble> {
        Ok(self.runtime()?.spawn(work))
    }

    /// Waits for what went on in the background.
    ///
    /// # Errors
    /// It panicked.
    pub fn join<T>(&self, task: tokio::task::JoinHandle<T>) -> Result<T, Trouble> {
        self.runtime()?.block_on(task).context("a client")
    }

    fn runtime(&self) -> Result<&Runtime, Trouble> {
        self.runtime.as_ref().ok_or_else(|| Trouble::tool("the clients have ended"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}

/// A client of a region. Call it from within the clients' runtime: its connections belong there.
///
/// # Errors
/// An endpoint that is none.
pub(crate) fn client(endpoints: Vec<String>, retry_for: Duration) -> Result<Client, Trouble> {
    let options = ClientOptions {
        retry_for,
        connect_timeout: Duration::from_secs(2),
        attempt_timeout: Duration::from_secs(10),
        ..ClientOptions::default()
    };
    Client::connect(endpoints, options).context("a client")
}

/// A client of one node alone: it answers for itself, or does not.
///
/// # Errors
/// As [`client`].
pub(crate) fn client_of_one(endpoint: String, retry_for: Duration) -> Result<Client, Trouble> {
    let options = ClientOptions {
        discover: false,
        retry_for,
        connect_timeout: Duration::from_secs(2),
        attempt_timeout: Duration::from_secs(10),
        ..ClientOptions::default()
    };
    Client::connect(vec![endpoint], options).context("a client")
}

/// `GET path`: the status and the body. No HTTP library is needed for that.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<(u16, String), Trouble> {
    enter(Place::Clients, || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let status = status.ok_or_else(|| Trouble::tool("what answers does not speak HTTP"))?;
        Ok((status, body.to_owned()))
    })
}
