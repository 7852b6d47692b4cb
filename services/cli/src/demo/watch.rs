//! What each region holds, and how each link lags, while it happens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_sdk::v1::link;
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
    let links: Vec<_> = lag
        .inbound
        .iter()
        .map(|link| {
            let behind = link.backlog.unwrap_or_default();
            if link.state() == link::State::Connecting {
                return format!("{} out of reach", link.origin);
            }
            match behind.events {
                0 => format!("{} 0 behind", link.origin),
                events => {
                    let age = human::time(Duration::from_millis(behind.oldest_ms));
                    format!("{} {} behind ({age})", link.origin, human::count(events))
                }
            }
        })
        .collect();
    Ok(format!("holds {:>9} events; links: {}", human::count(held), links.join(", ")))
}
