//! What coverage calls the branches of the cores: which role of a replica took which input, which input each of the other
//! cores took, and what they wanted done.

use meridian_metadata::driver;
use meridian_metadata::placement::Change;
use meridian_mirror::{FeedInput, LegsInput, LinkEffect, LinkInput, RefusedReason};
use meridian_shard::{Effect, FenceAnswer, Home, Input, Message};

use meridian_storage::{Damage, DamageKind};

use crate::host::Host;

/// A driver that was deposed and does not know it.
pub const DEPOSED: &str = "deposed driver takes something";

/// What a replica is.
pub fn role(host: &Host) -> &'static str {
    let replica = &host.replica;
    match (host.home, replica.leads().is_some(), replica.follows().is_some()) {
        (Home::Origin, true, _) if replica.is_ready() => "leader",
        (Home::Origin, true, _) => "leader, not ready,",
        (Home::Origin, false, true) => "follower",
        (Home::Origin, false, false) => "idle",
        (Home::Copy, true, _) => "copy's leader",
        (Home::Copy, false, true) => "copy's follower",
        (Home::Copy, false, false) => "idle copy",
    }
}

pub fn replica_input(input: &Input) -> &'static str {
    match input {
        Input::Fence { .. } => "Fence",
        Input::Promised { .. } => "Promised",
        Input::Elected(_) => "Elected",
        Input::Connected => "Connected",
        Input::From { message, .. } => self::message(message),
        Input::Publish(_) => "Publish",
        Input::Read { .. } => "Read",
        Input::Copy { .. } => "Copy",
        Input::Flushed { .. } => "what it has flushed",
        Input::Applied(_) => "Applied",
        Input::Begun { .. } => "Begun",
        Input::Sure => "Sure",
        Input::WasApplied(_) => "WasApplied",
    }
}

pub fn legs_input(input: &LegsInput) -> &'static str {
    match input {
        LegsInput::Connected(_) => "link takes Connected",
        LegsInput::Lost(_) => "link takes Lost",
        LegsInput::Copy(..) => "link takes Copy",
        LegsInput::Heard(_, LinkInput::Frames { .. }) => "link takes Frames",
        LegsInput::Heard(_, LinkInput::Mark(..)) => "link takes Mark",
        LegsInput::Heard(_, LinkInput::Withdrawn(_)) => "link takes Withdrawn",
        LegsInput::Heard(_, LinkInput::Pong(_)) => "link takes Pong",
        LegsInput::Refused { reason, .. } => match reason {
            RefusedReason::Behind => "link takes Refused: behind",
            RefusedReason::UnknownShard => "link takes Refused: unknown shard",
            RefusedReason::ChainDiffers => "link takes Refused: chain differs",
            RefusedReason::OriginShorter => "link takes Refused: origin shorter",
            RefusedReason::Damaged => "link takes Refused: damaged",
        },
        LegsInput::Tick => "link takes Tick",
        LegsInput::Heard(..) | LegsInput::Retire(_) => "link takes other",
    }
}

pub fn feed_input(input: &FeedInput) -> &'static str {
    match input {
        FeedInput::Fetch { mark: None, .. } => "feed takes Fetch of what is not there",
        FeedInput::Fetch { .. } => "feed takes Fetch",
        FeedInput::Stop(_) => "feed takes Stop",
        FeedInput::Left(_) => "feed takes Left",
        FeedInput::Credit(_) => "feed takes Credit",
        FeedInput::Withdraw(_) => "feed takes Withdraw",
        FeedInput::Advanced(..) => "feed takes Advanced",
        FeedInput::LookedUp { chain: Ok(Some(_)), .. } => "feed takes LookedUp",
        FeedInput::LookedUp { .. } => "feed takes LookedUp, not found",
        FeedInput::Read { .. } => "feed takes Read",
        FeedInput::TellMarks { .. } => "feed takes TellMarks",
    }
}

pub fn driver_input(input: &driver::Input) -> &'static str {
    match input {
        driver::Input::Tick => "driver takes Tick",
        driver::Input::Heard(_) => "driver takes Heard",
        driver::Input::Suspect { .. } => "driver takes Suspect",
        driver::Input::Fenced { .. } => "driver takes Fenced",
        driver::Input::Changed => "driver takes Changed",
        driver::Input::Refused => "driver takes Refused",
        driver::Input::Wanted(_) => "driver takes Wanted",
    }
}

pub fn message(message: &Message) -> &'static str {
    match message {
        Message::Leads { .. } => "Leads",
        Message::Probe { .. } => "Probe",
        Message::Mismatch { .. } => "Mismatch",
        Message::Match { .. } => "Match",
        Message::Frames { .. } => "Frames",
        Message::Committed { .. } => "Committed",
        Message::Flushed { .. } => "Flushed",
        Message::Confirm { .. } => "Confirm",
        Message::Confirmed { .. } => "Confirmed",
        Message::Fenced { .. } => "Fenced",
    }
}

pub fn damage(damage: &Damage) -> &'static str {
    match &damage.what {
        DamageKind::FileHeader => "damage: a file's header",
        DamageKind::Rounds { .. } => "damage: rounds of which nothing is known",
        DamageKind::Round { hidden: true, .. } => "damage: a round in parts",
        DamageKind::Round { .. } => "damage: frames",
    }
}

pub fn request(request: &LinkEffect) -> &'static str {
    match request {
        LinkEffect::Fetch { .. } => "link: Fetch",
        LinkEffect::Credit(_) => "link: Credit",
        LinkEffect::Withdraw(_) => "link: Withdraw",
        LinkEffect::Stop(_) => "link: Stop",
        LinkEffect::Durable(..) => "link: Durable",
        LinkEffect::Ping => "link: Ping",
        LinkEffect::Append(..) | LinkEffect::Reconnect => "link: other",
    }
}

pub fn change(change: &Change) -> &'static str {
    match change {
        Change::Begin { .. } => "change: Begin",
        Change::Elect { .. } => "change: Elect",
        Change::Create { .. } => "change: Create",
        Change::Learner { node: Some(_), .. } => "change: Learner named",
        Change::Learner { node: None, .. } => "change: Learner dropped",
        Change::Change { .. } => "change: Change",
        Change::Settle { .. } => "change: Settle",
        Change::CancelMove { .. } => "change: CancelMove",
        _ => "change: other",
    }
}

pub fn effect(effect: &Effect) -> &'static str {
    match effect {
        Effect::Append(_) => "effect: Append",
        Effect::Cut { .. } => "effect: Cut",
        Effect::Promise(_) => "effect: Promise",
        Effect::Doubt { .. } => "effect: Doubt",
        Effect::Answer(FenceAnswer::Promised { .. }) => "effect: Answer promised",
        Effect::Answer(FenceAnswer::Refused { .. }) => "effect: Answer refused",
        Effect::Apply { .. } => "effect: Apply",
        Effect::Send { .. } => "effect: Send",
        Effect::Feed { .. } => "effect: Feed",
        Effect::StopFeeding => "effect: StopFeeding",
        Effect::Ack { ack, .. } if ack.duplicate => "effect: Ack of a duplicate",
        Effect::Ack { .. } => "effect: Ack",
        Effect::Reject { .. } => "effect: Reject",
        Effect::Readable { .. } => "effect: Readable",
        Effect::Fault(_) => "effect: Fault",
    }
}
