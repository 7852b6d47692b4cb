//! What a verification found, in the form that `meridian verify --json` prints.

use serde::Serialize;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every region answered, every lane ends alike everywhere and has one digest, nothing is damaged.
    pub agree: bool,
    /// Events in the ranges that all regions which answered hold.
    pub events: u64,
    /// The stream's name.
    pub stream: String,
    /// Which regions were asked.
    pub regions: Vec<RegionReport>,
    /// Lane by lane, in order of partition and origin.
    pub lanes: Vec<LaneReport>,
}

/// One region, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// Whether it could be asked.
    #[serde(flatten)]
    pub status: RegionStatus,
}

/// Whether a region could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum RegionStatus {
    /// It answered.
    Answered,
    /// No node of it answers.
    Unreachable {
        /// What happened.
        error: String,
    },
    /// It answers, and refuses: it may not know the stream yet.
    Refused {
        /// What it says.
        error: String,
    },
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// The stream's name.
    pub stream: String,
    /// The partition.
    pub partition: u32,
    /// The name of the region that writes it.
    pub origin: String,
    /// Which incarnation of that region.
    pub incarnation: u16,
    /// Whether all copies are alike.
    pub agree: bool,
    /// Copy by copy, in the order in which the regions were named.
    pub copies: Vec<CopyReport>,
}

/// One region's copy of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// The region's name.
    pub region: String,
    /// Its first offset; none if it could not be asked.
    pub start: Option<u64>,
    /// Its next offset.
    pub end: Option<u64>,
    /// BLAKE3 in hex over the frames that all copies hold; none where nothing could be read.
    pub digest: Option<String>,
    /// How it compares.
    #[serde(flatten)]
    pub status: CopyStatus,
}

/// How a copy compares with the others. The worst that is true of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum CopyStatus {
    /// Whole, and like the others.
    Ok,
    /// Like the others as far as it goes, but not as far as the longest.
    Behind {
        /// How many offsets it lacks.
        behind_by: u64,
    },
    /// Other bytes than the reference, which is the origin's copy where that is sound, else the largest group's.
    Differs {
        /// The first offset of the first frame that differs.
        differs_at: u64,
        /// Whose copy it was compared with.
        from: String,
    },
    /// What is on its disk does not read back as it was written.
    Damaged {
        /// Where, if that can be told.
        damaged_at: Option<u64>,
        /// What is wrong.
        damage: String,
    },
    /// Its region does not answer.
    Unreachable,
    /// Its region refuses.
    Refused {
        /// What it says.
        error: String,
    },
}

impl Report {
    /// In how many regions nothing could be read.
    pub fn silent_regions(&self) -> usize {
        self.regions.iter().filter(|region| region.status != RegionStatus::Answered).count()
    }

    /// Lanes whose copies are not all alike.
    pub fn disagreeing(&self) -> impl Iterator<Item = &LaneReport> {
        self.lanes.iter().filter(|lane| !lane.agree)
    }
}
