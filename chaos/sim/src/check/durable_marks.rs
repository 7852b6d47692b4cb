//! What a source shows as durable in another region is the word of that region's newest leadership of the copy, and does not
//! go back within it (DESIGN §5).

use std::collections::BTreeMap;

use meridian_mirror::DurableMark;
use meridian_types::{LeaderEpoch, NodeId, Seq, ShardId};

/// Who has said what to whom: by source process, shard and region.
type To = (NodeId, u64, ShardId, usize);

/// The newest word that each source process was given.
#[derive(Debug, Default)]
pub struct DurableMarks {
    newest: BTreeMap<To, ((u32, LeaderEpoch), Seq)>,
}

impl DurableMarks {
    /// A source was given `mark`, and shows `shown`.
    pub fn told(&mut self, to: To, mark: DurableMark, shown: DurableMark) -> Result<(), String> {
        let newest = self.newest.entry(to).or_default();
        *newest = (*newest).max((mark.hosting, mark.seq));
        if (shown.hosting, shown.seq) == *newest {
            return Ok(());
        }
        Err(format!(
            "node {} shows shard {} as durable in region {} up to {} under {:?}, and was told {} under {:?}",
            to.0, to.2, to.3, shown.seq, shown.hosting, newest.1, newest.0
        ))
    }
}
