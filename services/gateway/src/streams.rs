//! StreamService: rows of the catalog.

use std::time::Duration;

use meridian_metadata::catalog::{
    Change, Command, CreateStream, Outcome, StreamRow, StreamSettings, UpdateStream,
};
use meridian_types::StreamName;
use meridian_types::limits::PARTITIONS;
use meridian_wire::{ApiError, Reason, v1};
use tonic::{Request, Response, Status};

use crate::shared::Gateway;

/// Shorter than callers are patient, so that they hear why nothing happens; they try again all the same.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
const PAGE: u32 = 1000;

/// Implements StreamService.
pub(crate) struct Streams(pub Gateway);

impl Streams {
    async fn propose(&self, change: Change) -> Result<Outcome, ApiError> {
        let command = Command::new(self.0.clock().now(), change);
        match self.0.catalog().propose(command, PROPOSE_WITHIN).await {
            Ok(reply) => Ok(reply?),
            Err(error) => Err(ApiError::new(
                Reason::CatalogUnavailable,
                format!("the catalog cannot be changed now: {error}; publishing and reading go on"),
            )
            .retry_after(Duration::from_secs(1))),
        }
    }

    fn message(&self, tenant: &str, row: &StreamRow) -> v1::Stream {
        v1::Stream {
            id: row.id.0,
            name: Some(v1::StreamRef { tenant: tenant.to_owned(), stream: row.name.to_string() }),
            settings: Some(v1::StreamSettings {
                partitions: row.settings.partitions,
                retention_ms: row.settings.retention_ms,
                retention_bytes: row.settings.retention_bytes,
                labels: row.settings.labels.clone(),
            }),
            created_at_ms: row.created_at.0,
            version: row.version,
        }
    }

    async fn create(&self, request: v1::CreateStreamRequest) -> Result<v1::CreateStreamResponse, ApiError> {
        let (principal, name) = self.0.named(request.stream.as_ref())?;
        let settings = settings_of(request.settings)?;
        let change = Change::CreateStream(CreateStream { tenant: principal.tenant, name, settings });
        match self.propose(change).await? {
            Outcome::StreamCreated { stream, created } => Ok(v1::CreateStreamResponse {
                stream: Some(self.message(principal.tenant_name.as_str(), &stream)),
                created,
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn update(&self, request: v1::UpdateStreamRequest) -> Result<v1::UpdateStreamResponse, ApiError> {
        let (principal, row) = self.0.stream(request.stream.as_ref()).await?;
        let settings = settings_of(request.settings)?;
        let expected_version = (request.expected_version > 0).then_some(request.expected_version);
        let change = Change::UpdateStream(UpdateStream { id: row.id, settings, expected_version });
        match self.propose(change).await? {
            Outcome::StreamUpdated(stream) => Ok(v1::UpdateStreamResponse {
                stream: Some(self.message(principal.tenant_name.as_str(), &stream)),
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete(&self, request: &v1::DeleteStreamRequest) -> Result<v1::DeleteStreamResponse, ApiError> {
        let (_, row) = self.0.stream(request.stream.as_ref()).await?;
        match self.propose(Change::DeleteStream(row.id)).await? {
            Outcome::StreamDeleted(_) => Ok(v1::DeleteStreamResponse {}),
            other => Err(unexpected(&other)),
        }
    }

    fn list(&self, request: &v1::ListStreamsRequest) -> Result<v1::ListStreamsResponse, ApiError> {
        let principal = self.0.admit(&request.tenant)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(StreamName::new(token).map_err(|_| {
                ApiError::new(Reason::InvalidArgument, "page_token is not one that ListStreams gave")
            })?),
        };
        let size = if request.page_size == 0 { PAGE } else { request.page_size.min(PAGE) } as usize;
        let state = self.0.catalog().state();
        let mut rows = state.streams_of(principal.tenant, after.as_ref());
        let streams: Vec<v1::Stream> =
            rows.by_ref().take(size).map(|row| self.message(principal.tenant_name.as_str(), row)).collect();
        let last = streams.last().and_then(|stream| stream.name.as_ref()).map(|name| name.stream.clone());
        let next_page_token = if rows.next().is_some() { last.unwrap_or_default() } else { String::new() };
        Ok(v1::ListStreamsResponse { streams, next_page_token })
    }
}

fn settings_of(settings: Option<v1::StreamSettings>) -> Result<StreamSettings, ApiError> {
    let settings =
        settings.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the request has no settings"))?;
    if settings.partitions == 0 || settings.partitions > PARTITIONS {
        return Err(ApiError::new(
            Reason::BadPartitionCount,
            format!("a stream has 1 to {PARTITIONS} partitions, not {}", settings.partitions),
        )
        .with("limit", PARTITIONS));
    }
    if settings.retention_ms.is_some() || settings.retention_bytes.is_some() {
        return Err(ApiError::new(Reason::InvalidArgument, "retention is not offered yet; leave it out"));
    }
    Ok(StreamSettings {
        partitions: settings.partitions,
        retention_ms: settings.retention_ms,
        retention_bytes: settings.retention_bytes,
        labels: settings.labels,
    })
}

fn unexpected(outcome: &Outcome) -> ApiError {
    ApiError::new(Reason::Internal, format!("the catalog answered something else: {outcome:?}"))
}

#[tonic::async_trait]
impl v1::stream_service_server::StreamService for Streams {
    async fn create_stream(
        &self,
        request: Request<v1::CreateStreamRequest>,
    ) -> Result<Response<v1::CreateStreamResponse>, Status> {
        self.0.answer(self.create(request.into_inner()).await)
    }

    async fn get_stream(
        &self,
        request: Request<v1::GetStreamRequest>,
    ) -> Result<Response<v1::GetStreamResponse>, Status> {
        let found = self.0.stream(request.get_ref().stream.as_ref()).await;
        self.0.answer(found.map(|(principal, row)| {
            let stream = Some(self.message(principal.tenant_name.as_str(), &row));
            v1::GetStreamResponse { stream }
        }))
    }

    async fn list_streams(
        &self,
        request: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsResponse>, Status> {
        self.0.answer(self.list(request.get_ref()))
    }

    async fn update_stream(
        &self,
        request: Request<v1::UpdateStreamRequest>,
    ) -> Result<Response<v1::UpdateStreamResponse>, Status> {
        self.0.answer(self.update(request.into_inner()).await)
    }

    async fn delete_stream(
        &self,
        request: Request<v1::DeleteStreamRequest>,
    ) -> Result<Response<v1::DeleteStreamResponse>, Status> {
        self.0.answer(self.delete(request.get_ref()).await)
    }
}
