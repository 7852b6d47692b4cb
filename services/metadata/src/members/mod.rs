//! Who copies a Raft group's log, and who votes: the next step from how it is to how it should be.
//!
//! Flows in: the nodes that the group should have, and how its leader sees its members. Flows out: one step. Must never
//! wait for a node that is not there: a set of voters is only changed to one of which more than half answer, and a node
//! only becomes a voter once it has the log.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{NodeId, RegionId};

/// How many nodes vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Of the catalog: three of each region, one of each where there are five regions or more. Those that vote go on
    /// doing so until they are removed: the founders may be more.
    Catalog,
    /// Of a region's placement: five, and the founders.
    Placement,
}

impl Rule {
    /// How many of a region vote, of so many regions.
    fn of_region(self, regions: usize) -> usize {
        match self {
            Self::Catalog if regions >= 5 => 1,
            Self::Catalog => 3,
            Self::Placement => 5,
        }
    }
}

/// A node that the group should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is.
    pub region: RegionId,
    /// Its peer address.
    pub address: String,
}

/// How the group's leader sees a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It does not answer.
    Silent,
    /// It answers, and lacks much of the log.
    Behind,
    /// It answers, and has the log, or nearly.
    There,
}

/// How the group's leader sees the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Every member, voters and learners, the leader among them.
    pub members: BTreeMap<NodeId, Reach>,
    /// Two sets of voters count, because a change was cut short.
    pub is_joint: bool,
}

impl Seen {
    fn is(&self, node: NodeId, reach: Reach) -> bool {
        self.members.get(&node) == Some(&reach)
    }

    /// Whether a member has the log.
    pub fn is_there(&self, node: NodeId) -> bool {
        self.is(node, Reach::There)
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go through with the change that was cut short.
    Settle,
    /// Have a node copy the log.
    Learn(NodeId),
    /// Have these vote, and no others.
    Vote(BTreeSet<NodeId>),
    /// Have a learner copy the log no more.
    Forget(NodeId),
}

/// The next step, if there is something to do that can be done now.
pub fn next(rule: Rule, wanted: &BTreeMap<NodeId, Wanted>, seen: &Seen) -> Option<Step> {
    // Before the group's machine knows anybody.
    if wanted.is_empty() {
        return None;
    }
    if seen.is_joint {
        return Some(Step::Settle);
    }
    if let Some((node, _)) = wanted.iter().find(|(node, _)| !seen.members.contains_key(node)) {
        return Some(Step::Learn(*node));
    }
    let voters = voters(rule, wanted, seen);
    let answer = voters.iter().filter(|node| !seen.is(**node, Reach::Silent)).count();
    if voters != seen.voters && answer > voters.len() / 2 {
        return Some(Step::Vote(voters));
    }
    let gone = |node: &&NodeId| !wanted.contains_key(node) && !seen.voters.contains(node);
    seen.members.keys().find(gone).map(|node| Step::Forget(*node))
}

/// Who should vote: who does, but for those that are gone, and as many of the others as the rule allows, such that their
/// number is odd, for an even set lets no more of them fail, and that no region of three or more has half of them.
fn voters(rule: Rule, wanted: &BTreeMap<NodeId, Wanted>, seen: &Seen) -> BTreeSet<NodeId> {
    let regions: BTreeSet<RegionId> = wanted.values().map(|node| node.region).collect();
    let most = rule.of_region(regions.len());
    let stay: BTreeSet<NodeId> =
        seen.voters.iter().copied().filter(|node| wanted.contains_key(node)).collect();
    let mut of_region: BTreeMap<RegionId, usize> = BTreeMap::new();
    for node in stay.iter().filter_map(|node| wanted.get(node)) {
        *of_region.entry(node.region).or_default() += 1;
    }
    let largest_before = of_region.values().copied().max().unwrap_or(0);
    let mut left: Vec<(NodeId, RegionId)> = wanted
        .iter()
        .filter(|(node, _)| !stay.contains(node) && seen.is_there(**node))
        .map(|(node, row)| (*node, row.region))
        .collect();
    let (mut set, mut best) = (stay.clone(), stay);
    // The regions with the fewest first.
    while let Some(place) = (0..left.len())
        .filter(|place| of_region.get(&left[*place].1).copied().unwrap_or(0) < most)
        .min_by_key(|place| (of_region.get(&left[*place].1).copied().unwrap_or(0), left[*place].0))
    {
        let (node, region) = left.remove(place);
        set.insert(node);
        *of_region.entry(region).or_default() += 1;
        let largest = of_region.values().copied().max().unwrap_or(0);
        let is_spread = of_region.len() < 3 || largest * 2 < set.len() || largest <= largest_before;
        if !set.len().is_multiple_of(2) && is_spread {
            best.clone_from(&set);
        }
    }
    best
}
