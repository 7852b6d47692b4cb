//! Publishes under one load, the same for every system. Open loops send at due times, whatever the servers do, and count
//! latency from when an event was due, so that a stall counts for all that it held up. Closed loops send as fast as
//! acknowledgements allow, and count it from when an event was handed over.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::setpriority_process;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::cluster::Sender;
use crate::error::BenchError;
use crate::latency::Latencies;
use crate::pace::{Events, Pace, Stamp};
use crate::plan::{Publish, Spans};
use crate::tally::{Published, Tally};

/// Of the thread that sends at due times: on machines whose cores are all busy it would be late, and the load another one. Others, such as a
/// user who may not have it, do without.
const SENDER_NICE: i32 = -10;

/// Publishes for the spans, and waits for every acknowledgement.
///
/// # Errors
/// An event was refused, or not acknowledged in time.
pub async fn publish(
    sender: Sender,
    load: Publish,
    spans: Spans,
    tally: Arc<Tally>,
) -> Result<Published, BenchError> {
    let handle = Handle::current();
    let sending = Arc::clone(&tally);
    // On a thread of its own: the runtime's timers are too coarse for due times, and nothing else is to hold it up.
    let sent = spawn_blocking(move || {
        let mut sender = sender;
        if load.pace.is_some() {
            let _ = setpriority_process(None, SENDER_NICE);
        }
        let sent = handle.block_on(send_all(&mut sender, load, spans, &sending));
        // The thread is used for other things again.
        let _ = setpriority_process(None, 0);
        sent.map(|sent| (sender, sent))
    });
    let (sender, Sent { late, last }) = sent.await??;
    let mut finished = std::pin::pin!(sender.finish());
    loop {
        let before = tally.total();
        match timeout(PATIENCE, &mut finished).await {
            Ok(finished) => {
                finished?;
                return tally.end(late, last);
            }
            // A queue that drains may take long; one that does not drain is given up.
            Err(_) if tally.total() > before => {}
            Err(_) => return Err(BenchError::wrong("events were not acknowledged in time")),
        }
    }
}

/// What the sender knows.
struct Sent {
    late: Latencies,
    last: Duration,
}

async fn send_all(
    sender: &mut Sender,
    load: Publish,
    spans: Spans,
    tally: &Tally,
) -> Result<Sent, BenchError> {
    let events = Events::new(load.size);
    let pace = load.pace.map(Pace::new);
    let clock = tally.clock();
    let end = spans.warm + spans.counted;
    let mut sent = Sent { late: Latencies::new(), last: Duration::ZERO };
    for index in 0.. {
        let due = match pace {
            Some(pace) => {
                let due = pace.due(index);
                clock.sleep_until(due);
                due
            }
            None => {
                tally.room().await;
                clock.now()
            }
        };
        let is_over = load.most.map_or(due >= end, |most| index >= most);
        if is_over || tally.has_failed() {
            break;
        }
        if pace.is_some() {
            sent.last = clock.now();
            if due >= spans.warm {
                sent.late.record(sent.last.saturating_sub(due));
            }
        }
        sender.send(events.key(index), events.value(Stamp { index, due }), due).await?;
    }
    Ok(sent)
}
