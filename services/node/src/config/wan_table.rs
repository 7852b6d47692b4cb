//! Simulated round trips between pairs of regions, as `[wan]` and `--wan` give them.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use meridian_types::RegionName;
use serde::{Deserialize, Serialize};

use super::units::{Span, UnitError};

/// Why a table of round trips is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WanError {
    /// Not `region-region`.
    #[error("{key:?} is not a pair of regions; write it as us-eu, with regions of this cluster ({regions})")]
    Pair {
        /// As given.
        key: String,
        /// The regions there are.
        regions: String,
    },
    /// Region names with a `-` let it be read in two ways.
    #[error("{key:?} can be read as more than one pair of regions; rename a region")]
    Ambiguous {
        /// As given.
        key: String,
    },
    /// `us-us`.
    #[error("{key:?} names one region twice; nothing is simulated within a region")]
    Same {
        /// As given.
        key: String,
    },
    /// `us-eu` and `eu-us`.
    #[error("{key:?} is given twice; a round trip is the same both ways")]
    Twice {
        /// As given.
        key: String,
    },
    /// Not `us-eu=80ms`.
    #[error("{key:?} is not a round trip; write it as us-eu=80ms, several separated by commas")]
    Form {
        /// As given.
        key: String,
    },
    /// Not a duration.
    #[error("{key}: {source}")]
    Duration {
        /// As given.
        key: String,
        /// What is wrong with it.
        source: UnitError,
    },
    /// Longer than any real one.
    #[error("{key}: {span} is longer than a minute")]
    TooLong {
        /// As given.
        key: String,
        /// As given.
        span: Span,
    },
}

impl WanError {
    /// The entry at fault.
    pub fn key(&self) -> &str {
        match self {
            Self::Pair { key, .. }
            | Self::Ambiguous { key }
            | Self::Same { key }
            | Self::Twice { key }
            | Self::Form { key }
            | Self::Duration { key, .. }
            | Self::TooLong { key, .. } => key,
        }
    }
}

/// Round trips by pair of regions: `us-eu` → `80ms`. A pair that is not named has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WanTable(pub BTreeMap<String, Span>);

/// Checked and resolved: (smaller name, larger name) → round trip.
pub(crate) type Resolved = BTreeMap<(RegionName, RegionName), Duration>;

impl WanTable {
    /// Whether nothing is simulated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which pairs the keys name. Region names may hold a `-`, so the regions decide where a key is split.
    pub(crate) fn resolve(&self, regions: &[RegionName]) -> Result<Resolved, WanError> {
        let mut table = Resolved::new();
        for (key, span) in &self.0 {
            let mut pairs = key.match_indices('-').filter_map(|(at, _)| {
                let find = |name: &str| regions.iter().find(|r| r.as_str() == name);
                Some((find(&key[..at])?, find(&key[at + 1..])?))
            });
            let Some((a, b)) = pairs.next() else {
                let regions = regions.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ");
                return Err(WanError::Pair { key: key.clone(), regions });
            };
            if pairs.next().is_some() {
                return Err(WanError::Ambiguous { key: key.clone() });
            }
            if a == b {
                return Err(WanError::Same { key: key.clone() });
            }
            if span.get() > Duration::from_secs(60) {
                return Err(WanError::TooLong { key: key.clone(), span: *span });
            }
            if table.insert(ordered(a, b), span.get()).is_some() {
                return Err(WanError::Twice { key: key.clone() });
            }
        }
        Ok(table)
    }

    /// The round trip asked for between two regions, in either order; zero where none is simulated, as within a region.
    pub fn round_trip(&self, a: &RegionName, b: &RegionName) -> Duration {
        let either = [format!("{a}-{b}"), format!("{b}-{a}")];
        either.iter().find_map(|key| self.0.get(key)).map_or(Duration::ZERO, |span| span.get())
    }
}

fn ordered(a: &RegionName, b: &RegionName) -> (RegionName, RegionName) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

/// `us-eu=80ms,us-ap=150ms`
impl FromStr for WanTable {
    type Err = WanError;

    fn from_str(text: &str) -> Result<Self, WanError> {
        let mut table = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let (pair, span) =
                entry.split_once('=').ok_or_else(|| WanError::Form { key: entry.to_owned() })?;
            let (pair, span) = (pair.trim().to_owned(), span.trim());
            let span = span.parse().map_err(|source| WanError::Duration { key: pair.clone(), source })?;
            if table.insert(pair.clone(), span).is_some() {
                return Err(WanError::Twice { key: pair });
            }
        }
        Ok(Self(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<RegionName> {
        names.iter().map(|n| RegionName::new(*n).unwrap()).collect()
    }

    fn table(text: &str) -> WanTable {
        text.parse().unwrap()
    }

    #[test]
    fn is_the_same_both_ways_and_nothing_within_a_region() {
        let regions = names(&["us", "eu", "ap"]);
        let wan = table("us-eu=80ms, us-ap=150ms");
        wan.resolve(&regions).unwrap();
        let [us, eu, ap] = [&regions[0], &regions[1], &regions[2]];
        assert_eq!(wan.round_trip(us, eu), Duration::from_millis(80));
        assert_eq!(wan.round_trip(eu, us), Duration::from_millis(80));
        assert_eq!(wan.round_trip(ap, us), Duration::from_millis(150));
        assert_eq!(wan.round_trip(eu, ap), Duration::ZERO);
        assert_eq!(wan.round_trip(us, us), Duration::ZERO);
    }

    #[test]
    fn names_with_dashes_are_split_where_the_regions_say() {
        let regions = names(&["us-east", "us-west"]);
        let wan = table("us-east-us-west=20ms");
        assert!(wan.resolve(&regions).is_ok());
        assert_eq!(wan.round_trip(&regions[1], &regions[0]), Duration::from_millis(20));
        let confusing = names(&["a", "a-b", "b-c", "c"]);
        let error = table("a-b-c=1ms").resolve(&confusing).unwrap_err();
        assert!(matches!(error, WanError::Ambiguous { .. }), "{error}");
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        let regions = names(&["us", "eu"]);
        assert!(matches!("us-eu".parse::<WanTable>(), Err(WanError::Form { .. })));
        assert!(matches!("us-eu=80".parse::<WanTable>(), Err(WanError::Duration { .. })));
        assert!(matches!("us-eu=8ms,us-eu=9ms".parse::<WanTable>(), Err(WanError::Twice { .. })));
        let refused = |text: &str| table(text).resolve(&regions).unwrap_err();
        assert!(matches!(refused("us-mars=1s"), WanError::Pair { .. }));
        assert!(matches!(refused("us=1s"), WanError::Pair { .. }));
        assert!(matches!(refused("us-us=1s"), WanError::Same { .. }));
        assert!(matches!(refused("us-eu=1s,eu-us=2s"), WanError::Twice { .. }));
        assert!(matches!(refused("us-eu=2m"), WanError::TooLong { .. }));
    }
}
