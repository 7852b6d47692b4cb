//! What a node does with what its region wrote under an incarnation that is over (fault 22): it keeps what is applied,
//! gives up the rest before anyone sees it, takes back what other regions have, and stores no retry a second time.

mod node;

use std::time::Duration;

use meridian_storage::{Frame, PowerLoss};
use meridian_types::{Incarnation, Origin, Seq, ShardId, ShardNo};
use node::{HOME, Machine, Process, STREAM, home, partition_in, publish, runtime};

const NEXT: Origin = Origin { incarnation: Incarnation(2), ..HOME };

/// Publishes batches `from..to`, each of two events, to shard 0.
async fn fill(process: &Process, from: i32, to: i32) {
    let shard = process.host.home_shard(STREAM, partition_in(0)).expect("a shard at home");
    for number in from..to {
        shard.publish(publish(partition_in(0), number * 2, 2, 10)).await.expect("an ack");
    }
}

fn log_of(process: &Process, shard: ShardId) -> Vec<Frame> {
    let end = process.host.get(shard).expect("open").progress().applied;
    let (reader, mut log) = (process.host.reader(), Vec::new());
    while log.len() < end.0 as usize {
        log.extend(reader.frames(shard, Seq(log.len() as u64 + 1), 10_000).expect("readable"));
    }
    log
}

/// A node of incarnation 1 with three batches that the index has flushed and three that it has not; the volume tells of two of
/// those that they were applied, and then its process is killed. Answers with its whole log, as another region may have it.
fn before(machine: &mut Machine) -> Vec<Frame> {
    let runtime = runtime();
    let (process, whole) = runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        assert!(process.settled().await);
        fill(&process, 0, 3).await;
        process.host.flush_index().await;
        fill(&process, 3, 6).await;
        let whole = log_of(&process, home(0));
        (process, whole)
    });
    drop(runtime);
    machine.kill(process);
    machine.disk.kill();
    whole
}

#[test]
fn what_is_above_the_applied_mark_is_given_up_and_comes_back_from_where_it_reached() {
    let mut machine = Machine::new(22);
    let whole = before(&mut machine);
    assert_eq!(whole.len(), 7, "an epoch's start and six batches");
    machine.home = NEXT;
    for life in 0..3 {
        let runtime = runtime();
        let process = runtime.block_on(async {
            let process = machine.start().expect("a disk that works");
            let past = process.host.get(home(0)).expect("a copy of what was");
            let mut watch = past.watch();
            watch.wait_for(|progress| progress.leads.is_some()).await.expect("a task");
            let progress = past.progress();
            assert_eq!((progress.appended, progress.applied), (Seq(6), Seq(6)), "life {life}");
            assert!(log_of(&process, home(0)) == whole[..6], "life {life}: the same bytes");
            if life == 2 {
                // From a region that had one frame more.
                assert!(past.copy(progress.leads.expect("it leads"), whole[5..7].to_vec()).await);
                watch.wait_for(|progress| progress.applied == Seq(7)).await.expect("a task");
                assert!(log_of(&process, home(0)) == whole);
                process.host.flush_index().await;
            }
            process
        });
        drop(runtime);
        machine.kill(process);
        machine.disk.lose_power(PowerLoss::Nothing);
    }
    let runtime = runtime();
    runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        assert!(log_of(&process, home(0)) == whole, "what came back stays");
        assert!(process.recovered.damage.is_empty(), "{:?}", process.recovered.damage);
    });
}

/// Without another frame, too, the volume is told what is applied.
#[test]
fn what_was_applied_last_is_written_down_soon() {
    let mut machine = Machine::new(24);
    machine.mark_after = Duration::from_millis(1);
    machine.idle = Duration::from_secs(3600);
    let runtime = runtime();
    let process = runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        assert!(process.settled().await);
        fill(&process, 0, 1).await;
        let mut watch = process.host.get(home(0)).expect("a shard at home").watch();
        watch.wait_for(|progress| progress.marked == Seq(2)).await.expect("a task");
        process
    });
    drop(runtime);
    machine.kill(process);
    machine.disk.lose_power(PowerLoss::Nothing);
    machine.home = NEXT;
    let runtime = self::runtime();
    runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        let mut watch = process.host.get(home(0)).expect("a copy of what was").watch();
        let applied = watch.wait_for(|progress| progress.applied == Seq(2)).await;
        applied.expect("a task: an epoch's start and a batch");
    });
}

#[test]
fn a_retry_is_answered_from_the_incarnation_that_has_it_and_the_rest_goes_on() {
    let mut machine = Machine::new(23);
    let _ = before(&mut machine);
    machine.home = NEXT;
    let runtime = runtime();
    runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        assert!(process.settled().await);
        let past = process.host.get(home(0)).expect("a copy of what was");
        past.watch().wait_for(|progress| progress.applied == Seq(6)).await.expect("a task");

        let now = process.host.home_shard(STREAM, partition_in(0)).expect("a shard at home");
        assert_eq!(now.id, ShardId { origin: NEXT, no: ShardNo(0) });
        // The client had sent six batches and heard of none. Five came back, one was lost with the region.
        for number in 0..6 {
            let ack = now.publish(publish(partition_in(0), number * 2, 2, 10)).await.expect("an ack");
            let is_past = number < 5;
            assert_eq!((ack.duplicate, ack.lane.origin == HOME), (is_past, is_past), "batch {number}");
            let offset = if is_past { number as u64 * 2 } else { 0 };
            assert_eq!(ack.base_offset.0, offset, "batch {number}");
        }
        // And each of them again.
        for number in 1..6 {
            let again = now.publish(publish(partition_in(0), number * 2, 2, 10)).await.expect("an ack");
            assert!(again.duplicate, "batch {number}");
        }
        assert_eq!(log_of(&process, now.id).len(), 2, "an epoch's start and the one that was lost");
    });
}
