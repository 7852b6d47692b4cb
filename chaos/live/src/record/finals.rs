//! What every region holds in the end: waits until all copies agree, then reads every lane in every region.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_sdk::verify::{RemoteCopy, Report, verify};
use meridian_sdk::{Client, ConsumerOptions, Item};

use crate::record::lane_name;
use crate::record::value::event_id;
use crate::trouble::{Context as _, Trouble};
use crate::world::World;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const READ_WITHIN: Duration = Duration::from_secs(120);

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where in its lane.
    pub offset: u64,
    /// Which event.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its hybrid logical time.
    pub hlc: u64,
}

/// What all regions hold.
#[derive(Debug)]
pub struct Finals {
    /// By region and lane.
    pub regions: BTreeMap<String, BTreeMap<String, Vec<Row>>>,
    /// What `verify` says of the bytes on the disks.
    pub report: Report,
}

/// Waits until all copies agree, or for so long; then reads them.
///
/// # Errors
/// A region cannot be read.
pub fn read_finals(world: &World, stream: &str, within: Duration) -> Result<Finals, Trouble> {
    let report = agree(world, stream, within)?;
    let mut regions = BTreeMap::new();
    for (number, name) in (1..).zip(world.regions()) {
        regions.insert(name.clone(), read_lanes(world, number, stream)?);
    }
    Ok(Finals { regions, report })
}

/// Everything that one region holds now.
///
/// # Errors
/// It cannot be read to its end.
pub fn read_lanes(world: &World, region: u8, stream: &str) -> Result<BTreeMap<String, Vec<Row>>, Trouble> {
    let (endpoints, stream) = (world.endpoints(region), stream.to_owned());
    world.clients.run(async move {
        tokio::time::timeout(READ_WITHIN, read(endpoints, stream)).await.context("reading to the end")?
    })?
}

/// Asks again and again; gives the last answer, whatever it is.
pub(crate) fn agree(world: &World, stream: &str, within: Duration) -> Result<Report, Trouble> {
    // Each node for itself: replicas of a region have to be alike as well as regions' copies.
    let nodes: Vec<(String, String)> = world
        .in_use()
        .into_iter()
        .map(|index| (world.node(index).name.clone(), world.endpoint(index)))
        .collect();
    let stream = stream.to_owned();
    world.clients.run(async move {
        let copies = nodes.into_iter().map(|(name, endpoint)| {
            let client = crate::world::client_of_one(endpoint, Duration::from_secs(10))?;
            Ok(RemoteCopy::new(name, stream.clone(), &client))
        });
        let copies: Vec<RemoteCopy> = copies.collect::<Result<_, Trouble>>()?;
        let until = Instant::now() + within;
        loop {
            let report = verify(&stream, &copies).await;
            if report.agree || Instant::now() > until {
                return Ok(report);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?
}

/// What one node gives to a reader, and what it said where it gave no more.
#[derive(Debug, Default)]
pub struct Reading {
    /// By lane.
    pub lanes: BTreeMap<String, Vec<Row>>,
    /// Why reading ended before everything was given.
    pub ended: Option<String>,
}

/// What one node alone gives, from the start on.
///
/// # Errors
/// The world has ended.
pub fn read_node(world: &World, index: usize, stream: &str, within: Duration) -> Result<Reading, Trouble> {
    let (endpoint, stream) = (world.endpoint(index), stream.to_owned());
    world.clients.run(async move {
        let mut lanes = BTreeMap::new();
        let client = crate::world::client_of_one(endpoint, within)?;
        let read = read_into(&mut lanes, &client, &stream);
        let ended = match tokio::time::timeout(within, read).await {
            Ok(read) => read.err().map(|trouble| trouble.to_string()),
            Err(_) => Some(format!("nothing more came within {within:?}")),
        };
        Ok(Reading { lanes, ended })
    })?
}

async fn read(endpoints: Vec<String>, stream: String) -> Result<BTreeMap<String, Vec<Row>>, Trouble> {
    let mut lanes = BTreeMap::new();
    read_into(&mut lanes, &crate::world::client(endpoints, READ_WITHIN)?, &stream).await?;
    Ok(lanes)
}

async fn read_into(
    lanes: &mut BTreeMap<String, Vec<Row>>,
    client: &Client,
    stream: &str,
) -> Result<(), Trouble> {
    let mut consumer = client.consumer(stream, ConsumerOptions::default()).context("a consumer")?;
    loop {
        match consumer
            .next()
            .await
            .map_err(|error| Trouble::broken(format!("reading to the end: {error}")))?
        {
            Item::Event(event) => lanes.entry(lane_name(&event.lane)).or_default().push(Row {
                offset: event.offset.0,
                id: event_id(event.value.as_ref()),
                key: String::from_utf8_lossy(event.key.as_deref().unwrap_or_default()).into_owned(),
                hlc: event.hlc.0,
            }),
            Item::Gap(gap) => return Err(Trouble::broken(format!("a gap in the end: {gap:?}"))),
            Item::Mark(mark) if mark.caught_up => return Ok(()),
            Item::Mark(_) => {}
        }
    }
}
