//! Rounds of the volumes, as the writer's thread writes them, and flushes of the indexes.

use meridian_shard::{Input, LogPoint};
use meridian_storage::{Entry, WriteError};
use meridian_types::{NodeId, ShardId};
use rand::RngExt as _;

use super::{At, Event, World};
use crate::check::{Law, doubt, stored};
use crate::queue::Synced;

impl World {
    /// Something may be queued: the writer looks.
    pub(super) fn wake_disk(&mut self, at: At) {
        let Some(process) = self.process(at) else { return };
        if process.queue.is_idle() || process.queue.is_writing() || process.round_due {
            return;
        }
        process.round_due = true;
        let delay = self.some(self.swarm.sync / 4);
        self.after(delay, Event::RoundBegins(at));
    }

    pub(super) fn round_begins(&mut self, at: At) {
        let max = self.swarm.max_round;
        let Some(process) = self.process(at) else { return };
        process.round_due = false;
        if !process.queue.is_writing() && process.queue.begin(max) {
            let slow = self.chance(3);
            let delay = self.some(self.swarm.sync * if slow { 8 } else { 1 });
            self.after(delay, Event::RoundEnds(at));
        }
    }

    pub(super) fn round_ends(&mut self, at: At) {
        let Some(node) = self.nodes.get_mut(&at.node) else { return };
        let Some(process) = node.process.as_mut().filter(|process| process.life == at.life) else { return };
        let round = process.queue.round().to_vec();
        let written = if round.is_empty() { Ok(Vec::new()) } else { process.volume.write_round(&round) };
        let places = match written {
            Ok(places) => places,
            // What is tidied up on a full disk may be the operation that it goes with.
            Err(_) if node.disk.crashed() => return self.crash(at.node, true),
            Err(WriteError::Fatal(_)) => {
                // Injected; nothing else fails here. An fsync that fails ends the process.
                self.met.met("fault: the disk fails");
                return self.crash(at.node, true);
            }
            Err(WriteError::NoSpace) if node.full => {
                // The writer tries again until there is room.
                self.met.met("disk: a round waits for room");
                return self.after(100_000, Event::RoundEnds(at));
            }
            Err(error) => {
                return self.judge(
                    Law::StoredLast,
                    Err(format!("node {}: the volume takes nothing: {error}", at.node)),
                );
            }
        };
        self.met.met("disk: round");
        let mut sure = Ok(());
        for entry in &round {
            let log = node.stored.entry(entry.shard()).or_default();
            if let Entry::Doubt { shard, from: None } = entry
                && shard.origin == node.home
            {
                self.met.met("disk: a doubt is over");
                sure = sure.and(doubt::ends(at.node, *shard, log, &self.laws.truth));
            }
            log.take(entry);
        }
        let skipped = process.queue.skipped;
        let complete = process.queue.end(places);
        let mut settled = Ok(());
        for entry in &round {
            let shard = entry.shard();
            if let Some(host) = process.hosts.get(&shard)
                && host.to_submit.is_empty()
                && process.queue.is_clear_of(shard)
                && let Some(log) = node.stored.get(&shard)
            {
                settled = settled.and(stored::settled(at.node, shard, log, &host.view));
            }
        }
        self.met.add("disk: frame skipped that was cut in the queue", skipped);
        if let Some(process) = self.process(at) {
            process.queue.skipped = 0;
        }
        self.trace.line(self.now, format_args!("{} synced a round of {}", at.node, round.len()));
        self.judge(Law::StoredLast, settled);
        self.judge(Law::InDoubt, sure);
        for (shard, synced) in complete {
            let delay = self.rng.random_range(0..200);
            let earliest = self.now + delay;
            let Some(process) = self.process(at) else { return };
            let time = process.synced_at.max(earliest);
            process.synced_at = time;
            self.at(time, Event::Synced(at, shard, synced));
        }
        self.wake_disk(at);
    }

    /// What a shard's submission came to, as `task.rs::on_synced`.
    pub(super) fn synced(&mut self, at: At, shard: ShardId, synced: Synced) {
        let Some(process) = self.process(at) else { return };
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let input = match synced {
            Synced::Promise(epoch) => Some(Input::Promised { epoch }),
            Synced::Doubt(from) => from.is_none().then_some(Input::Sure),
            Synced::Cut(LogPoint { seq, chain, .. }) => Some(Input::Flushed { seq, chain }),
            Synced::GivenUp => None,
            Synced::Repaired(proven, places) => {
                let stored = process.reader.stored_again(&proven, places);
                if let Err(error) = stored {
                    self.judge(Law::OwnChecks, Err(error.to_string()));
                }
                return;
            }
            Synced::Frames(places) => {
                let first = host.unapplied.front().map(|frame| frame.effects.header.seq);
                let mut last = None;
                for (point, place) in places {
                    let index = first.and_then(|first| point.seq.0.checked_sub(first.0));
                    if let Some(frame) = index.and_then(|index| host.unapplied.get_mut(index as usize))
                        && frame.effects.header.chain == point.chain
                    {
                        frame.effects.place = place;
                        frame.flushed = true;
                        last = Some(point);
                    }
                }
                last.map(|LogPoint { seq, chain, .. }| Input::Flushed { seq, chain })
            }
        };
        if let Some(input) = input {
            self.step(at.node, shard, input);
        }
    }

    pub(super) fn flush_index(&mut self, at: At) {
        let idle = self.chance(30);
        let Some(process) = self.process(at) else { return };
        let is_damaged = !process.reader.quarantine().first_of_each().is_empty();
        let kept = process.volume.restarts().keep_in(&process.index, is_damaged);
        if let Err(error) = kept.and_then(|()| process.index.flush()) {
            return self.judge(Law::OwnChecks, Err(error.to_string()));
        }
        if idle && process.queue.is_idle() && process.volume.write_idle_round().is_err() {
            return self.crash(at.node, true);
        }
        self.met.met("disk: index flushed");
        self.prepare(at);
        let delay = self.swarm.checkpoint / 2 + self.some(self.swarm.checkpoint);
        self.after(delay, Event::FlushIndex(at));
    }

    /// As the thread that makes files ahead.
    fn prepare(&mut self, at: At) {
        let Some(process) = self.process(at) else { return };
        let prepared = process.volume.prepare();
        let gone = self.nodes.get(&at.node).is_some_and(|node| node.disk.crashed());
        match prepared {
            Ok(()) => {}
            Err(WriteError::NoSpace) if !gone => self.met.met("disk: no room for a file ahead"),
            Err(_) => self.crash(at.node, true),
        }
    }

    /// There is room again.
    pub(super) fn disk_freed(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.full = false;
        node.disk.set_capacity(u64::MAX);
        if let Some(at) = self.here(id) {
            self.prepare(at);
        }
    }

    /// How far a node's disk has a log.
    pub(super) fn stored_end(&self, id: NodeId, shard: ShardId) -> meridian_types::Seq {
        self.nodes
            .get(&id)
            .and_then(|node| node.stored.get(&shard))
            .map_or_else(Default::default, stored::StoredLog::last)
    }
}
