//! Makes and removes the namespaces.

use crate::alone::Alone;
use crate::net::address::{ALL, PREFIX};
use crate::net::{Place, enter};
use crate::shell::run;
use crate::trouble::{Context as _, Trouble};

const BRIDGE: &str = "br0";

/// The namespaces of one world, wired within each region. Between regions there is nothing until a
/// [`Relay`](crate::wan::Relay) is there. Dropped, they are removed with everything in them.
#[derive(Debug)]
pub struct Namespaces {
    nodes: Vec<u8>,
}

impl Namespaces {
    /// Makes them: `nodes[i]` nodes in region `i + 1`.
    ///
    /// # Errors
    /// Without root, or without a feature of the kernel: [`Trouble::Skip`].
    pub fn make(_: &Alone, nodes: &[u8]) -> Result<Self, Trouble> {
        if !rustix::process::geteuid().is_root() {
            return Err(Trouble::Skip("network namespaces need root".to_owned()));
        }
        let this = Self { nodes: nodes.to_vec() };
        add(Place::Clients)?;
        for region in this.regions() {
            this.make_region(region)?;
        }
        Ok(this)
    }

    /// Removes what an interrupted run left. Processes in there are that run's, and ended with it.
    ///
    /// # Errors
    /// A namespace cannot be removed.
    pub fn remove_leftovers() -> Result<(), Trouble> {
        for line in run("ip", &["netns", "list"])?.lines() {
            // `NAME (id: 0)`
            if let Some(name) = line.split_whitespace().next().filter(|name| name.starts_with(PREFIX)) {
                run("ip", &["netns", "delete", name])?;
            }
        }
        Ok(())
    }

    /// The regions' numbers.
    pub fn regions(&self) -> impl Iterator<Item = u8> + use<> {
        (1..).take(self.nodes.len())
    }

    fn make_region(&self, region: u8) -> Result<(), Trouble> {
        let router = Place::Router(region);
        add(router)?;
        let space = router.namespace();
        let router_address = format!("{}/24", router.address(region));
        run("ip", &["-n", &space, "link", "add", BRIDGE, "type", "bridge"])?;
        run("ip", &["-n", &space, "addr", "add", &router_address, "dev", BRIDGE])?;
        run("ip", &["-n", &space, "link", "set", BRIDGE, "up"])?;
        enter(router, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding in a router")
        })?;
        let gateway = router.address(region).to_string();
        for node in 1..=self.nodes[usize::from(region) - 1] {
            let place = Place::Node(region, node);
            add(place)?;
            connect(region, place, "eth0", &format!("n{node}"))?;
            run("ip", &["-n", &place.namespace(), "route", "add", "default", "via", &gateway])?;
        }
        // The clients' foot in this region reaches this region alone.
        connect(region, Place::Clients, &format!("eth{region}"), "clients")
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The next run removes what cannot be removed now.
        let _ = Self::remove_leftovers();
    }
}

fn add(place: Place) -> Result<(), Trouble> {
    let name = place.namespace();
    run("ip", &["netns", "add", &name])
        .map_err(|trouble| Trouble::Skip(format!("no namespaces: {trouble}")))?;
    run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
    Ok(())
}

/// A cable from a place to its region's bridge.
fn connect(region: u8, place: Place, inner: &str, outer: &str) -> Result<(), Trouble> {
    let (space, router) = (place.namespace(), Place::Router(region).namespace());
    run(
        "ip",
        &["link", "add", inner, "netns", &space, "type", "veth", "peer", "name", outer, "netns", &router],
    )?;
    run("ip", &["-n", &router, "link", "set", outer, "master", BRIDGE, "up"])?;
    let address = format!("{}/24", place.address(region));
    run("ip", &["-n", &space, "addr", "add", &address, "dev", inner])?;
    run("ip", &["-n", &space, "link", "set", inner, "up"])?;
    Ok(())
}

/// Routes everything of other regions in a region's router to a device.
pub(crate) fn route_wan(region: u8, device: &str) -> Result<(), Trouble> {
    let space = Place::Router(region).namespace();
    run("ip", &["-n", &space, "link", "set", device, "up"])?;
    run("ip", &["-n", &space, "route", "add", ALL, "dev", device])?;
    Ok(())
}
