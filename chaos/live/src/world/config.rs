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

/// All nodes' files, in the order of [`Plan::places`].
pub fn texts(plan: &Plan) -> Result<Vec<String>, Trouble> {
    let name = |region: u8| plan.regions[usize::from(region) - 1].clone();
    let peer_url = |place| format!("http://{}", address(place, PEER_PORT));
    let region_rows = (1u8..)
        .zip(&plan.regions)
        .map(|(id, name)| Value::Table(table([("id", i64::from(id).into()), ("name", name.clone().into())])));
    let founders = plan.nodes().into_iter().map(usize::from).sum();
    let node_rows = plan.places().into_iter().zip(1i64..).take(founders).map(|(place, id)| {
        Value::Table(table([
            ("id", id.into()),
            ("region", name(place.0).into()),
            ("peer", peer_url(place).into()),
            ("client", client_url(place).into()),
        ]))
    });
    let cluster = table([
        ("uuid", uuid::Uuid::new_v4().to_string().into()),
        ("regions", region_rows.collect::<Vec<_>>().into()),
        ("nodes", node_rows.collect::<Vec<_>>().into()),
    ]);
    let each = plan.places().into_iter().zip(1i64..).enumerate().map(|(index, (place, id))| {
        let listen = |port| Value::from(address(place, port).to_string());
        let mut own = table([("id", id.into()), ("region", name(place.0).into()), ("data", "data".into())]);
        if index >= founders {
            own.insert("advertise_peer".to_owned(), peer_url(place).into());
            own.insert("advertise_client".to_owned(), client_url(place).into());
        }
        let text = table([
            ("node", own.into()),
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
