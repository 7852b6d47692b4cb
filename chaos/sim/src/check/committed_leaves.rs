//! Law 4: what another region, or a consumer, is shown is committed in its origin.

use meridian_storage::Frame;
use meridian_types::NodeId;

use super::truth::Truth;

/// These frames leave a node.
pub fn leave(truth: &Truth, node: NodeId, to: &str, frames: &[Frame]) -> Result<(), String> {
    for frame in frames {
        let (shard, seq) = (frame.header.shard_id(), frame.header.seq);
        match truth.chain(shard, seq) {
            Some(chain) if chain == frame.header.chain => {}
            Some(_) => {
                return Err(format!(
                    "node {node} shows {to} another frame {seq} of shard {shard} than is committed"
                ));
            }
            None => {
                return Err(format!(
                    "node {node} shows {to} frame {seq} of shard {shard}, which is committed up to {}",
                    truth.end(shard)
                ));
            }
        }
    }
    Ok(())
}
