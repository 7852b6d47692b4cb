//! The one layer that every request passes: from who calls and the tenant named to a [`Principal`]. Nothing behind it is
//! reached without one.

use std::sync::Arc;
use std::time::Duration;

use meridian_metadata::catalog::StreamRow;
use meridian_types::{Principal, StreamName, TenantName};
use meridian_wire::{ApiError, Reason, v1};

use crate::shared::Gateway;

/// How long an unknown name may wait for the catalog.
const BARRIER_WITHIN: Duration = Duration::from_secs(5);

impl Gateway {
    /// Who acts, for which tenant. Until keys and certificates arrive anyone on the listener may act for any tenant that
    /// the catalog knows.
    ///
    /// # Errors
    /// NOT_READY, BAD_NAME, TENANT_NOT_FOUND.
    pub(crate) fn admit(&self, tenant: &str) -> Result<Principal, ApiError> {
        // What else a call needs it checks itself.
        self.check_readable()?;
        if tenant.is_empty() {
            return Err(ApiError::new(Reason::BadName, "the request names no tenant; name 'default'"));
        }
        let name =
            TenantName::new(tenant).map_err(|error| ApiError::new(Reason::BadName, error.to_string()))?;
        let row = self.catalog().state();
        let tenant = row.tenant_named(&name).ok_or_else(|| {
            ApiError::new(
                Reason::TenantNotFound,
                format!("there is no tenant {name}; for now the only one is 'default'"),
            )
            .with("tenant", &name)
        })?;
        Ok(Principal { tenant: tenant.id, tenant_name: name })
    }

    /// A stream of the caller's tenant, by name. One that this node does not know waits a catalog barrier before it is
    /// said not to be there.
    ///
    /// # Errors
    /// Those of [`Gateway::admit`], STREAM_NOT_FOUND, CATALOG_UNAVAILABLE.
    pub(crate) async fn stream(
        &self,
        stream: Option<&v1::StreamRef>,
    ) -> Result<(Principal, Arc<StreamRow>), ApiError> {
        let (principal, name) = self.named(stream)?;
        if let Some(row) = self.catalog().state().stream_named(principal.tenant, &name) {
            return Ok((principal, row.clone()));
        }
        self.catalog().barrier(BARRIER_WITHIN).await.map_err(|error| {
            ApiError::new(
                Reason::CatalogUnavailable,
                format!("stream {name} is not known here, and the catalog cannot be asked: {error}"),
            )
            .retry_after(Duration::from_secs(1))
        })?;
        let state = self.catalog().state();
        let row = state.stream_named(principal.tenant, &name).ok_or_else(|| {
            ApiError::new(
                Reason::StreamNotFound,
                format!(
                    "tenant {} has no stream {name}; create it with `meridian stream create {name}`",
                    principal.tenant_name
                ),
            )
            .with("stream", &name)
        })?;
        Ok((principal, row.clone()))
    }

    /// The caller and the stream's name, without looking the stream up.
    pub(crate) fn named(&self, stream: Option<&v1::StreamRef>) -> Result<(Principal, StreamName), ApiError> {
        let stream =
            stream.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the request names no stream"))?;
        let principal = self.admit(&stream.tenant)?;
        let name = StreamName::new(stream.stream.as_str())
            .map_err(|error| ApiError::new(Reason::BadName, error.to_string()))?;
        Ok((principal, name))
    }
}
