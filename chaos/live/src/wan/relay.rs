//! The relay: a TUN device in each region's router, a thread that reads each, a thread that writes each when it is time.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tun_rs::{DeviceBuilder, InterruptEvent, SyncDevice};

use crate::net::{Namespaces, Place, enter, region_of, route_wan};
use crate::trouble::{Context as _, Trouble};
use crate::wan::{Counted, Line, Profile};

const DEVICE: &str = "wan0";
const MTU: u16 = 1500;
/// How many packets wait in a device until its thread reads them: as many as a connection has on its way at most. With the 500
/// that a device comes with, a burst lost what no profile says.
const DEVICE_QUEUE: u32 = 64 * 1024;
/// How long a thread may not see that it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// TTL and addresses lie in the first 20 bytes of an IPv4 packet.
const HEADER: usize = 20;

/// The WAN between the regions of a world. Dropped, its threads end; the devices go with their namespaces.
#[derive(Debug)]
pub struct Relay {
    lines: Lines,
    ends: BTreeMap<u8, Arc<End>>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

type Lines = Arc<BTreeMap<(u8, u8), Mutex<Line>>>;

struct Stop {
    asked: AtomicBool,
    wakes: InterruptEvent,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// A region's end: its device, and what waits for its time to come out there.
struct End {
    device: SyncDevice,
    waiting: Mutex<Waiting>,
    earlier: Condvar,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End").finish_non_exhaustive()
    }
}

/// The packets under way to an end. None passes another of its line, so each line is a queue.
#[derive(Default)]
struct Waiting {
    lines: BTreeMap<u8, VecDeque<(Instant, Vec<u8>)>>,
    /// Buffers to use again: to allocate each costs more than to carry what is in it.
    spare: Vec<Vec<u8>>,
}

impl Waiting {
    /// Takes a packet. Whether it may be the next to come out.
    fn push(&mut self, from: u8, due: Instant, packet: &[u8]) -> bool {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        let line = self.lines.entry(from).or_default();
        line.push_back((due, buffer));
        line.len() == 1
    }

