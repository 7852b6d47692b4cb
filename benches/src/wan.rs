//! Two regions in networks of their own, with the project's WAN relay between them: the same packets, later and fewer, for
//! whichever system. Clients are beside their region, and do not cross the WAN.

use std::net::IpAddr;
use std::time::Duration;

use meridian_chaos_live::Alone;
use meridian_chaos_live::net::{self, Namespaces, enter_for_good};
use meridian_chaos_live::trouble::Trouble;
use meridian_chaos_live::wan::{Profile, Relay};

use crate::error::BenchError;
use crate::plan::{Line, Place};
use crate::site::Site;

const SEED: u64 = 7;
/// One node in each of two regions.
const NODES: [u8; 2] = [1, 1];
const MILLION: f64 = 1_000_000.0;

/// The networks. Dropped, they go.
#[derive(Debug)]
pub struct Wan {
    /// The regions.
    pub sites: Vec<Site>,
    // In this order: the relay's devices are in the namespaces.
    _relay: Relay,
    _spaces: Namespaces,
    _alone: Alone,
}

impl Wan {
    /// Makes them.
    ///
    /// # Errors
    /// The machine has no namespaces or no TUN devices for us.
    pub fn make(line: Line) -> Result<Self, BenchError> {
        let alone = Alone::wait().map_err(wrong)?;
        let spaces = Namespaces::make(&alone, &NODES).map_err(wrong)?;
        let profile = Profile {
            loss: f64::from(line.lost_of_million) / MILLION,
            // No shorter queue than the line is long: loss is what the row says, and nothing else.
            queue: Duration::from_secs(2),
            ..Profile::with_delay(line.round_trip() / 2)
        };
        let relay = Relay::start(&spaces, SEED, |_, _| profile).map_err(wrong)?;
        let regions = Place::Wan(line).regions();
        let site = |(number, region): (u8, &&'static str)| Site {
            region,
            address: IpAddr::V4(net::Place::of_node(number, 1)),
            namespace: Some(net::Place::Node(number, 1).namespace()),
        };
        let sites = (1..).zip(regions).map(site).collect();
        Ok(Self { sites, _relay: relay, _spaces: spaces, _alone: alone })
    }

    /// Runs something to its end where clients are.
    ///
    /// # Errors
    /// No thread can go there; or what it says itself.
    pub fn run<T: Send, F: Future<Output = Result<T, BenchError>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T, BenchError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_for_good(net::Place::Clients).map_err(wrong)?;
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .on_thread_start(|| {
                        if let Err(trouble) = enter_for_good(net::Place::Clients) {
                            // Its sockets would be on the machine's own network: nothing may be tried there.
                            eprintln!("a client's thread cannot enter its namespace: {trouble}");
                            std::process::abort();
                        }
                    })
                    .build()
                    .map_err(crate::error::io("start a runtime"))?;
                runtime.block_on(work())
            });
            thread.join().unwrap_or_else(|_| Err(BenchError::wrong("a thread within a namespace panicked")))
        })
    }
}

fn wrong(trouble: Trouble) -> BenchError {
    BenchError::wrong(format!("no WAN can be simulated here: {trouble}"))
}
