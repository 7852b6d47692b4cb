//! What processes used, out of /proc. Flows in: its text. Flows out: seconds and bytes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, io};

/// Linux tells user space hundredths of a second, whatever its own clock.
const TICKS_A_SECOND: f64 = 100.0;

/// A process that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The node's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// What was used since boot, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    at: Instant,
    machine: Machine,
    own: u64,
    nodes: Vec<(String, u64)>,
}

/// What was used between two moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds of each node, user and system.
    pub nodes: Vec<(String, f64)>,
    /// The highest that each node's memory ever was, in bytes.
    pub peak_rss: Vec<u64>,
    /// CPU seconds of this program: publisher and reader.
    pub own: f64,
    /// Cores that everything else kept busy, the kernel's own threads included.
    pub others: f64,
    /// Cores that the host took away.
    pub stolen: f64,
    /// From one moment to the other.
    pub took: Duration,
}

impl Usage {
    /// CPU seconds of all nodes.
    pub fn servers(&self) -> f64 {
        self.nodes.iter().map(|(_, seconds)| seconds).sum()
    }

    /// The most that any node took, in bytes.
    pub fn most_memory(&self) -> u64 {
        self.peak_rss.iter().copied().max().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    busy: u64,
    stolen: u64,
}

impl Snapshot {
    /// Now.
    pub fn take(nodes: &[Watched]) -> Result<Self, BenchError> {
        let ticks = |pid: &str| process_ticks(&read(&format!("/proc/{pid}/stat"))?);
        Ok(Self {
            at: Instant::now(),
            machine: machine_ticks(&read("/proc/stat")?)?,
            own: ticks("self")?,
            nodes: nodes
                .iter()
                .map(|node| Ok((node.name.clone(), ticks(&node.pid.to_string())?)))
                .collect::<Result<_, BenchError>>()?,
        })
    }

    /// Before processes were started that are running now.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn before_start(nodes: &[Watched]) -> Result<Self, BenchError> {
        let now = Self::take(nodes)?;
        let nodes = now.nodes.iter().map(|(name, _)| (name.clone(), 0)).collect();
        Ok(Self { nodes, ..now })
    }

    /// What was used since then.
    pub fn usage(&self, nodes: &[Watched]) -> Result<Usage, BenchError> {
        let now = Self::take(nodes)?;
        let peak = |node: &Watched| peak_rss(&read(&format!("/proc/{}/status", node.pid))?);
        let peak_rss = nodes.iter().map(peak).collect::<Result<_, _>>()?;
        Ok(Usage { peak_rss, ..self.until(&now) })
    }

    fn until(&self, now: &Self) -> Usage {
        let elapsed = now.at.duration_since(self.at).as_secs_f64().max(0.001);
        let seconds = |before: u64, after: u64| after.saturating_sub(before) as f64 / TICKS_A_SECOND;
        let nodes: Vec<(String, f64)> = self
            .nodes
            .iter()
            .zip(&now.nodes)
            .map(|((name, before), (_, after))| (name.clone(), seconds(*before, *after)))
            .collect();
        let own = seconds(self.own, now.own);
        let known = own + nodes.iter().map(|(_, seconds)| seconds).sum::<f64>();
        let busy = seconds(self.machine.busy, now.machine.busy);
        Usage {
            nodes,
            peak_rss: Vec::new(),
            own,
            others: ((busy - known) / elapsed).max(0.0),
            stolen: seconds(self.machine.stolen, now.machine.stolen) / elapsed,
            took: now.at.duration_since(self.at),
        }
    }
}

/// What a process has read of the disk since it began, in bytes; what was in the page cache does not count.
///
/// # Errors
/// /proc cannot be read.
pub fn read_of_disk(pid: u32) -> Result<u64, BenchError> {
    let text = read(&format!("/proc/{pid}/io"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok());
    bytes.ok_or_else(|| BenchError::wrong("/proc/PID/io has no read_bytes"))
}

fn read(path: &str) -> Result<String, BenchError> {
    std::fs::read_to_string(path).map_err(io(format!("read {path}; did a node end?")))
}

/// User and system time; the process's name, in parentheses, may hold anything.
fn process_ticks(stat: &str) -> Result<u64, BenchError> {
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    // Fields 14 and 15 of the whole line; the third is the first after the name.
    let field = |index: usize| fields.as_ref()?.get(index)?.parse::<u64>().ok();
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    ticks.ok_or_else(|| BenchError::wrong(format!("/proc/PID/stat has no times in it: {stat}")))
}

fn machine_ticks(stat: &str) -> Result<Machine, BenchError> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields: Vec<u64> =
        line.into_iter().flat_map(str::split_whitespace).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests' time is in user's.
    match fields[..] {
        [user, nice, system, _, _, irq, softirq, stolen, ..] => {
            Ok(Machine { busy: user + nice + system + irq + softirq, stolen })
        }
        _ => Err(BenchError::wrong("/proc/stat has no line of all CPUs")),
    }
}

fn peak_rss(status: &str) -> Result<u64, BenchError> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024)
        .ok_or_else(|| BenchError::wrong("/proc/PID/status has no VmHWM; did a node end?"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194304 8 0 0 0 250 31 7 7 20 0 9 0 5 6 7";
        assert_eq!(process_ticks(stat).unwrap(), 281);
        assert!(process_ticks("17 (x) S 1").is_err());
        let machine = machine_ticks("cpu  10 2 30 400 5 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n").unwrap();
        assert_eq!(machine, Machine { busy: 55, stolen: 8 });
        assert!(machine_ticks("intr 1").is_err());
        assert_eq!(peak_rss("VmPeak:\t 9 kB\nVmHWM:\t    1024 kB\n").unwrap(), 1 << 20);
        assert!(peak_rss("VmPeak:\t 9 kB\n").is_err());
    }

    #[test]
    fn what_is_nobodys_is_the_others() {
        let at = Instant::now();
        let snapshot = |seconds, busy, stolen, own, node| Snapshot {
            at: at + Duration::from_secs(seconds),
            machine: Machine { busy, stolen },
            own,
            nodes: vec![("us-1".to_owned(), node)],
        };
        let usage = snapshot(0, 1000, 0, 50, 70).until(&snapshot(10, 2500, 100, 250, 1070));
        assert_eq!(usage.nodes, [("us-1".to_owned(), 10.0)]);
        assert_eq!((usage.own, usage.others, usage.stolen), (2.0, 0.3, 0.1));
    }

    #[test]
    fn this_process_can_be_watched() {
        let own = [Watched { name: "own".to_owned(), pid: std::process::id() }];
        let usage = Snapshot::take(&own).unwrap().usage(&own).unwrap();
        assert!(usage.peak_rss[0] > 0 && usage.nodes.len() == 1);
        assert!(read_of_disk(std::process::id()).unwrap() < 1 << 40);
    }
}
