//! What an event says: its id, and text that follows from it. So whoever is given a byte that nobody published sees it.

use bytes::Bytes;

/// What an event that is not as it was published is called in records.
const GARBLED: &str = "garbled";
/// What raw publishers say.
pub(crate) const RAW: &str = "raw";

/// The value of an event, with so many bytes beyond its id.
pub(crate) fn value(id: &str, bytes: usize) -> String {
    format!("{id} {}", padding(id, bytes))
}

/// The id of an event with this value; another one, which was never published, if a byte of it is not as it was.
pub(crate) fn event_id(value: Option<&Bytes>) -> String {
    let text = String::from_utf8_lossy(value.map_or(&[][..], |value| value));
    match text.split_once(' ') {
        Some((id, rest)) if rest == RAW || rest == padding(id, rest.len()) => id.to_owned(),
        _ => format!("{GARBLED} {:.80}", text.escape_debug()),
    }
}

/// Text that no codec makes smaller.
fn padding(id: &str, bytes: usize) -> String {
    let seed = id.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes);
    for _ in 0..bytes {
        // xorshift64: Marsaglia, 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'!' + (state % 90) as u8));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_that_flips_is_seen() {
        for value in [value("us/0/7", 20), format!("us/1-4/3 {RAW}")] {
            let id = event_id(Some(&Bytes::from(value.clone())));
            assert!(!id.is_empty() && value.starts_with(&id), "{id}");
            for bit in 0..value.len() * 8 {
                let mut flipped = value.clone().into_bytes();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(event_id(Some(&flipped.into())), id, "bit {bit} of {value}");
            }
        }
        assert!(event_id(None).starts_with(GARBLED));
    }
}
