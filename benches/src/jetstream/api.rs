//! JetStream's management calls: JSON over request and reply. Only what is needed here, so that the client's own layer
//! over them and what it depends on can stay out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{POLL, patient};
use crate::error::BenchError;

/// How long a call may take; far more than any round trip that is measured.
const CALL: Duration = Duration::from_secs(10);

/// A connection for management.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
}

/// What a server says of a stream.
#[derive(Debug, Deserialize)]
pub struct Stream {
    /// What it has.
    pub state: State,
    mirror: Option<Mirror>,
}

/// What a stream has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct State {
    /// How many.
    pub messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    /// Nanoseconds since it last heard of its origin; negative: never.
    active: i64,
}

impl Stream {
    /// Whether a mirror has heard of its origin.
    pub fn is_mirroring(&self) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.active >= 0)
    }
}

impl State {
    /// Whether it is exactly so many, none of them removed.
    pub fn is_all_of(&self, events: u64) -> bool {
        self.messages == events && self.last_seq == events && (events == 0 || self.first_seq == 1)
    }
}

impl Api {
    /// Connects to the server there.
    pub async fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let client = connect(ConnectOptions::new().request_timeout(Some(CALL)), address).await?;
        Ok(Self { client })
    }

    /// Waits until that domain answers, over however many servers.
    pub async fn until_reached(&self, domain: &str) -> Result<(), BenchError> {
        let begun = Instant::now();
        while let Err(error) = self.call::<Value>(&format!("$JS.{domain}.API.INFO"), &json!({})).await {
            patient(begun, || format!("the region {domain} is out of reach: {error}"))?;
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Creates a stream of one subject, which is its name.
    pub async fn create_stream(&self, stream: &str) -> Result<(), BenchError> {
        let config = json!({
            "name": stream,
            "subjects": [stream],
            "retention": "limits",
            "storage": "file",
            "num_replicas": 1,
            "allow_batched": true,
        });
        self.call::<Stream>(&format!("$JS.API.STREAM.CREATE.{stream}"), &config).await.map(drop)
    }

    /// Creates a mirror of another domain's stream of the same name.
    pub async fn create_mirror(&self, stream: &str, origin: &str) -> Result<(), BenchError> {
        let config = json!({
            "name": stream,
            "retention": "limits",
            "storage": "file",
            "num_replicas": 1,
            "mirror": { "name": stream, "external": { "api": format!("$JS.{origin}.API"), "deliver": "" } },
        });
        self.call::<Stream>(&format!("$JS.API.STREAM.CREATE.{stream}"), &config).await.map(drop)
    }

    /// Asks after a stream.
    pub async fn stream(&self, stream: &str) -> Result<Stream, BenchError> {
        self.call(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await
    }

    /// Creates a consumer of a stream that is not kept.
    pub async fn create_consumer(&self, stream: &str, config: &Value) -> Result<(), BenchError> {
        let request = json!({ "stream_name": stream, "config": config });
        self.call::<Value>(&format!("$JS.API.CONSUMER.CREATE.{stream}"), &request).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, subject: &str, request: &Value) -> Result<T, BenchError> {
        let wrong = |what: String| BenchError::wrong(format!("JetStream, {subject}: {what}"));
        let answer = self.client.request(subject.to_owned(), request.to_string().into()).await;
        let answer = answer.map_err(|error| wrong(error.to_string()))?;
        let answer: Value =
            serde_json::from_slice(&answer.payload).map_err(|error| wrong(error.to_string()))?;
        match answer.get("error") {
            Some(error) => Err(wrong(error.to_string())),
            None => serde_json::from_value(answer).map_err(|error| wrong(error.to_string())),
        }
    }
}

/// Connects to the server there.
pub async fn connect(options: ConnectOptions, address: SocketAddr) -> Result<Client, BenchError> {
    // Subjects are made here; to look at each again would only cost.
    let options = options.skip_subject_validation(true);
    let client = options.connect(format!("nats://{address}")).await;
    client.map_err(|error| BenchError::wrong(format!("cannot connect to nats-server at {address}: {error}")))
}
