//! The client listener's services, put together.

use meridian_wire::{DESCRIPTORS, v1};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::call::MESSAGE_BYTES;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::shared::Gateway;
use crate::streams::Streams;

/// What the listener needs besides the routes.
pub struct ServeOptions {
    /// Tells load balancers whether the node serves.
    pub health: HealthReporter,
}

/// All services of the client listener, with reflection and health. Health says NOT_SERVING until told otherwise.
///
/// # Errors
/// The descriptors cannot be read: a build that is broken.
pub async fn routes(gateway: &Gateway) -> Result<(Routes, ServeOptions), tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let events = v1::event_service_server::EventServiceServer::new(Events::new(gateway.clone()))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(2 * MESSAGE_BYTES);
    let streams = v1::stream_service_server::StreamServiceServer::new(Streams(gateway.clone()));
    let cluster = v1::cluster_service_server::ClusterServiceServer::new(Cluster(gateway.clone()));
    let routes = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(events)
        .add_service(streams)
        .add_service(cluster);
    Ok((routes, ServeOptions { health }))
}
