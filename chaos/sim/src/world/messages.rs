//! The network within a region: messages that take their time, come twice, or are lost with their connection.

use meridian_metadata::driver::Input as DriverInput;
use meridian_shard::{Input, Message};
use meridian_types::{LeaderEpoch, NodeId, ShardId};

use super::{At, Event, Packet, World};
use crate::network::pair;

impl World {
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        // To whatever process is there when it arrives; a connection ends with the process at either end.
        let Some(at) = self.here(to) else { return };
        if self.home(from) != self.home(to) {
            // As `PeerHello::check_neighbour`.
            return self.met.met("network: another incarnation's process is refused");
        }
        if !self.network.is_open(from, to) || self.network.down.contains(&pair(from, to)) {
            self.met.met("network: lost");
            return;
        }
        let delay = if from == to { 50 } else { 50 + self.some(self.swarm.way) };
        let reorder = self.swarm.reorder && from != to;
        let fed = matches!(packet, Packet::Replica(_, Message::Frames { .. } | Message::Committed { .. }));
        let time = self.network.arrival(from, to, self.now + delay, reorder, fed);
        let connection = self.network.connection(from, to);
        // A report may come again when much has happened since: epochs later it must count for nothing.
        let report = matches!(packet, Packet::Replica(_, Message::Flushed { .. }));
        if self.swarm.double && from != to && self.chance(if report { 6 } else { 2 }) {
            self.met.met("network: doubled");
            let longest = if report { 6_000_000 } else { 2 * self.swarm.way };
            let again = time + self.some(longest);
            let packet = Box::new(packet.clone());
            self.at(again, Event::Packet { from, to: at, connection, packet });
        }
        self.at(time, Event::Packet { from, to: at, connection, packet: Box::new(packet) });
    }

    pub(super) fn arrives(&mut self, from: NodeId, to: At, connection: u64, packet: Packet) {
        let stands =
            self.network.connection(from, to.node) == connection && self.network.is_open(from, to.node);
        if !stands || self.process(to).is_none() {
            return;
        }
        let me = to.node;
        match packet {
            Packet::Replica(shard, message) => self.replica_says(from, to, shard, message),
            Packet::Heartbeat(heartbeat) => {
                let now = self.steady();
                if let Some(process) = self.process(to) {
                    process.heard.insert(from, (heartbeat.clone(), now));
                }
                self.drive_all_at(me, &DriverInput::Heard(heartbeat));
            }
            Packet::Fence(epochs) => {
                for (shard, epoch) in epochs {
                    let home = self.home(me);
                    let Some(process) = self.process(to) else { return };
                    let host = process.ensure(me, shard, home);
                    host.fences.push((epoch, from));
                    if host.replica.awaits_begun() {
                        self.ask_placement(to, shard);
                    }
                    self.step(me, shard, Input::Fence { epoch });
                }
            }
            Packet::Fenced(boot, answers) => {
                self.drive_all_at(me, &DriverInput::Fenced { node: from, boot, answers });
            }
            Packet::Tell(elections) => {
                for election in elections {
                    self.elected(
                        me,
                        election.shard,
                        election.elected,
                        election.version,
                        &election.members,
                        election.learner,
                    );
                }
            }
        }
    }

    pub(super) fn replica_says(&mut self, from: NodeId, to: At, shard: ShardId, message: Message) {
        let home = self.home(to.node);
        let Some(process) = self.process(to) else { return };
        let wanted = process.ensure(to.node, shard, home).replica.must_look_up(&message);
        let held = wanted.and_then(|(seq, epoch)| process.newest(shard, seq, epoch));
        if wanted.is_some() {
            self.met.met("replica: looked up below the applied mark");
        }
        if wanted.is_some() && held.is_none() {
            // As `task.rs::look_up`: it cannot be read now, and is asked again once it may have been repaired.
            self.met.met("replica: what it looked up is damaged");
            let message = Box::new(message);
            return self.after(1_000_000, Event::Said { from, to, shard, message });
        }
        self.trace.line(self.now, format_args!("{from} to {} {shard}: {}", to.node, describe(&message)));
        self.step(to.node, shard, Input::From { node: from, message, held });
    }

    /// The connection of a pair ends; if both ways are open a new one follows.
    pub(super) fn reset(&mut self, a: NodeId, b: NodeId) {
        let connection = self.network.reset(a, b);
        self.end_links_between(a, b);
        let delay = 1_000 + self.some(3 * self.swarm.way);
        self.network.down.insert(pair(a, b));
        for (node, peer) in [(a, b), (b, a)] {
            if Self::region_of(a) == Self::region_of(b) {
                self.drive_all_at(node, &DriverInput::Suspect { node: peer });
                if let Some(node) = self.here(node) {
                    self.after(delay, Event::Connected { node, peer, connection });
                }
            }
        }
    }

    pub(super) fn connected(&mut self, at: At, peer: NodeId, connection: u64) {
        let stands = self.network.connection(at.node, peer) == connection;
        if !stands || self.process(at).is_none() {
            return;
        }
        if !self.network.is_connected(at.node, peer) {
            return;
        }
        self.network.down.remove(&pair(at.node, peer));
        let Some(process) = self.process(at) else { return };
        let following: Vec<ShardId> = process
            .hosts
            .iter()
            .filter(|(_, host)| host.replica.follows().is_some_and(|(leader, _)| leader == peer))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in following {
            self.step(at.node, shard, Input::Connected);
        }
    }

    /// Sends a follower what its leader has and it was not sent.
    pub(super) fn pump(&mut self, at: At, shard: ShardId, to: NodeId) {
        let batch = self.swarm.batch;
        let connection = self.network.connection(at.node, to);
        let Some(process) = self.process(at) else { return };
        let quarantine = process.reader.quarantine().clone();
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let (appended, committed) = (host.replica.end().seq, host.replica.marks().committed);
        let Some(pump) = host.pumps.get_mut(&to) else { return };
        pump.awake = false;
        if pump.connection != connection {
            host.pumps.remove(&to);
            return;
        }
        let (epoch, next, told) = (pump.epoch, pump.next, pump.told);
        if next <= appended {
            let mut frames = host.log_from(next, batch);
            let damaged = quarantine.first_from(shard, next);
            frames.retain(|frame| damaged.is_none_or(|damaged| frame.header.seq < damaged));
            if frames.is_empty() {
                // As `feeds.rs`: it is tried again, and may have been repaired.
                if let Some(pump) = host.pumps.get_mut(&to) {
                    pump.awake = true;
                }
                self.met.met("replica: a follower waits for a frame that is damaged");
                return self.after(1_000_000, Event::Pump { at, shard, to });
            }
            let count = frames.len() as u64;
            if let Some(pump) = host.pumps.get_mut(&to) {
                pump.next = meridian_types::Seq(next.0 + count);
                pump.told = committed;
            }
            let message = Message::Frames { epoch, frames, committed };
            self.send(at.node, to, Packet::Replica(shard, message));
            self.wake_pump(at, shard, to);
        } else if committed > told {
            if let Some(pump) = host.pumps.get_mut(&to) {
                pump.told = committed;
            }
            self.send(at.node, to, Packet::Replica(shard, Message::Committed { epoch, seq: committed }));
        }
    }

    pub(super) fn wake_pump(&mut self, at: At, shard: ShardId, to: NodeId) {
        let delay = self.some(self.swarm.way / 4);
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        if let Some(pump) = host.pumps.get_mut(&to).filter(|pump| !pump.awake) {
            pump.awake = true;
            self.after(delay, Event::Pump { at, shard, to });
        }
    }

    /// After a step of a leader.
    pub(super) fn wake_pumps(&mut self, at: At, shard: ShardId) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get(&shard)) else { return };
        let (end, committed) = (host.replica.end().seq, host.replica.marks().committed);
        let due = |pump: &&crate::host::Pump| !pump.awake && (pump.next <= end || pump.told < committed);
        let due: Vec<NodeId> = host.pumps.iter().filter(|(_, pump)| due(pump)).map(|(to, _)| *to).collect();
        for to in due {
            self.wake_pump(at, shard, to);
        }
    }
}

