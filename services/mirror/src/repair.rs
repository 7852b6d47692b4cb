//! Repairs what is damaged here from whoever has it whole: a node of this region, else one of another.
//!
//! In: what this node's shards have quarantined. Out: the same frames, stored again, but for those that a second look finds
//! whole. The way is that of a mirror's link, so any node that holds the shard can be asked, also one that has left its set,
//! and gives out only what is applied there. What comes is held against the
//! chains on both sides ([`meridian_shard::Proof`]); what does not fit is not stored, and another node is asked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_shard::{Proof, Proven, ReadError, ShardHost, Stretch};
use meridian_types::{NodeId, Seq, ShardId};
use meridian_wire::v1;
use v1::link_request::Request as Out;
use v1::link_response::Response as In;

use crate::hello::{Identity, Vetting};
use crate::links::Dialer;
use crate::session::{Session, open};
use crate::sources::Source;
use crate::split_frames;

/// What may be on its way at a time; one frame may be larger.
const CREDIT_BYTES: u64 = 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A source that says nothing for so long is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait where nobody could help, at first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Whom to ask for a shard's frames, in this order.
pub type RepairSources = Arc<dyn Fn(ShardId) -> Vec<Source> + Send + Sync>;

/// See the module.
pub struct Repairs {
    host: Arc<ShardHost>,
    me: Identity,
    dialer: Arc<dyn Dialer>,
    vetting: Vetting,
    sources: RepairSources,
    /// Kept for the next frames of a round of repairs.
    sessions: HashMap<NodeId, Session>,
    /// Not reached in this round.
    out_of_reach: HashSet<NodeId>,
}

impl Repairs {
    /// Repairs nothing before it runs.
    pub fn new(
        host: Arc<ShardHost>,
        me: Identity,
        dialer: Arc<dyn Dialer>,
        vetting: Vetting,
        sources: RepairSources,
    ) -> Self {
        Self { host, me, dialer, vetting, sources, sessions: HashMap::new(), out_of_reach: HashSet::new() }
    }

    /// For ever.
    pub async fn run(mut self) {
        let quarantine = self.host.reader().quarantine().clone();
        let mut wait = RETRY_MIN;
        loop {
            let mut any = false;
            for (shard, first) in quarantine.first_of_each() {
                let (mut next, mut left, mut reason) = (Some(first), 0, String::new());
                while let Some(seq) = next {
                    let from = match self.repair(shard, seq).await {
                        Ok(after) => {
                            any = true;
                            after
                        }
                        Err(why) => {
                            left += 1;
                            reason = why;
                            seq.next()
                        }
                    };
                    next = quarantine.first_from(shard, from);
                }
                if left > 0 {
                    tracing::error!(%shard, left, reason, "damaged frames cannot be repaired now; it is tried again");
                }
            }
            self.sessions.clear();
            self.out_of_reach.clear();
            if quarantine.first_of_each().is_empty() {
                wait = RETRY_MIN;
                quarantine.news().await;
                continue;
            }
            wait = if any { RETRY_MIN } else { (2 * wait).min(RETRY_MAX) };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = quarantine.news() => {}
            }
        }
    }

    /// Repairs the stretch that this frame is in, or its first part; the frame after what was repaired.
    async fn repair(&mut self, shard: ShardId, seq: Seq) -> Result<Seq, String> {
        let reader = self.host.reader();
        let read = tokio::task::spawn_blocking(move || {
            let stretch = reader.stretch(shard, seq)?;
            let is_whole = stretch.as_ref().is_some_and(|stretch| reader.reread(stretch));
            Ok::<_, ReadError>(stretch.map(|stretch| (stretch, is_whole)))
        });
        let read = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let (stretch, is_whole) = read.ok_or_else(|| format!("the index does not know frame {seq}"))?;
        let (first, last) = (stretch.first, stretch.last);
        if is_whole {
            tracing::debug!(%shard, %first, %last, "frames that recovery could not vouch for are whole");
            return Ok(last.next());
        }
        let mut reason = "there is no other copy".to_owned();
        for source in (self.sources)(shard) {
            if source.node == self.me.node || self.out_of_reach.contains(&source.node) {
                continue;
            }
            match self.ask(&source, &stretch).await {
                Ok(proven) => {
                    let count = self.host.store_again(proven).await.map_err(|error| error.to_string())?;
                    tracing::warn!(%shard, %first, %last, count, node = %source.node, region = %source.region, "damaged frames are repaired");
                    return Ok(Seq(first.0 + count));
                }
                Err(why) => {
                    self.sessions.remove(&source.node);
                    reason = format!("node {} of {}: {why}", source.node, source.region);
                }
            }
        }
        Err(reason)
    }

    async fn ask(&mut self, source: &Source, stretch: &Stretch) -> Result<Proven, String> {
        if !self.sessions.contains_key(&source.node) {
            let opened = open(self.dialer.clone(), self.me.clone(), self.vetting.clone(), source.clone());
            let opened = tokio::time::timeout(CONNECT_WITHIN, opened).await;
            let opened = opened.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let session = opened.inspect_err(|_| {
                self.out_of_reach.insert(source.node);
            })?;
            session.ask(Out::Credit(v1::LinkCredit { bytes: CREDIT_BYTES }));
            self.sessions.insert(source.node, session);
        }
        let session = self.sessions.get_mut(&source.node).ok_or("its connection is gone")?;
        session.ask(Out::Fetch(v1::FetchShard {
            shard: Some(stretch.shard.into()),
            from_seq: stretch.first.0,
            chain_before: stretch.before.0.to_vec().into(),
            through_seq: stretch.last.0,
        }));
        let proven = prove(session, stretch).await;
        session.ask(Out::Stop(v1::StopShard { shard: Some(stretch.shard.into()) }));
        proven
    }
}

async fn prove(session: &mut Session, stretch: &Stretch) -> Result<Proven, String> {
    let mut proof = Proof::of(stretch.clone());
    let mut next = stretch.first;
    loop {
        let message = tokio::time::timeout(ANSWER_WITHIN, session.responses.message()).await;
        let message = message.map_err(|_| "it has nothing to say of them")?;
        let message = message.map_err(|status| status.to_string())?.ok_or("it ended the connection")?;
        match message.response {
            Some(In::Frames(message)) => {
                let bytes = message.frames.len() as u64;
                let frames =
                    split_frames(message.frames, message.count).map_err(|error| error.to_string())?;
                session.ask(Out::Credit(v1::LinkCredit { bytes }));
                for frame in frames {
                    // What was on its way when another stretch was asked for.
                    if frame.header.shard_id() != stretch.shard || frame.header.seq != next {
                        continue;
                    }
                    next = next.next();
                    if proof.take(frame).map_err(|error| error.to_string())? {
                        return proof.meet().map_err(|error| error.to_string());
                    }
                }
            }
            Some(In::Refused(refused)) if is_of(refused.shard.as_ref(), stretch.shard) => {
                return Err(refused.message);
            }
            Some(In::Mark(mark))
                if is_of(mark.shard.as_ref(), stretch.shard) && mark.committed_seq < stretch.last.0 =>
            {
                return Err(format!("it has the shard up to {}", mark.committed_seq));
            }
            _ => {}
        }
    }
}

fn is_of(shard: Option<&v1::ShardRef>, wanted: ShardId) -> bool {
    shard.and_then(|shard| ShardId::try_from(shard).ok()) == Some(wanted)
}
