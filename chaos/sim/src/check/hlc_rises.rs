//! Law 7: hlc rises within a shard, over leader changes too.

use std::collections::BTreeMap;

use meridian_storage::Frame;
use meridian_types::{Hlc, ShardId};

/// The hlc of each shard's last committed frame.
#[derive(Debug, Default)]
pub struct HlcRises {
    last: BTreeMap<ShardId, Hlc>,
}

impl HlcRises {
    /// A leader appends `frame` after `before`.
    pub fn appended(before: Option<&Frame>, frame: &Frame) -> Result<(), String> {
        let (header, last) = (&frame.header, before.map_or(Hlc::ZERO, |frame| frame.header.hlc));
        if header.hlc > last {
            return Ok(());
        }
        Err(format!(
            "frame {} of shard {} has hlc {} after {last}",
            header.seq,
            header.shard_id(),
            header.hlc
        ))
    }

    /// The next frame is committed.
    pub fn committed(&mut self, frame: &Frame) -> Result<(), String> {
        let header = &frame.header;
        let last = self.last.entry(header.shard_id()).or_default();
        if header.hlc <= *last {
            return Err(format!(
                "frame {} of shard {} is committed with hlc {} after {last}",
                header.seq,
                header.shard_id(),
                header.hlc
            ));
        }
        *last = header.hlc;
        Ok(())
    }
}