/// The leadership in which it is said.
pub(super) fn epoch_of(message: &Message) -> Option<LeaderEpoch> {
    match message {
        Message::Leads { epoch }
        | Message::Probe { epoch, .. }
        | Message::Mismatch { epoch, .. }
        | Message::Match { epoch, .. }
        | Message::Frames { epoch, .. }
        | Message::Committed { epoch, .. }
        | Message::Flushed { epoch, .. }
        | Message::Confirm { epoch, .. }
        | Message::Confirmed { epoch, .. } => Some(*epoch),
        Message::Fenced { .. } => None,
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::Frames { epoch, frames, committed } => {
            let ends = (frames.first(), frames.last());
            let seq = |frame: Option<&meridian_storage::Frame>| frame.map_or(0, |frame| frame.header.seq.0);
            format!("Frames {}..={} in {epoch}, committed {committed}", seq(ends.0), seq(ends.1))
        }
        Message::Probe { epoch, attempt, at, .. } => {
            format!("Probe {}:{} in {epoch}, {attempt}", at.epoch, at.seq)
        }
        Message::Mismatch { epoch, attempt, mine } => {
            format!("Mismatch {}:{} in {epoch}, {attempt}", mine.epoch, mine.seq)
        }
        Message::Match { epoch, attempt, at, .. } => {
            format!("Match {}:{} in {epoch}, {attempt}", at.epoch, at.seq)
        }
        other => format!("{other:?}"),
    }
}
