//! Protobuf, decoded only if what comes of it is about as large as what came: an empty event takes two bytes on the wire
//! and a hundred in memory, so a message is counted before it is decoded.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::v1::{LinkResponse, PublishRequest, Word};
use crate::{ApiError, Reason};

/// The most events of a Publish.
pub const PUBLISH_EVENTS: usize = 10_000;
/// The most headers of all events of a Publish together.
pub const PUBLISH_HEADERS: usize = 100_000;

/// What precedes a gRPC message: a flag, and the length in four bytes.
pub const GRPC_PREFIX: usize = 5;

/// The longest HTTP/2 frame that a node takes of another node, and a client of a node, in bytes: a batch, or a chunk of a log, is
/// written in one system call, where the default of 16 KiB takes many.
pub const HTTP_FRAME: u32 = 256 * 1024;

/// What lies between a message and HTTP/2 where messages are chunks of a log: of one node to another, so there are few of them.
const CHUNK_BUFFER: usize = 128 * 1024;

/// `PublishRequest.events`.
const EVENTS: u32 = 2;
/// `Event.headers`.
const HEADERS: u32 = 3;

/// The codec of every service.
#[derive(Clone, Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(buffers_of::<T>())
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(ProstCodec::<T, U>::raw_decoder(buffers_of::<U>()))
    }
}

fn buffers_of<M: 'static>() -> BufferSettings {
    let is_chunk = [TypeId::of::<LinkResponse>(), TypeId::of::<Word>()].contains(&TypeId::of::<M>());
    if is_chunk { BufferSettings::new(CHUNK_BUFFER, CHUNK_BUFFER) } else { BufferSettings::default() }
}

/// Counts, then decodes.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The buffer of a message is one piece.
        if TypeId::of::<U>() == TypeId::of::<PublishRequest>() && bytes.chunk().len() == bytes.remaining() {
            count_publish(bytes.chunk())?;
        }
        self.0.decode(bytes)
    }
}

/// Reads a message that came whole.
///
/// # Errors
/// INVALID_ARGUMENT: it is no protobuf, or not this message.
pub fn decode<T: Message + Default>(message: Bytes) -> Result<T, ApiError> {
    T::decode(message).map_err(|error| {
        ApiError::new(Reason::InvalidArgument, format!("the message cannot be read: {error}; send another"))
    })
}

/// A message as gRPC sends it, behind its flag and its length, in a buffer of its own size.
pub fn framed(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(GRPC_PREFIX + message.encoded_len());
    frame_into(message, &mut bytes);
    bytes.into()
}

/// The same, behind others.
pub fn frame_into(message: &impl Message, bytes: &mut Vec<u8>) {
    let prefix = bytes.len();
    bytes.put_bytes(0, GRPC_PREFIX);
    // A vector grows: it never lacks room.
    let _ = message.encode(bytes);
    let len = bytes.len() - prefix - GRPC_PREFIX;
    bytes[prefix + 1..prefix + GRPC_PREFIX]
        .copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

/// The same without its last field: `tag` of type bytes, `len` long, which is to follow. So what is large is sent as it is.
/// The message itself lacks the field.
pub fn framed_before(message: &impl Message, tag: u32, len: usize) -> Bytes {
    // A tag and a length take five and ten bytes at most.
    let field = 5 + 10;
    let mut bytes = Vec::with_capacity(GRPC_PREFIX + message.encoded_len() + field);
    bytes.put_bytes(0, GRPC_PREFIX);
    let _ = message.encode(&mut bytes);
    encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encode_varint(len as u64, &mut bytes);
    let whole = u32::try_from(bytes.len() - GRPC_PREFIX + len).unwrap_or(u32::MAX);
    bytes[1..GRPC_PREFIX].copy_from_slice(&whole.to_be_bytes());
    bytes.into()
}

/// How many parts a Publish has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishCounts {
    /// Its events.
    pub events: usize,
    /// The headers of all of them.
    pub headers: usize,
}

