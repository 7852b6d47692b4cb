//! A shard that has a leader: is it told, does it lead, must it give way, has its set settled.

use std::time::Duration;

use meridian_types::NodeId;

use super::config::passed;
use super::core::Driver;
use super::effect::Election;
use super::watch::{At, Plan, Told, Watch};
use crate::placement::{Change, Elected, majority};

impl Driver {
    /// Gives a shard that has a leader what it needs next, one thing at a time.
    pub(super) fn lead(&self, at: At<'_>, elected: Elected, watch: &mut Watch, plan: &mut Plan) {
        let At { state, shard, row, now } = at;
        watch.avoid = watch.avoid.filter(|(epoch, _)| *epoch >= elected.epoch);
        let led = self
            .liveness
            .led(elected.node, shard)
            .filter(|led| led.epoch == elected.epoch && self.liveness.boot(elected.node) == elected.boot)
            .copied();
        if !self.is_live(state, elected.node, now) || self.liveness.boot(elected.node) > elected.boot {
            self.begin(at, elected.epoch, watch, plan);
            return;
        }
        self.tell(at, elected, led.is_some(), watch, plan);
        let another = row.members.iter().any(|node| *node != elected.node && self.is_live(state, *node, now));
        match led {
            Some(_) => {
                watch.missing_since = None;
                watch.failures = 0;
            }
            None => {
                let since = *watch.missing_since.get_or_insert(now);
                let heard_since = self.liveness.last_heard(elected.node) > since;
                if another && heard_since && passed(since, now, self.lead_wait(watch.failures)) {
                    if self.begin(at, elected.epoch, watch, plan) {
                        watch.failures = watch.failures.saturating_add(1);
                        watch.avoid = Some((elected.epoch, elected.node));
                    }
                    return;
                }
            }
        }
        if self.must_give_way(at, elected, watch) {
            if self.begin(at, elected.epoch, watch, plan) {
                watch.transferred = Some(now);
            }
            return;
        }
        let Some(led) = led else { return };
        if row.previous.is_some() {
            if led.settled {
                plan.propose(watch, Some(row), now, Change::Settle { shard, epoch: elected.epoch });
            }
            return;
        }
        self.repair(at, led, watch, plan);
    }

    /// Everybody at once when it is news; a node that is back; and the elected again and again until it leads.
    fn tell(&self, at: At<'_>, elected: Elected, leads: bool, watch: &mut Watch, plan: &mut Plan) {
        let At { shard, row, now, .. } = at;
        let election = Election {
            shard,
            elected,
            version: row.version,
            members: row.members.clone(),
            learner: row.learner,
        };
        let news = watch.told.as_ref().is_none_or(|told| told.election != election);
        let again = !leads
            && watch.told.as_ref().is_some_and(|told| {
                passed(told.at, now, self.config.tell_retry)
                    && self.liveness.last_heard(elected.node) > told.at
            });
        for node in row.members.iter().chain(row.learner.iter()) {
            if news || self.back.contains(node) || (again && *node == elected.node) {
                plan.tell(*node, &election);
            }
        }
        if news || again {
            watch.told = Some(Told { election, at: now });
        }
    }

    /// A draining leader does, where another can lead; one whose disk takes nothing, where so many have room that they can elect one
    /// and commit: a disk that is full to the brim promises nothing either.
    fn must_give_way(&self, at: At<'_>, elected: Elected, watch: &Watch) -> bool {
        let At { state, row, now, .. } = at;
        let can_lead =
            |node: &&NodeId| self.may_be_preferred(state, **node) && self.is_live(state, **node, now);
        let needed = if state.is_active(elected.node) { majority(&row.members) } else { 1 };
        !self.may_be_preferred(state, elected.node)
            && row.members.iter().filter(can_lead).count() >= needed
            && watch.transferred.is_none_or(|at| passed(at, now, self.config.transfer_retry))
    }

    /// Doubles with each failure in a row, or a shard that nobody can lead would go through an epoch a second.
    fn lead_wait(&self, failures: u32) -> Duration {
        self.config.lead_wait.saturating_mul(1 << failures.min(16)).min(self.config.lead_wait_max)
    }
}
