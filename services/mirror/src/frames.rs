//! Whole frames on the wire: header and payload, one after the other.

use bytes::{BufMut, Bytes, BytesMut};
use meridian_storage::{FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader};

/// Why a message of frames is refused. Nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramesError {
    /// One of them is no frame, or damaged on the way.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The message holds another number of frames than it says.
    #[error("{got} frames where {said} were said")]
    Count {
        /// In the message.
        got: usize,
        /// By the message.
        said: u32,
    },
}

/// Joins frames for the wire.
pub fn join_frames(frames: &[Frame]) -> Bytes {
    let mut out = BytesMut::with_capacity(frames.iter().map(Frame::encoded_len).sum());
    for frame in frames {
        out.put_slice(&frame.header.encode());
        out.put_slice(&frame.payload);
    }
    out.freeze()
}

/// Splits what [`join_frames`] joined, checking every CRC. Payloads are slices of `bytes`.
///
/// # Errors
/// [`FramesError`].
pub fn split_frames(mut bytes: Bytes, said: u32) -> Result<Vec<Frame>, FramesError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = FrameHeader::decode(&bytes)?.frame_len();
        if bytes.len() < len {
            return Err(FrameError::Short { have: bytes.len(), need: len.max(FRAME_HEADER_BYTES) }.into());
        }
        frames.push(Frame::parse(bytes.split_to(len))?);
    }
    if frames.len() != said as usize {
        return Err(FramesError::Count { got: frames.len(), said });
    }
    Ok(frames)
}