/// Counts the events and headers of an encoded Publish. What is no protobuf is left to the decoder.
///
/// # Errors
/// INVALID_ARGUMENT: more than are taken.
pub fn count_publish(message: &[u8]) -> Result<PublishCounts, ApiError> {
    let (mut events, mut headers) = (0, 0);
    let walked = each_part(message, EVENTS, |event| {
        events += 1;
        let inner = each_part(event, HEADERS, |_| {
            headers += 1;
            headers <= PUBLISH_HEADERS
        });
        inner.is_none_or(|whole| whole) && events <= PUBLISH_EVENTS
    });
    if walked != Some(false) {
        return Ok(PublishCounts { events, headers });
    }
    let (what, limit) = if events > PUBLISH_EVENTS {
        ("events", PUBLISH_EVENTS)
    } else {
        ("headers in all", PUBLISH_HEADERS)
    };
    let message = format!("a publish has at most {limit} {what}: send several, or batches");
    Err(ApiError::new(Reason::InvalidArgument, message).with("limit", limit))
}

/// Calls for each length-delimited field with this tag, until told to stop. `Some(false)`: it was; none: no protobuf.
fn each_part(mut message: &[u8], wanted: u32, mut take: impl FnMut(&[u8]) -> bool) -> Option<bool> {
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message).ok()?;
        if tag == wanted && wire_type == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            let part = message.get(..len)?;
            if !take(part) {
                return Some(false);
            }
            message.advance(len);
        } else {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).ok()?;
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn publish(events: usize, headers: usize) -> Vec<u8> {
        let event = v1::Event { headers: vec![v1::Header::default(); headers], ..v1::Event::default() };
        let stream = Some(v1::StreamRef { tenant: "default".into(), stream: "s".into() });
        PublishRequest { stream, events: vec![event; events], deadline_ms: 7, ..PublishRequest::default() }
            .encode_to_vec()
    }

    #[test]
    fn a_publish_is_counted_before_it_is_decoded() {
        for (events, headers) in [(0, 0), (1, 1), (PUBLISH_EVENTS, 10), (100, PUBLISH_HEADERS / 100)] {
            let counts = PublishCounts { events, headers: events * headers };
            assert_eq!(count_publish(&publish(events, headers)), Ok(counts), "{events} × {headers}");
        }
        for (events, headers) in
            [(PUBLISH_EVENTS + 1, 0), (1, PUBLISH_HEADERS + 1), (101, PUBLISH_HEADERS / 100)]
        {
            let error = count_publish(&publish(events, headers)).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidArgument, "{events} × {headers}");
        }
    }

    #[test]
    fn what_is_no_protobuf_is_left_to_the_decoder() {
        let good = publish(3, 2);
        for len in 0..good.len() {
            assert!(count_publish(&good[..len]).is_ok());
        }
        assert!(count_publish(&[0xff; 64]).is_ok());
        assert!(decode::<PublishRequest>(vec![0xff; 64].into()).is_err());
        // A length beyond the end, and one beyond any address.
        assert!(count_publish(&[0x12, 0x7f, 0]).is_ok());
        let beyond = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(count_publish(&beyond).is_ok());
    }

    #[test]
    fn a_framed_message_is_behind_its_length_and_comes_back() {
        for message in [PublishRequest::default(), PublishRequest { deadline_ms: 7, ..Default::default() }] {
            let framed = framed(&message);
            let len = u32::try_from(framed.len() - GRPC_PREFIX).unwrap();
            assert_eq!((framed[0], &framed[1..GRPC_PREFIX]), (0, &len.to_be_bytes()[..]));
            assert_eq!(decode::<PublishRequest>(framed.slice(GRPC_PREFIX..)), Ok(message));
        }
    }

    #[test]
    fn a_message_before_its_last_field_is_whole_once_that_follows() {
        let mut request = v1::PublishBatchesRequest {
            request_id: 7,
            stream: Some(v1::StreamRef { tenant: "default".into(), stream: "s".into() }),
            partition: 3,
            durability: Some(v1::Durability::default()),
            ..Default::default()
        };
        for len in [0, 1, 127, 128, 70_000] {
            let batch = Bytes::from(vec![len as u8; len]);
            request.batch = Bytes::new();
            let sent = [framed_before(&request, 4, len), batch.clone()].concat();
            let whole = u32::try_from(sent.len() - GRPC_PREFIX).unwrap();
            assert_eq!((sent[0], &sent[1..GRPC_PREFIX]), (0, &whole.to_be_bytes()[..]));
            request.batch = batch;
            let came = decode::<v1::PublishBatchesRequest>(Bytes::from(sent).slice(GRPC_PREFIX..));
            assert_eq!(came.as_ref(), Ok(&request), "{len}");
        }
    }
}
