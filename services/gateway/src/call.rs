//! What a call may bring, by its path.

use meridian_types::limits::{BATCH_BYTES, CURSOR_LANES};
use meridian_wire::{ApiError, Reason};

/// A batch at its limit, and the message around it.
pub(crate) const MESSAGE_BYTES: usize = BATCH_BYTES + 64 * 1024;
/// What a batch takes in the queues of its shard and of the writer beyond its bytes, however small it is.
pub(crate) const BATCH_OVERHEAD: u64 = 2048;
/// A Publish is let in with room for so many batches; what it does not need is given back when it is known.
pub(crate) const PUBLISH_BATCHES: u64 = 32;
/// A cursor of as many lanes as there can be, 16 bytes each, and the message around it.
const SUBSCRIBE_BYTES: usize = 16 * CURSOR_LANES + 64 * 1024;
/// A stream's settings with all the labels that it may have are the largest, with some 20 KiB.
const SMALL_BYTES: usize = 32 * 1024;
/// A message of a call that publishes nothing takes no room up to this size: what is allowed for each request covers it,
/// and who gives credit or asks for health does not wait behind a flood.
const FREE_BYTES: u64 = 64 * 1024;

/// What a call may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// One message of events.
    Publish,
    /// Messages with a batch each.
    PublishBatches,
    /// Where to start, then credit.
    Subscribe,
    /// Small messages of another service.
    SmallMessages,
    /// One small message.
    SmallMessage,
}

impl Call {
    /// The call of a request's path.
    pub fn of(path: &str) -> Self {
        match path {
            "/meridian.v1.EventService/Publish" => Self::Publish,
            "/meridian.v1.EventService/PublishBatches" => Self::PublishBatches,
            "/meridian.v1.EventService/Subscribe" => Self::Subscribe,
            // The only others whose clients may send more than once.
            path if path.ends_with("/ServerReflectionInfo") => Self::SmallMessages,
            _ => Self::SmallMessage,
        }
    }

    /// Whether one message ends what the client may send.
    pub fn has_one_message(self) -> bool {
        matches!(self, Self::Publish | Self::SmallMessage)
    }

    /// Whether the service takes its messages from [`crate::received::Received`].
    pub fn is_received(self) -> bool {
        matches!(self, Self::Publish | Self::PublishBatches | Self::Subscribe)
    }

    /// The room that a message of so many bytes takes.
    ///
    /// # Errors
    /// It is larger than any such message.
    pub fn room(self, bytes: u64) -> Result<u64, ApiError> {
        let limit = match self {
            Self::Publish | Self::PublishBatches => MESSAGE_BYTES,
            Self::Subscribe => SUBSCRIBE_BYTES,
            Self::SmallMessages | Self::SmallMessage => SMALL_BYTES,
        };
        if bytes > limit as u64 {
            let (reason, advice) = match self {
                Self::Publish | Self::PublishBatches => (Reason::BatchTooLarge, "send smaller batches"),
                _ => (Reason::InvalidArgument, "this call needs no more"),
            };
            let message = format!("the message has {bytes} bytes; at most {limit} are taken: {advice}");
            return Err(ApiError::new(reason, message).with("limit", limit));
        }
        Ok(match self {
            Self::Publish => bytes + PUBLISH_BATCHES * BATCH_OVERHEAD,
            Self::PublishBatches => bytes + BATCH_OVERHEAD,
            _ if bytes <= FREE_BYTES => 0,
            _ => bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_publishing_takes_room_for_small_messages() {
        let publish = Call::of("/meridian.v1.EventService/Publish");
        let batches = Call::of("/meridian.v1.EventService/PublishBatches");
        assert_eq!(publish.room(10), Ok(10 + PUBLISH_BATCHES * BATCH_OVERHEAD));
        assert_eq!(batches.room(10), Ok(10 + BATCH_OVERHEAD));
        for path in [
            "/meridian.v1.EventService/Subscribe",
            "/meridian.v1.EventService/InitProducer",
            "/meridian.v1.ClusterService/GetLag",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            let call = Call::of(path);
            assert_eq!(call.room(SMALL_BYTES as u64), Ok(0), "{path}");
            assert_eq!(
                call.room(MESSAGE_BYTES as u64).unwrap_err().reason,
                Reason::InvalidArgument,
                "{path}"
            );
        }
        assert_eq!(Call::of("/meridian.v1.EventService/Subscribe").room(FREE_BYTES + 1), Ok(FREE_BYTES + 1));
        assert_eq!(batches.room(MESSAGE_BYTES as u64 + 1).unwrap_err().reason, Reason::BatchTooLarge);
    }
}
