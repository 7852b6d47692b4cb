//! The admin listener: health, readiness, metrics, and the switches that tests are allowed.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use meridian_gateway::{Gateway, Metrics, collect_links, collect_shards};
use meridian_metadata::CatalogHandle;
use meridian_mirror::Links;
use parking_lot::RwLock;

/// The gateway and the links, once the node has its shards.
pub type Serving = Arc<RwLock<Option<(Gateway, Arc<Links>)>>>;

/// What the admin listener shows. Filled in as the node starts.
#[derive(Clone)]
pub struct Admin {
    /// The gateway and the links, once the node has its shards.
    pub serving: Serving,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The catalog.
    pub catalog: CatalogHandle,
    /// Whether Raft may be stopped alone.
    pub test_switch: bool,
}

impl Admin {
    /// The listener's routes.
    pub fn router(self) -> Router {
        let mut router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/raft", get(raft));
        if self.test_switch {
            router = router.route("/raft/stop", post(raft_stop)).route("/raft/start", post(raft_start));
        }
        router.with_state(self)
    }
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let is_ready = admin.serving.read().as_ref().is_some_and(|(gateway, _)| gateway.is_ready());
    if is_ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    if let Some((gateway, links)) = admin.serving.read().as_ref() {
        collect_links(&admin.metrics, &links.statuses());
        collect_shards(&admin.metrics, &gateway.host().all(), |shard| gateway.is_placed_elsewhere(shard));
        let taken = i64::try_from(gateway.budget().taken()).unwrap_or(i64::MAX);
        admin.metrics.request_bytes.set(taken);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.encode())
}

async fn raft(State(admin): State<Admin>) -> impl IntoResponse {
    format!("{:?}\n", admin.catalog.status())
}

async fn raft_stop(State(admin): State<Admin>) -> impl IntoResponse {
    admin.catalog.stop().await;
    "stopped\n"
}

async fn raft_start(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.catalog.start().await {
        Ok(()) => (StatusCode::OK, "started\n".to_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
