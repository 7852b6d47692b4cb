//! Why a measurement ended without figures.

use std::io;

use meridian_sdk::{ConsumeError, PublishError, SdkError};

/// Why a measurement ended without figures. A run that fails writes no results.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The system refuses.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// A call failed.
    #[error(transparent)]
    Client(#[from] SdkError),
    /// An event was not acknowledged.
    #[error("an event was not acknowledged: {0}")]
    Publish(#[from] PublishError),
    /// Reading ended.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// Kafka's client refuses.
    #[error("Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A plain call of the gateway failed. It is not tried again: it would count twice.
    #[error("a unary publish failed: {0}")]
    Unary(Box<tonic::Status>),
    /// A task of this program came to an end that it should not come to.
    #[error("a task of the measurement ended: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// What was measured is not what should be.
    #[error("{0}")]
    Wrong(String),
}

impl BenchError {
    /// What is not as it should be.
    pub fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }
}

impl From<tonic::Status> for BenchError {
    fn from(status: tonic::Status) -> Self {
        Self::Unary(Box::new(status))
    }
}

/// Says what was tried when the system refused.
pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let doing = doing.into();
    move |source| BenchError::Io { doing, source }
}
