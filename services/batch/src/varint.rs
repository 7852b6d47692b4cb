//! Zigzag LEB128, as in protobuf's `sint32` and `sint64`, and in Kafka's records.

/// Why a variable-length integer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// The bytes end within it.
    CutShort,
    /// It is longer, or larger, than its type.
    Overflow,
}

/// Reads an unsigned integer of at most `bits` bits, and moves `from` past it.
#[inline]
fn read(from: &mut &[u8], bits: u32) -> Result<u64, VarintError> {
    // Most are of one byte.
    if let Some((&byte, rest)) = from.split_first()
        && byte < 0x80
    {
        *from = rest;
        return Ok(u64::from(byte));
    }
    read_longer(from, bits)
}

fn read_longer(from: &mut &[u8], bits: u32) -> Result<u64, VarintError> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let (&byte, rest) = from.split_first().ok_or(VarintError::CutShort)?;
        let low = u64::from(byte & 0x7f);
        // The last byte has room for only some of its bits.
        if shift + 7 > bits && low >> (bits - shift) != 0 {
            return Err(VarintError::Overflow);
        }
        value |= low << shift;
        *from = rest;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
        if shift >= bits {
            return Err(VarintError::Overflow);
        }
    }
}

/// Reads a `varint`, and moves `from` past it. What Kafka reads is read: longer forms than needed are no error.
pub(crate) fn read_i32(from: &mut &[u8]) -> Result<i32, VarintError> {
    let zigzag = read(from, 32)? as u32;
    Ok((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32))
}

/// Reads a `varlong`, and moves `from` past it.
pub(crate) fn read_i64(from: &mut &[u8]) -> Result<i64, VarintError> {
    let zigzag = read(from, 64)?;
    Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Writes a `varint` or a `varlong`: where both can hold the value their bytes are the same.
pub(crate) fn write(to: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

/// How many bytes [`write`] takes.
pub(crate) const fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        for value in
            [0, -1, 1, 63, -64, 64, 8191, -8192, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN]
        {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            assert_eq!(bytes.len(), size(value), "{value}");
            let mut rest = &bytes[..];
            assert_eq!(read_i64(&mut rest), Ok(value));
            assert!(rest.is_empty());
            if let Ok(small) = i32::try_from(value) {
                assert_eq!(read_i32(&mut &bytes[..]), Ok(small));
            } else {
                assert_eq!(read_i32(&mut &bytes[..]), Err(VarintError::Overflow));
            }
        }
    }

    #[test]
    fn protobufs_vectors() {
        let bytes = |value| {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            bytes
        };
        assert_eq!(bytes(-2), [3]);
        assert_eq!(bytes(150), [0xac, 0x02]);
        assert_eq!(bytes(i64::from(i32::MIN)), [0xff, 0xff, 0xff, 0xff, 0x0f]);
    }

    #[test]
    fn overflow_and_cuts_are_errors() {
        assert_eq!(read_i32(&mut &[0xff, 0xff, 0xff, 0xff, 0x10][..]), Err(VarintError::Overflow));
        assert_eq!(read_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]), Err(VarintError::Overflow));
        let nine = [0xff; 9];
        assert_eq!(read_i64(&mut &[&nine[..], &[0x01]].concat()[..]), Ok(i64::MIN));
        assert_eq!(read_i64(&mut &[&nine[..], &[0x02]].concat()[..]), Err(VarintError::Overflow));
        assert_eq!(read_i64(&mut &[0xff; 11][..]), Err(VarintError::Overflow));
        assert_eq!(read_i64(&mut &nine[..]), Err(VarintError::CutShort));
        assert_eq!(read_i32(&mut &[][..]), Err(VarintError::CutShort));
        assert_eq!(read_i32(&mut &[0x80, 0x00][..]), Ok(0), "longer than needed, as Kafka reads it");
    }
}
