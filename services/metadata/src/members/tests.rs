//! Tables of what is done next, and a random world in which a majority never waits for the dead.

use proptest::prelude::*;

use super::*;

/// `us` is 1, `eu` 2, and so on.
fn wanted(nodes: &[(u32, u16)]) -> BTreeMap<NodeId, Wanted> {
    let row = |&(id, region): &(u32, u16)| {
        (NodeId(id), Wanted { region: RegionId(region), address: format!("n{id}:1") })
    };
    nodes.iter().map(row).collect()
}

fn set(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().map(|&id| NodeId(id)).collect()
}

fn seen(voters: &[u32], there: &[u32], behind: &[u32], silent: &[u32]) -> Seen {
    let of = |nodes: &[u32], reach| nodes.iter().map(move |&id| (NodeId(id), reach)).collect::<Vec<_>>();
    let members = [of(there, Reach::There), of(behind, Reach::Behind), of(silent, Reach::Silent)];
    Seen { voters: set(voters), members: members.into_iter().flatten().collect(), is_joint: false }
}

const US_OF_THREE: &[(u32, u16)] = &[(1, 1), (2, 1), (3, 1)];

fn with(nodes: &[(u32, u16)], more: &[(u32, u16)]) -> BTreeMap<NodeId, Wanted> {
    wanted(&[nodes, more].concat())
}

#[test]
fn a_node_that_is_added_learns_and_in_a_set_of_three_it_stays_a_learner() {
    let four = with(US_OF_THREE, &[(4, 1)]);
    for rule in [Rule::Catalog, Rule::Placement] {
        let before = seen(&[1, 2, 3], &[1, 2, 3], &[], &[]);
        assert_eq!(next(rule, &four, &before), Some(Step::Learn(NodeId(4))));
        let learning = seen(&[1, 2, 3], &[1, 2, 3], &[4], &[]);
        assert_eq!(next(rule, &four, &learning), None);
        let learnt = seen(&[1, 2, 3], &[1, 2, 3, 4], &[], &[]);
        assert_eq!(next(rule, &four, &learnt), None, "a fourth voter would let no more of them fail");
    }
}

#[test]
fn a_removed_voter_is_replaced_in_one_step_by_a_learner_that_has_the_log() {
    let without_one = wanted(&[(2, 1), (3, 1), (4, 1)]);
    let learnt = seen(&[1, 2, 3], &[1, 2, 3, 4], &[], &[]);
    assert_eq!(next(Rule::Placement, &without_one, &learnt), Some(Step::Vote(set(&[2, 3, 4]))));
    let dead = seen(&[1, 2, 3], &[2, 3, 4], &[], &[1]);
    assert_eq!(next(Rule::Placement, &without_one, &dead), Some(Step::Vote(set(&[2, 3, 4]))));
    // One that does not have the log yet is not waited for.
    let behind = seen(&[1, 2, 3], &[1, 2, 3], &[4], &[]);
    assert_eq!(next(Rule::Placement, &without_one, &behind), Some(Step::Vote(set(&[2, 3]))));
    let done = seen(&[2, 3, 4], &[2, 3, 4], &[], &[]);
    assert_eq!(next(Rule::Placement, &without_one, &done), None);
}

#[test]
fn a_set_is_not_changed_to_one_of_which_no_majority_answers() {
    // 1 is removed, 2 is dead: of {2, 3} one is not enough, and a change would never end.
    let rest = wanted(&[(2, 1), (3, 1)]);
    let half = seen(&[1, 2, 3], &[1, 3], &[], &[2]);
    assert_eq!(next(Rule::Placement, &rest, &half), None);
    let back = seen(&[1, 2, 3], &[1, 3], &[2], &[]);
    assert_eq!(next(Rule::Placement, &rest, &back), Some(Step::Vote(set(&[2, 3]))));
}

#[test]
fn one_voter_becomes_three_and_three_five_and_no_more() {
    let three = wanted(US_OF_THREE);
    let one_learnt = seen(&[1], &[1, 2], &[3], &[]);
    assert_eq!(next(Rule::Placement, &three, &one_learnt), None, "two voters are worse than one");
    let both = seen(&[1], &[1, 2, 3], &[], &[]);
    assert_eq!(next(Rule::Placement, &three, &both), Some(Step::Vote(set(&[1, 2, 3]))));
    let seven = with(US_OF_THREE, &[(4, 1), (5, 1), (6, 1), (7, 1)]);
    let all = seen(&[1, 2, 3], &[1, 2, 3, 4, 5, 6, 7], &[], &[]);
    assert_eq!(next(Rule::Placement, &seven, &all), Some(Step::Vote(set(&[1, 2, 3, 4, 5]))));
    assert_eq!(next(Rule::Catalog, &seven, &all), None, "three of a region");
    let founders = seen(&[1, 2, 3, 4, 5, 6, 7], &[1, 2, 3, 4, 5, 6, 7], &[], &[]);
    assert_eq!(next(Rule::Placement, &seven, &founders), None, "founders vote until they are removed");
    // Two founders become three.
    let two = seen(&[1, 2], &[1, 2, 3], &[], &[]);
    assert_eq!(next(Rule::Placement, &three, &two), Some(Step::Vote(set(&[1, 2, 3]))));
}

