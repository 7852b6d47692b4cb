//! Every node's `node.toml`, as text: written from what is documented, not with the product's own types.

use std::net::{SocketAddr, SocketAddrV4};

use toml::{Table, Value};

use crate::net::Place;
use crate::trouble::{Context as _, Trouble};
use crate::world::Plan;

const CLIENT_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;
const ADMIN_PORT: u16 = 7601;

fn address(place: (u8, u8), port: u16) -> SocketAddr {
    SocketAddrV4::new(Place::of_node(place.0, place.1), port).into()
}

/// What clients dial.
pub fn client_url(place: (u8, u8)) -> String {
    format!("http://{}", address(place, CLIENT_PORT))
}

/// What operators dial.
pub fn admin_address(place: (u8, u8)) -> SocketAddr {
    address(place, ADMIN_PORT)
}

fn table<const N: usize>(rows: [(&str, Value); N]) -> Table {
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// All nodes' files, region by region.
pub fn texts(plan: &Plan) -> Result<Vec<String>, Trouble> {
    let regions: Vec<(u8, &String)> = (1..).zip(&plan.regions).collect();
    let places: Vec<(u8, u8, &String)> = regions
        .iter()
        .zip(plan.nodes())
        .flat_map(|((region, name), nodes)| (1..=nodes).map(move |node| (*region, node, *name)))
        .collect();
    let region_rows = regions.iter().map(|(id, name)| {
        Value::Table(table([("id", i64::from(*id).into()), ("name", (*name).clone().into())]))
    });
    let node_rows = places.iter().zip(1i64..).map(|((region, node, name), id)| {
        Value::Table(table([
            ("id", id.into()),
            ("region", (*name).clone().into()),
            ("peer", format!("http://{}", address((*region, *node), PEER_PORT)).into()),
            ("client", client_url((*region, *node)).into()),
        ]))
    });
    let cluster = table([
        ("uuid", uuid::Uuid::new_v4().to_string().into()),
        ("regions", region_rows.collect::<Vec<_>>().into()),
        ("nodes", node_rows.collect::<Vec<_>>().into()),
    ]);
    let each = places.iter().zip(1i64..).map(|((region, node, name), id)| {
        let listen = |port| Value::from(address((*region, *node), port).to_string());
        let text = table([
            (
                "node",
                table([("id", id.into()), ("region", (*name).clone().into()), ("data", "data".into())])
                    .into(),
            ),
            ("cluster", cluster.clone().into()),
            (
                "listen",
                table([
                    ("client", listen(CLIENT_PORT)),
                    ("peer", listen(PEER_PORT)),
                    ("admin", listen(ADMIN_PORT)),
                    // The namespaces have no way out.
                    ("insecure_non_loopback", true.into()),
                ])
                .into(),
            ),
            // Small files: a volume grows over many of them.
            (
                "storage",
                table([
                    ("file_bytes", "16MiB".into()),
                    ("max_round_bytes", "1MiB".into()),
                    ("stock", 1.into()),
                ])
                .into(),
            ),
        ]);
        toml::to_string(&text).context("a node.toml")
    });
    each.collect()
}
