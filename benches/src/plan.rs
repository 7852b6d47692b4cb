//! What is measured: worlds, loads, and for how long. Pure.

use std::time::Duration;

/// Bytes of an event's value.
pub const VALUE_BYTES: usize = 1024;
/// Partitions of each row's stream; what `meridian stream create` gives.
pub const PARTITIONS: u32 = 4;

/// Which regions there are, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// One region of one node: nothing is mirrored.
    Alone,
    /// One region of three nodes, of which each shard has three replicas.
    Trio,
    /// Two regions side by side.
    Two,
    /// Two regions 80 ms of round trip apart.
    Wan,
}

impl World {
    /// Those of rows, in the order in which they are measured.
    pub const ALL: [Self; 3] = [Self::Alone, Self::Two, Self::Wan];

    /// The first part of its rows' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Trio => "trio",
            Self::Two => "two",
            Self::Wan => "wan",
        }
    }

    /// Its regions. Events are published in the first, and read in the second if there is one.
    pub const fn regions(self) -> &'static [&'static str] {
        match self {
            Self::Alone | Self::Trio => &["us"],
            Self::Two | Self::Wan => &["us", "eu"],
        }
    }

    /// The simulated round trip.
    pub const fn round_trip(self) -> Duration {
        match self {
            Self::Alone | Self::Trio | Self::Two => Duration::ZERO,
            Self::Wan => Duration::from_millis(80),
        }
    }

    /// How long an event is under way at least.
    pub fn one_way(self) -> Duration {
        self.round_trip() / 2
    }

    /// How it is started, but for its folder.
    pub fn arguments(self) -> Vec<String> {
        let mut arguments = vec!["dev", "--processes", "--regions"];
        let regions = self.regions().join(",");
        arguments.push(&regions);
        if self == Self::Trio {
            arguments.extend(["--nodes", "3"]);
        }
        let wan = format!("us-eu={}ms", self.round_trip().as_millis());
        if self.regions().len() > 1 {
            arguments.extend(["--wan", &wan]);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }
}

/// Who publishes, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One SDK publisher with its defaults, as fast as it takes events.
    SdkMax,
    /// One SDK publisher with its defaults, so many events a second whatever happens.
    SdkRate(u64),
    /// The plain `Publish` call with one event each, so many calls in flight.
    UnaryMax(usize),
    /// The plain `Publish` call with one event each, so many a second whatever happens.
    UnaryRate(u64),
}

impl Load {
    /// The rate that is held whatever happens.
    pub const fn rate(self) -> Option<u64> {
        match self {
            Self::SdkRate(rate) | Self::UnaryRate(rate) => Some(rate),
            Self::SdkMax | Self::UnaryMax(_) => None,
        }
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::SdkMax => "SDK, batches by its defaults".to_owned(),
            Self::SdkRate(_) => "SDK".to_owned(),
            Self::UnaryMax(1) => "`Publish`, one event a call, 1 call in flight".to_owned(),
            Self::UnaryMax(calls) => format!("`Publish`, one event a call, {calls} calls in flight"),
            Self::UnaryRate(_) => "`Publish`, one event a call".to_owned(),
        }
    }
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub world: World,
    /// Under which load.
    pub load: Load,
}

impl Row {
    /// What `--only` takes; also the name of its stream.
    pub fn name(self) -> String {
        let world = self.world.name();
        match self.load {
            Load::SdkMax => format!("{world}-sdk-max"),
            Load::SdkRate(rate) => format!("{world}-sdk-{rate}"),
            Load::UnaryMax(calls) => format!("{world}-unary-max-{calls}"),
            Load::UnaryRate(rate) => format!("{world}-unary-{rate}"),
        }
    }
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Of each row, before anything is counted.
    pub warm: Duration,
    /// Of each row, counted.
    pub counted: Duration,
    /// Of each of the machine's limits.
    pub limit: Duration,
    /// How often worlds that are compared take turns.
    pub rounds: usize,
}

impl Spans {
    /// For figures to be kept.
    pub const FULL: Self = Self {
        warm: Duration::from_secs(2),
        counted: Duration::from_secs(10),
        limit: Duration::from_secs(2),
        rounds: 3,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        warm: Duration::from_millis(500),
        counted: Duration::from_secs(2),
        limit: Duration::from_millis(400),
        rounds: 1,
    };
}

/// Every row.
pub fn all() -> Vec<Row> {
    let row = |world, load| Row { world, load };
    let mut rows = vec![
        row(World::Alone, Load::UnaryMax(1)),
        row(World::Alone, Load::UnaryMax(64)),
        row(World::Alone, Load::SdkMax),
        row(World::Two, Load::UnaryRate(1_000)),
    ];
    for world in [World::Two, World::Wan] {
        rows.extend([1_000, 5_000, 20_000].map(|rate| row(world, Load::SdkRate(rate))));
        rows.push(row(world, Load::SdkMax));
    }
    rows
}

/// What is measured of one node and of three, in alternation.
pub const COMPARED: [Load; 2] = [Load::SdkMax, Load::UnaryMax(64)];

/// One row of each kind.
pub fn quick() -> Vec<Row> {
    let picked = ["alone-unary-max-1", "alone-sdk-max", "two-sdk-5000", "wan-sdk-5000"];
    all().into_iter().filter(|row| picked.contains(&row.name().as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_stay_in_their_worlds_order() {
        let rows = all();
        let names: BTreeSet<String> = rows.iter().map(|row| row.name()).collect();
        assert_eq!(names.len(), rows.len());
        let order = |row: &Row| World::ALL.iter().position(|world| *world == row.world);
        assert!(rows.is_sorted_by_key(order));
        assert_eq!(quick().len(), 4, "a picked row is gone");
    }

    #[test]
    fn a_whole_run_takes_less_than_nine_minutes() {
        let of_rows: Duration = all().iter().map(|_| Spans::FULL.warm + Spans::FULL.counted).sum();
        // Three disk sizes and the loopback, before and after.
        let limits = Spans::FULL.limit * 4 * 2;
        let turns = 2 * Spans::FULL.rounds as u32;
        let compared = (Spans::FULL.warm + Spans::FULL.counted) * turns * COMPARED.len() as u32;
        let worlds = Duration::from_secs(15) * (3 + turns);
        assert!(of_rows + limits + worlds + compared < Duration::from_secs(540), "{of_rows:?} {compared:?}");
    }

    #[test]
    fn a_world_is_started_by_its_regions_and_its_round_trip() {
        assert_eq!(World::Alone.arguments(), ["dev", "--processes", "--regions", "us"]);
        assert_eq!(World::Wan.arguments().last().map(String::as_str), Some("us-eu=80ms"));
        assert_eq!(World::Trio.arguments()[3..], ["us", "--nodes", "3"]);
        assert_eq!(World::Two.arguments().last().map(String::as_str), Some("us-eu=0ms"));
        assert_eq!(World::Wan.one_way(), Duration::from_millis(40));
    }
}