#[test]
fn no_region_of_three_comes_to_have_half_of_the_catalogs_votes() {
    let world: &[(u32, u16)] = &[(1, 1), (2, 2), (3, 3)];
    let more_us = with(world, &[(4, 1), (5, 1)]);
    let all = seen(&[1, 2, 3], &[1, 2, 3, 4, 5], &[], &[]);
    assert_eq!(next(Rule::Catalog, &more_us, &all), None, "us alone would decide");
    let more = with(world, &[(4, 1), (5, 2)]);
    assert_eq!(next(Rule::Catalog, &more, &all), Some(Step::Vote(set(&[1, 2, 3, 4, 5]))));
    // Founded crooked: what makes it no worse is done.
    let crooked = wanted(&[(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)]);
    let rest = seen(&[1, 2, 3, 4], &[1, 2, 3, 4, 5], &[], &[]);
    assert_eq!(next(Rule::Catalog, &crooked, &rest), Some(Step::Vote(set(&[1, 2, 3, 4, 5]))));
    // Five regions: one each.
    let five = wanted(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 1), (7, 2)]);
    let learnt = seen(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6, 7], &[], &[]);
    assert_eq!(next(Rule::Catalog, &five, &learnt), None);
    // Two regions: a tie is broken, for one of them can then be lost.
    let two = wanted(&[(1, 1), (2, 2), (3, 1)]);
    let tie = seen(&[1, 2], &[1, 2, 3], &[], &[]);
    assert_eq!(next(Rule::Catalog, &two, &tie), Some(Step::Vote(set(&[1, 2, 3]))));
}

#[test]
fn a_change_that_was_cut_short_comes_first_and_learners_that_are_gone_last() {
    let mut joint = seen(&[1, 2, 3, 4], &[1, 2, 3, 4], &[], &[]);
    joint.is_joint = true;
    let four = with(US_OF_THREE, &[(4, 1)]);
    assert_eq!(next(Rule::Placement, &four, &joint), Some(Step::Settle));
    let gone = seen(&[1, 2, 3], &[1, 2, 3], &[], &[4]);
    assert_eq!(next(Rule::Placement, &wanted(US_OF_THREE), &gone), Some(Step::Forget(NodeId(4))));
}

/// Nodes come, go, die and return in any order. Each step is taken as Raft would: it must be possible with those that live.
#[derive(Clone, Debug)]
enum Event {
    Add(u32, u16),
    Remove(u32),
    Die(u32),
    Live(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1u32..12, 1u16..5).prop_map(|(id, region)| Event::Add(id, region)),
        2 => (1u32..12).prop_map(Event::Remove),
        2 => (1u32..12).prop_map(Event::Die),
        2 => (1u32..12).prop_map(Event::Live),
    ]
}

proptest! {
    #[test]
    fn it_comes_to_rest_and_a_majority_that_lives_is_never_given_up(events in proptest::collection::vec(event(), 0..40), placement: bool) {
        let rule = if placement { Rule::Placement } else { Rule::Catalog };
        let mut nodes: BTreeMap<u32, u16> = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        let mut dead: BTreeSet<u32> = BTreeSet::new();
        let mut state = seen(&[1, 2, 3], &[1, 2, 3], &[], &[]);
        for event in events {
            match event {
                Event::Add(id, region) => drop(nodes.entry(id).or_insert(if placement { 1 } else { region })),
                Event::Remove(id) if nodes.len() > 1 => drop(nodes.remove(&id)),
                Event::Die(id) => drop(dead.insert(id)),
                Event::Live(id) => drop(dead.remove(&id)),
                Event::Remove(_) => {}
            }
            let rows: Vec<(u32, u16)> = nodes.iter().map(|(id, region)| (*id, *region)).collect();
            let wanted = wanted(&rows);
            let lives = |set: &BTreeSet<NodeId>| {
                set.iter().filter(|node| !dead.contains(&node.0)).count() > set.len() / 2
            };
            for node in state.members.clone().keys() {
                state.members.insert(*node, if dead.contains(&node.0) { Reach::Silent } else { Reach::There });
            }
            // Without a majority there is no leader that could do anything.
            let mut steps = 0;
            while lives(&state.voters) && let Some(step) = next(rule, &wanted, &state) {
                steps += 1;
                prop_assert!(steps < 40, "it does not come to rest: {step:?}, {state:?}");
                match step {
                    Step::Settle => prop_assert!(false, "no change was cut short"),
                    Step::Learn(node) => {
                        let reach = if dead.contains(&node.0) { Reach::Silent } else { Reach::There };
                        prop_assert_eq!(state.members.insert(node, reach), None);
                    }
                    Step::Vote(voters) => {
                        prop_assert!(lives(&voters), "{voters:?} cannot decide anything: {dead:?}");
                        let come = voters.difference(&state.voters);
                        for node in come {
                            prop_assert!(state.is_there(*node) && wanted.contains_key(node));
                        }
                        for node in state.voters.difference(&voters) {
                            prop_assert!(!wanted.contains_key(node), "{node} votes until it is removed");
                            state.members.remove(node);
                        }
                        state.voters = voters;
                    }
                    Step::Forget(node) => {
                        prop_assert!(!state.voters.contains(&node) && !wanted.contains_key(&node));
                        state.members.remove(&node);
                    }
                }
            }
        }
    }
}
