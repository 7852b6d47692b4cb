//! What a load balancer and a tool find: health, reflection, topology.

use meridian_wire::v1;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::*;

async fn reflect(node: &TestNode, question: MessageRequest) -> ServerReflectionResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(node.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_health_and_topology() {
    let node = TestNode::start().await;
    assert_eq!(node.health().await, Some(ServingStatus::Serving));

    let answer = reflect(&node, MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "meridian.v1.EventService",
        "meridian.v1.StreamService",
        "meridian.v1.ClusterService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for peers in ["meridian.v1.PeerService", "meridian.v1.RaftService"] {
        let request = http::Uri::try_from(format!("/{peers}/Greet")).unwrap();
        let mut grpc = tonic::client::Grpc::new(node.channel.clone());
        grpc.ready().await.unwrap();
        let codec = meridian_wire::BoundedCodec::<v1::Hello, v1::Hello>::default();
        let path = request.path_and_query().unwrap().clone();
        let answer = grpc.unary(tonic::Request::new(v1::Hello::default()), path, codec).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented, "{peers} is not for clients");
    }
    let symbol = MessageRequest::FileContainingSymbol("meridian.v1.PublishRequest".into());
    let answer = reflect(&node, symbol).await;
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("{answer:?}")
    };
    assert!(!files.file_descriptor_proto.is_empty());

    let topology = node.cluster().get_topology(v1::GetTopologyRequest {}).await.unwrap().into_inner();
    assert_eq!(topology.cluster_uuid, node.config.cluster.uuid.to_string());
    assert_eq!((topology.region.as_str(), topology.node, topology.catalog_leader), ("us", 1, Some(1)));
    assert_eq!((topology.regions[0].shards, topology.regions[0].incarnation), (4, 1));
    assert_eq!(topology.nodes[0].endpoint, node.config.cluster.nodes[0].client);
    let lag = node.cluster().get_lag(v1::GetLagRequest {}).await.unwrap().into_inner();
    assert!(lag.inbound.is_empty() && lag.outbound.is_empty(), "one region has no links");
}
