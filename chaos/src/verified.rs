//! What `meridian verify --json` prints, as far as tests look at it.

use serde::Deserialize;

/// The whole report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Every copy is whole and the same.
    pub agree: bool,
    /// Events that all regions hold.
    pub events: u64,
    /// Whether each region answered.
    pub regions: Vec<RegionReport>,
    /// By partition and origin.
    pub lanes: Vec<LaneReport>,
}

/// A region as a whole.
#[derive(Clone, Debug, Deserialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// `answered`, `unreachable` or `refused`.
    pub status: String,
    /// What it said, unless it answered.
    #[serde(default)]
    pub error: String,
}

/// A lane.
#[derive(Clone, Debug, Deserialize)]
pub struct LaneReport {
    /// Its partition.
    pub partition: u32,
    /// Its origin's name.
    pub origin: String,
    /// Whether its copies are the same.
    pub agree: bool,
    /// By region.
    pub copies: Vec<CopyReport>,
}

/// A copy of a lane.
#[derive(Clone, Debug, Deserialize)]
pub struct CopyReport {
    /// Whose.
    pub region: String,
    /// Its first offset.
    pub start: Option<u64>,
    /// Its next offset.
    pub end: Option<u64>,
    /// Over the range that all hold.
    pub digest: Option<String>,
    /// `ok`, `behind`, `differs`, `damaged`, `unreachable` or `refused`.
    pub status: String,
    /// Where it differs.
    pub differs_at: Option<u64>,
    /// Where it is damaged.
    pub damaged_at: Option<u64>,
}

impl Report {
    /// Copies that no waiting makes good, each in words.
    pub fn broken(&self) -> Vec<String> {
        let copies = self.lanes.iter().flat_map(|lane| lane.copies.iter().map(move |copy| (lane, copy)));
        copies
            .filter(|(_, copy)| matches!(copy.status.as_str(), "differs" | "damaged"))
            .map(|(lane, copy)| format!("partition {} of {}: {copy:?}", lane.partition, lane.origin))
            .collect()
    }

    /// A copy.
    ///
    /// # Panics
    /// There is none.
    pub fn copy(&self, partition: u32, origin: &str, region: &str) -> &CopyReport {
        let lane = self.lanes.iter().find(|lane| lane.partition == partition && lane.origin == origin);
        lane.and_then(|lane| lane.copies.iter().find(|copy| copy.region == region))
            .unwrap_or_else(|| panic!("no copy of partition {partition} of {origin} in {region}: {self:#?}"))
    }
}
