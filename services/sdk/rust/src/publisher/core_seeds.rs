//! The publisher's laws over seeds, against servers that keep sequences as Kafka does.

use std::collections::{HashMap, VecDeque};

use rand::RngExt as _;

use super::*;

/// What a node answered to a request.
type Said = (usize, PublishBatchesRequest, Result<(u64, bool), Reason>);

/// The next sequence and the last five batches: (sequence, events, offset).
type Sequences = (i32, VecDeque<(i32, i32, u64)>);

/// What a server keeps for each (producer, partition), as Kafka's ProducerStateManager does.
#[derive(Default)]
struct Server {
    logs: HashMap<u32, Vec<u64>>,
    producers: HashMap<(i64, u32), Sequences>,
}

impl Server {
    fn append(&mut self, request: &PublishBatchesRequest) -> Result<(u64, bool), Reason> {
        let (producer, sequence, numbers) = content(request);
        if sequence != 0 && !self.producers.contains_key(&(producer, request.partition)) {
            return Err(Reason::ProducerExpired);
        }
        let log = self.logs.entry(request.partition).or_default();
        let known = self.producers.entry((producer, request.partition));
        let (next, last) = known.or_insert_with(|| (0, VecDeque::new()));
        let events = numbers.len() as i32;
        if let Some(at) = last.iter().find(|(s, e, _)| (*s, *e) == (sequence, events)) {
            return Ok((at.2, true));
        }
        if sequence != *next {
            return Err(Reason::OutOfSequence);
        }
        let offset = log.len() as u64;
        log.extend(numbers);
        *next += events;
        last.push_back((sequence, events, offset));
        if last.len() > 5 {
            last.pop_front();
        }
        Ok((offset, false))
    }
}

/// Thousands of schedules: requests and answers are lost with connections, servers are overloaded, answers change places.
#[test]
fn over_seeds_every_event_is_stored_once_and_in_order_and_acknowledged_where_it_is() {
    for seed in 0..3000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let partitions = rng.random_range(1..4);
        let mut bench = Bench::new(partitions, rng.random_range(1..400));
        let mut server = Server::default();
        let (mut wire, mut ghosts, mut answers) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let mut places: HashMap<u64, (u32, u64)> = HashMap::new();
        let total = 120;
        let mut sent: Vec<Vec<u64>> = vec![vec![]; partitions as usize];
        let mut connected = false;
        let mut steps = 0;
        while (places.len() as u64) < total {
            steps += 1;
            assert!(steps < 50_000, "seed {seed}: no end");
            match rng.random_range(0..13) {
                0..3 if bench.next < total => {
                    let partition = rng.random_range(0..partitions);
                    let number = bench.next;
                    let value = Some(Bytes::copy_from_slice(&number.to_be_bytes()));
                    let event = Event { value, timestamp: Timestamp(1), ..Event::default() };
                    let place = Some(meridian_types::Partition(partition));
                    bench.core.push(bench.now, &event, place, number).unwrap();
                    bench.next += 1;
                    sent[partition as usize].push(number);
                }
                3..6 => wire.extend(bench.core.next_request(bench.now, NODE)),
                6..8 => {
                    if let Some(request) = wire.pop_front() {
                        answers.push(if rng.random_bool(0.1) {
                            (request, Err(Reason::Overloaded))
                        } else {
                            let result = server.append(&request);
                            (request, result)
                        });
                    }
                }
                8..10 if !answers.is_empty() => {
                    let at = rng.random_range(0..answers.len());
                    match answers.remove(at) {
                        (request, Ok((offset, duplicate))) => {
                            bench.core.on_answer(bench.now, published(&request, offset, duplicate));
                        }
                        (request, Err(reason)) => bench.refuse(&request, reason),
                    }
                }
                12 => {
                    if let Some(request) = ghosts.pop_front() {
                        let _ = server.append(&request);
                    }
                }
                10 if connected && rng.random_bool(0.3) => {
                    // What is on the wire may arrive all the same, late too; its answers never.
                    if rng.random_bool(0.5) {
                        ghosts.append(&mut wire);
                    }
                    wire.clear();
                    answers.clear();
                    bench.core.on_disconnected(NODE, None);
                    connected = false;
                }
                _ => {
                    if !connected {
                        bench.core.on_connected(bench.now, NODE);
                        connected = true;
                    }
                    if bench.core.wants_session() {
                        bench.session();
                    }
                    bench.pass(Duration::from_millis(rng.random_range(0..300)));
                }
            }
            for Outcome { waiters, result } in bench.core.take_outcomes() {
                let place = result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                for (index, waiter) in waiters.into_iter().enumerate() {
                    let at = (place.lane.partition.0, place.first.0 + index as u64);
                    assert!(places.insert(waiter, at).is_none(), "seed {seed}: two outcomes");
                }
            }
        }
        for (partition, sent) in sent.iter().enumerate() {
            let log = server.logs.remove(&(partition as u32)).unwrap_or_default();
            assert_eq!(&log, sent, "seed {seed}: partition {partition}");
            for (offset, number) in log.iter().enumerate() {
                assert_eq!(places[number], (partition as u32, offset as u64), "seed {seed}");
            }
        }
    }
}

