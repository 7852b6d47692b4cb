//! What each region holds, and how each link lags, while it happens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_sdk::v1::{Link, link};
use meridian_sdk::{Client, SdkError};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::publish::Acked;
use super::screen::Screen;
use crate::human;

const EVERY: Duration = Duration::from_millis(500);
/// A region that is dead must not hold up the picture of the others.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// How many events a region holds of a stream.
pub async fn held(client: &Client, stream: &str) -> Result<u64, SdkError> {
    let lanes = client.admin().list_lanes(stream).await?;
    Ok(lanes.iter().map(|lane| lane.end.get() - lane.start.get()).sum())
}

/// Looks at every region twice a second, until aborted.
pub fn start(
    clients: &[Client],
    stream: &str,
    regions: &'static [&'static str],
    screen: Arc<Screen>,
    acked: Acked,
) -> JoinHandle<()> {
    let (clients, stream) = (clients.to_vec(), stream.to_owned());
    tokio::spawn(async move {
        loop {
            let looks = clients.iter().map(|client| timeout(ANSWER_WITHIN, look(client, &stream)));
            let looks = futures::future::join_all(looks).await;
            let rows = regions.iter().zip(looks).map(|(region, look)| match look {
                Ok(Ok(text)) => format!("{region} {text}"),
                Ok(Err(_)) | Err(_) => format!("{region} does not answer"),
            });
            let total = acked.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            screen.show(total, rows.collect());
            sleep(EVERY).await;
        }
    })
}

async fn look(client: &Client, stream: &str) -> Result<String, SdkError> {
    let held = held(client, stream).await?;
    let lag = client.admin().lag().await?;
    let links: Vec<_> = lag.inbound.iter().map(behind).collect();
    Ok(format!("holds {:>9} events; links: {}", human::count(held), links.join(", ")))
}

/// How far a link is. One that comes through another region knows only what that region has.
fn behind(link: &Link) -> String {
    let from = match link.relay.as_str() {
        "" => link.origin.clone(),
        relay => format!("{} through {relay}", link.origin),
    };
    if link.state() == link::State::Connecting {
        return format!("{from} out of reach");
    }
    let Some(backlog) = &link.backlog else { return format!("{from} not known") };
    match backlog.events {
        0 => format!("{from} 0 behind"),
        events => {
            let age = human::time(Duration::from_millis(backlog.oldest_ms));
            format!("{from} {} behind ({age})", human::count(events))
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_sdk::v1::Backlog;

    use super::*;

    #[test]
    fn a_link_says_through_whom_and_what_it_does_not_know() {
        let link = |state, relay: &str, backlog| Link {
            origin: "eu".into(),
            relay: relay.into(),
            state: i32::from(state),
            backlog,
            ..Link::default()
        };
        let backlog = |events| Some(Backlog { events, oldest_ms: 2000, ..Backlog::default() });
        use link::State::{Connecting, Live};
        assert_eq!(behind(&link(Connecting, "", backlog(3))), "eu out of reach");
        assert_eq!(behind(&link(Live, "ap", backlog(0))), "eu through ap 0 behind");
        assert!(behind(&link(Live, "", backlog(1200))).starts_with("eu 1,200 behind ("));
        assert_eq!(behind(&link(Live, "", None)), "eu not known");
    }
}