    /// When the next one comes out, and of which line.
    fn next(&self) -> Option<(Instant, u8)> {
        self.lines.iter().filter_map(|(from, line)| Some((line.front()?.0, *from))).min()
    }
}

impl Relay {
    /// Connects all regions, with `profile(from, to)` in each direction.
    ///
    /// # Errors
    /// Without TUN: [`Trouble::Skip`].
    pub fn start(
        spaces: &Namespaces,
        seed: u64,
        profile: impl Fn(u8, u8) -> Profile,
    ) -> Result<Self, Trouble> {
        let regions: Vec<u8> = spaces.regions().collect();
        let now = Instant::now();
        let pairs = regions.iter().flat_map(|from| regions.iter().map(move |to| (*from, *to)));
        let lines = pairs.filter(|(from, to)| from != to);
        let lines: Lines = Arc::new(
            lines.map(|(from, to)| ((from, to), Mutex::new(Line::new(profile(from, to), now)))).collect(),
        );
        let mut ends = BTreeMap::new();
        for region in &regions {
            let device = enter(Place::Router(*region), open_device)?;
            route_wan(*region, DEVICE)?;
            ends.insert(
                *region,
                Arc::new(End { device, waiting: Mutex::default(), earlier: Condvar::new() }),
            );
        }
        let wakes = InterruptEvent::new().context("an event for the relay")?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), wakes });
        let mut this = Self { lines, ends, stop, threads: Vec::new() };
        for region in regions {
            this.spawn(region, seed)?;
        }
        Ok(this)
    }

    fn spawn(&mut self, region: u8, seed: u64) -> Result<(), Trouble> {
        let (lines, ends, stop) = (Arc::clone(&self.lines), self.ends.clone(), Arc::clone(&self.stop));
        let rng = StdRng::seed_from_u64(seed ^ u64::from(region));
        let reads = move || read(region, &lines, &ends, &stop, rng);
        let (end, stop) = (Arc::clone(&self.ends[&region]), Arc::clone(&self.stop));
        let writes = move || write(&end, &stop);
        for (name, work) in
            [("reads", Box::new(reads) as Box<dyn FnOnce() + Send>), ("writes", Box::new(writes))]
        {
            let thread = std::thread::Builder::new().name(format!("wan-{region}-{name}")).spawn(work);
            self.threads.push(thread.context("a thread of the relay")?);
        }
        Ok(())
    }

    /// Changes one direction.
    pub fn change(&self, from: u8, to: u8, change: impl FnOnce(&mut Profile)) {
        if let Some(line) = self.lines.get(&(from, to)) {
            change(&mut line.lock().profile);
        }
    }

    /// Changes both directions of every link.
    pub fn change_all(&self, change: impl Fn(&mut Profile)) {
        for line in self.lines.values() {
            change(&mut line.lock().profile);
        }
    }

    /// Changes all links of a region, in both directions.
    pub fn change_region(&self, region: u8, change: impl Fn(&mut Profile)) {
        for ((from, to), line) in self.lines.iter() {
            if *from == region || *to == region {
                change(&mut line.lock().profile);
            }
        }
    }

    /// What one direction did so far.
    pub fn counted(&self, from: u8, to: u8) -> Counted {
        self.lines.get(&(from, to)).map(|line| line.lock().counted).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        let _ = self.stop.wakes.trigger();
        for end in self.ends.values() {
            end.earlier.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// In the router's namespace; the device works from any thread afterwards.
fn open_device() -> Result<SyncDevice, Trouble> {
    DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MTU)
        .tx_queue_len(DEVICE_QUEUE)
        .enable(true)
        .build_sync()
        .map_err(|error| Trouble::Skip(format!("no TUN device: {error}")))
}

fn read(from: u8, lines: &Lines, ends: &BTreeMap<u8, Arc<End>>, stop: &Stop, mut rng: StdRng) {
    let mut buffer = vec![0; usize::from(MTU) + 64];
    while !stop.asked.load(Ordering::Acquire) {
        // An interrupted read, or a device that is gone with its namespace: look whether to go on.
        let read = ends[&from].device.recv_intr_timeout(&mut buffer, &stop.wakes, Some(LOOK_EVERY));
        let Ok(length) = read else { continue };
        let Some(to) = destination(&buffer[..length]).filter(|to| *to != from) else { continue };
        let (Some(line), Some(end)) = (lines.get(&(from, to)), ends.get(&to)) else { continue };
        let Some(due) = line.lock().offer(Instant::now(), length, &mut rng) else { continue };
        // Whoever waits for an earlier one need not be woken for each that comes behind it.
        if end.waiting.lock().push(from, due, &buffer[..length]) {
            end.earlier.notify_one();
        }
    }
}

fn destination(packet: &[u8]) -> Option<u8> {
    let header = packet.get(..HEADER).filter(|header| header[0] >> 4 == 4)?;
    region_of(Ipv4Addr::new(header[16], header[17], header[18], header[19]))
}

fn write(end: &End, stop: &Stop) {
    let mut waiting = end.waiting.lock();
    while !stop.asked.load(Ordering::Acquire) {
        let now = Instant::now();
        match waiting.next() {
            Some((due, from)) if due <= now => {
                let first = waiting.lines.get_mut(&from).and_then(VecDeque::pop_front);
                if let Some((_, packet)) = first {
                    parking_lot::MutexGuard::unlocked(&mut waiting, || {
                        // What the device does not take is lost, as on a wire.
                        let _ = end.device.send(&packet);
                    });
                    waiting.spare.push(packet);
                }
            }
            Some((due, _)) => {
                end.earlier.wait_until(&mut waiting, due.min(now + LOOK_EVERY));
            }
            None => {
                end.earlier.wait_for(&mut waiting, LOOK_EVERY);
            }
        }
    }
}
