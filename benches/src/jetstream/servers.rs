//! A region's nats-server. Flows in: a configuration file of `benches/peers/jetstream` and what fills it in. Flows out:
//! a process that ends with its value.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

use super::Options;
use super::api::Api;
use crate::PATIENCE;
use crate::error::{BenchError, io};
use crate::plan::Sync;
use crate::site::{Site, until_listening};
use crate::usage::Watched;

/// The first region listens for the others.
const FIRST: &str = include_str!("../../peers/jetstream/us.conf");
/// The others dial it.
const OTHER: &str = include_str!("../../peers/jetstream/eu.conf");

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where clients dial.
    pub address: SocketAddr,
    /// For its streams.
    pub api: Api,
    site: Site,
    /// Where other regions dial.
    leaf: SocketAddr,
    process: Child,
}

impl Server {
    /// Starts it, and waits until it listens. It dials the first region, unless it is that.
    pub async fn start(
        binary: &Path,
        options: Options,
        site: &Site,
        first: Option<&Self>,
        dir: &Path,
    ) -> Result<Self, BenchError> {
        let store = dir.join(site.region);
        let (config, log) =
            (dir.join(format!("{}.conf", site.region)), dir.join(format!("{}.log", site.region)));
        let text = if first.is_none() { FIRST } else { OTHER };
        std::fs::write(&config, text).map_err(io("write a server's configuration"))?;
        let address = SocketAddr::new(site.address, site.free_port()?);
        let leaf = SocketAddr::new(site.address, site.free_port()?);
        let mut command = site.command(binary, &log)?;
        command.arg("--config").arg(&config).envs(environment(
            options,
            address,
            first.map_or(leaf, |first| first.leaf),
            &store,
        ));
        let mut process = command.spawn().map_err(io("start nats-server"))?;
        let listens: (IpAddr, u16) = (address.ip(), address.port());
        until_listening(listens, &mut process, &log, PATIENCE).await?;
        let api = Api::connect(address).await?;
        Ok(Self { address, api, site: site.clone(), leaf, process })
    }

    /// Its region's name, which is also its JetStream domain.
    pub fn region(&self) -> &'static str {
        self.site.region
    }

    /// Its process; none once it has ended.
    pub fn watched(&self) -> Option<Watched> {
        self.process.id().map(|pid| Watched { name: self.region().to_owned(), pid })
    }

    /// Tells it to end, and waits until it has.
    pub async fn end(mut self) -> Result<(), BenchError> {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| io("end a server")(e.into()))?;
        }
        let ended = timeout(PATIENCE, self.process.wait()).await;
        let ended = ended.map_err(|_| BenchError::wrong("nats-server does not end when told to"))?;
        ended.map(drop).map_err(io("wait for nats-server"))
    }
}

/// What the configuration's variables stand for. Strings are quoted: nats-server would read `2m` as two million.
fn environment(
    options: Options,
    address: SocketAddr,
    leaf: SocketAddr,
    store: &Path,
) -> [(&'static str, String); 6] {
    let sync = match options.sync {
        Sync::Lazy => "2m",
        Sync::Always => "always",
    };
    [
        ("PEER_ADDRESS", format!("\"{}\"", address.ip())),
        ("PEER_PORT", address.port().to_string()),
        ("PEER_STORE", format!("\"{}\"", store.display())),
        ("PEER_SYNC", format!("\"{sync}\"")),
        ("PEER_LEAF_PORT", leaf.port().to_string()),
        ("PEER_LEAF_URL", format!("\"nats-leaf://{leaf}\"")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Site;

    #[test]
    fn every_variable_of_the_configurations_is_given_and_strings_are_quoted() {
        let address = SocketAddr::new(Site::loopback("us").address, 4222);
        let given = environment(Options { sync: Sync::Lazy }, address, address, Path::new("/store"));
        let asked = FIRST.split(['$', '\n']).chain(OTHER.split(['$', '\n']));
        for name in asked.filter(|part| part.starts_with("PEER_")) {
            let name = name.trim_end_matches(']');
            assert!(given.iter().any(|(known, _)| *known == name), "{name}");
        }
        for (name, value) in given {
            assert!(value.parse::<u16>().is_ok() || value.starts_with('"') && value.ends_with('"'), "{name}");
        }
    }
}