/// The same with leaders that move, nodes that hang and are left, and nodes that were deposed and do not know it.
#[test]
fn over_seeds_and_nodes_every_event_is_stored_once_and_in_order() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (partitions, nodes) = (rng.random_range(1..4u32), rng.random_range(2..4usize));
        let mut bench = Bench::new(partitions, rng.random_range(1..400));
        let mut server = Server::default();
        let mut leaders: Vec<usize> = (0..partitions).map(|_| rng.random_range(0..nodes)).collect();
        let mut targets: Vec<NodeIndex> = vec![NODE; partitions as usize];
        bench.core.set_targets(bench.now, &targets, true);
        let mut wires: Vec<VecDeque<PublishBatchesRequest>> = vec![VecDeque::new(); nodes];
        let mut answers: Vec<Said> = Vec::new();
        let mut ghosts: VecDeque<PublishBatchesRequest> = VecDeque::new();
        let mut connected = vec![false; nodes];
        let mut places: HashMap<u64, (u32, u64)> = HashMap::new();
        let mut sent: Vec<Vec<u64>> = vec![vec![]; partitions as usize];
        let total = 120;
        let mut steps = 0;
        while (places.len() as u64) < total {
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: no end");
            let node = rng.random_range(0..nodes);
            let index = NodeIndex(node);
            match rng.random_range(0..16) {
                0..3 if bench.next < total => {
                    let partition = rng.random_range(0..partitions);
                    let number = bench.next;
                    let value = Some(Bytes::copy_from_slice(&number.to_be_bytes()));
                    let event = Event { value, timestamp: Timestamp(1), ..Event::default() };
                    let place = Some(meridian_types::Partition(partition));
                    bench.core.push(bench.now, &event, place, number).unwrap();
                    bench.next += 1;
                    sent[partition as usize].push(number);
                }
                3..6 => wires[node].extend(bench.core.next_request(bench.now, index)),
                6..9 => {
                    if let Some(request) = wires[node].pop_front() {
                        let is_leader = leaders[request.partition as usize] == node;
                        let result = match rng.random_range(0..20) {
                            0 => Err(Reason::Overloaded),
                            // It led once, and knows nothing of what came after.
                            1 if !is_leader => Err(Reason::OutOfSequence),
                            2..8 if !is_leader => Err(Reason::NotLeader),
                            // The leader takes it, or the node passes it on to the leader.
                            _ => server.append(&request),
                        };
                        answers.push((node, request, result));
                    }
                }
                9..12 if !answers.is_empty() => {
                    let at = rng.random_range(0..answers.len());
                    match answers.remove(at) {
                        (_, request, Ok((offset, duplicate))) => {
                            bench.core.on_answer(bench.now, published(&request, offset, duplicate));
                        }
                        (_, request, Err(reason)) => bench.refuse(&request, reason),
                    }
                }
                12 if connected[node] && rng.random_bool(0.3) => {
                    if rng.random_bool(0.5) {
                        ghosts.append(&mut wires[node]);
                    }
                    wires[node].clear();
                    answers.retain(|(of, ..)| *of != node);
                    bench.core.on_disconnected(index, None);
                    connected[node] = false;
                }
                13 => {
                    if rng.random_bool(0.2) {
                        leaders[rng.random_range(0..partitions as usize)] = node;
                    }
                    // What the client hears of it is late, and in part wrong.
                    if rng.random_bool(0.5) {
                        let partition = rng.random_range(0..partitions as usize);
                        let right = rng.random_bool(0.7);
                        targets[partition] = NodeIndex(if right { leaders[partition] } else { node });
                        bench.core.set_targets(bench.now, &targets, true);
                    }
                }
                14 => {
                    if let Some(request) = ghosts.pop_front() {
                        let _ = server.append(&request);
                    }
                }
                _ => {
                    if !connected[node] {
                        bench.core.on_connected(bench.now, index);
                        connected[node] = true;
                    }
                    if bench.core.wants_session() {
                        bench.session();
                    }
                    bench.pass(Duration::from_millis(rng.random_range(0..200)));
                }
            }
            for Outcome { waiters, result } in bench.core.take_outcomes() {
                let place = result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                for (index, waiter) in waiters.into_iter().enumerate() {
                    let at = (place.lane.partition.0, place.first.0 + index as u64);
                    assert!(places.insert(waiter, at).is_none(), "seed {seed}: two outcomes");
                }
            }
        }
        for (partition, sent) in sent.iter().enumerate() {
            let log = server.logs.remove(&(partition as u32)).unwrap_or_default();
            assert_eq!(&log, sent, "seed {seed}: partition {partition}");
            for (offset, number) in log.iter().enumerate() {
                assert_eq!(places[number], (partition as u32, offset as u64), "seed {seed}");
            }
        }
    }
}
