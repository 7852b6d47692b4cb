//! What the demo publishes: a file's lines, or orders of a shop that sells in every region.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use meridian_types::murmur2;
use tokio::sync::mpsc;

use crate::exit::Failure;
use crate::reader::{Broken, Input, Line};

/// Where events come from. Each is published in one region; all events of a key in the same one.
#[derive(Clone, Debug)]
pub struct Source {
    /// For people.
    pub name: String,
    /// How many events each region publishes.
    pub counts: Vec<u64>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    File { path: PathBuf, key_field: Option<String> },
    Made,
}

impl Source {
    /// A file's lines. It is read once here: a broken line is told before anything is published.
    pub async fn file(path: &Path, key_field: Option<String>, regions: usize) -> Result<Self, Failure> {
        let mut counts = vec![0; regions];
        let mut lines = Input::open(path)?.read(key_field.clone());
        while let Some(chunk) = lines.recv().await {
            let chunk = chunk.map_err(|broken| of_broken(path, &broken))?;
            for line in chunk {
                counts[region_of(&line, regions)] += 1;
            }
        }
        let name = path.display().to_string();
        if counts.iter().sum::<u64>() < 100 {
            return Err(Failure::input(format!(
                "{name} has fewer than 100 events; the demo needs more to show"
            )));
        }
        Ok(Self { name, counts, kind: Kind::File { path: path.to_owned(), key_field } })
    }

    /// Made events.
    pub fn made(total: u64, regions: usize) -> Self {
        let regions = regions as u64;
        let counts = (0..regions).map(|i| total / regions + u64::from(i < total % regions)).collect();
        Self { name: "a made-up shop".to_owned(), counts, kind: Kind::Made }
    }

    /// The events of one region, in order.
    pub fn read(&self, region: usize, name: &str) -> Result<Events, Failure> {
        match &self.kind {
            Kind::File { path, key_field } => Ok(Events::File {
                lines: Input::open(path)?.read(key_field.clone()),
                path: path.clone(),
                region,
                regions: self.counts.len(),
            }),
            Kind::Made => Ok(Events::Made(Shop::new(name, region as u64), self.counts[region])),
        }
    }
}

/// The events of one region.
pub enum Events {
    /// Those lines of a file that are its own.
    File {
        /// All lines.
        lines: mpsc::Receiver<Result<Vec<Line>, Broken>>,
        /// For messages.
        path: PathBuf,
        /// Whose lines are wanted.
        region: usize,
        /// Among how many.
        regions: usize,
    },
    /// So many more of a shop.
    Made(Shop, u64),
}

impl Events {
    /// The next events; none: the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Line>>, Failure> {
        match self {
            Self::File { lines, path, region, regions } => match lines.recv().await {
                None => Ok(None),
                Some(Err(broken)) => Err(of_broken(path, &broken)),
                Some(Ok(mut chunk)) => {
                    chunk.retain(|line| region_of(line, *regions) == *region);
                    Ok(Some(chunk))
                }
            },
            Self::Made(_, 0) => Ok(None),
            Self::Made(shop, left) => {
                let count = (*left).min(64);
                *left -= count;
                Ok(Some((0..count).map(|_| shop.next()).collect()))
            }
        }
    }
}

fn of_broken(path: &Path, broken: &Broken) -> Failure {
    Failure::input(format!("{}, line {}: {}", path.display(), broken.number, broken.reason))
}

fn region_of(line: &Line, regions: usize) -> usize {
    let hash = match &line.key {
        Some(key) => u64::from(murmur2(key)),
        None => line.number,
    };
    (hash % regions as u64) as usize
}

/// A shop: orders that are placed, paid, packed, shipped and delivered, in that order for each of them.
pub struct Shop {
    region: String,
    random: SplitMix,
    /// Orders under way: number, customer, amount in cents, step.
    open: Vec<(u64, u64, u64, usize)>,
    orders: u64,
    events: u64,
}

const STEPS: [&str; 5] = ["placed", "paid", "packed", "shipped", "delivered"];
const GOODS: [&str; 8] =
    ["lamp", "kettle", "bicycle", "notebook", "raincoat", "headphones", "atlas", "coffee, 1 kg"];
/// Orders under way at once.
const OPEN: usize = 500;

impl Shop {
    fn new(region: &str, seed: u64) -> Self {
        Self { region: region.to_owned(), random: SplitMix(seed), open: Vec::new(), orders: 0, events: 0 }
    }

    fn next(&mut self) -> Line {
        let begin = self.open.is_empty() || (self.open.len() < OPEN && self.random.below(3) == 0);
        if begin {
            self.orders += 1;
            let (customer, cents) = (self.random.below(20_000), 199 + self.random.below(40_000));
            self.open.push((self.orders, customer, cents, 0));
        }
        let at = if begin { self.open.len() - 1 } else { self.random.below(self.open.len() as u64) as usize };
        let (order, customer, cents, step) = self.open[at];
        let key = format!("{}-{order:06}", self.region);
        let value = format!(
            r#"{{"order":"{key}","event":"{}","customer":"c{customer:05}","item":"{}","amount":"{}.{:02}","region":"{}"}}"#,
            STEPS[step],
            GOODS[(order % GOODS.len() as u64) as usize],
            cents / 100,
            cents % 100,
            self.region
        );
        if step + 1 == STEPS.len() {
            self.open.swap_remove(at);
        } else {
            self.open[at].3 += 1;
        }
        self.events += 1;
        Line { number: self.events, value: Bytes::from(value), key: Some(Bytes::from(key)) }
    }
}

/// Steele, Lea and Flood's SplitMix64: enough randomness for a shop, and the same in every run.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_shop_makes_json_and_each_order_goes_its_way() {
        let mut shop = Shop::new("eu", 1);
        let mut steps: HashMap<String, usize> = HashMap::new();
        for _ in 0..5_000 {
            let line = shop.next();
            let json: serde_json::Value = serde_json::from_slice(&line.value).unwrap();
            let order = json["order"].as_str().unwrap().to_owned();
            assert_eq!(order.as_bytes(), &line.key.unwrap()[..]);
            let step = steps.entry(order).or_default();
            assert_eq!(json["event"], STEPS[*step]);
            *step += 1;
        }
        assert!(steps.len() > 500);
    }

    #[tokio::test]
    async fn a_files_lines_are_shared_out_once_each_and_keys_stay_together() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for i in 0..1000 {
            writeln!(file, "{{\"n\":{i},\"k\":\"key {}\"}}", i % 37).unwrap();
        }
        for key_field in [None, Some("k".to_owned())] {
            let source = Source::file(file.path(), key_field.clone(), 3).await.unwrap();
            let mut homes: HashMap<Bytes, usize> = HashMap::new();
            let mut numbers = Vec::new();
            for region in 0..3 {
                let mut events = source.read(region, "x").unwrap();
                let mut count = 0;
                while let Some(chunk) = events.next().await.unwrap() {
                    for line in chunk {
                        count += 1;
                        numbers.push(line.number);
                        if let Some(key) = line.key {
                            assert_eq!(*homes.entry(key).or_insert(region), region);
                        }
                    }
                }
                assert_eq!(count, source.counts[region]);
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_broken_line_is_told_before_anything_is_published() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}{{\"a\":", "{\"a\":1}\n".repeat(200)).unwrap();
        let failure = Source::file(file.path(), None, 3).await.unwrap_err();
        assert!(failure.message.contains("line 201"), "{}", failure.message);
    }

    #[test]
    fn made_events_add_up() {
        assert_eq!(Source::made(10, 3).counts, [4, 3, 3]);
    }
}
