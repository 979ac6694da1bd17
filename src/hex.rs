//! Bytes as people read them: two hex digits each, sixteen a line.
//!
//! The rule: the same text as pycapa's, since people compare it with what they saw before.

/// Appends `bytes` to `out`, with a newline after each line.
pub(crate) fn dump(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for line in bytes.chunks(16) {
        for (at, byte) in line.iter().enumerate() {
            if at > 0 {
                out.push(b' ');
            }
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_sixteen_bytes_and_the_last_one_what_is_left() {
        let mut out = Vec::new();
        dump(&(0..18).map(|n| n * 15).collect::<Vec<_>>(), &mut out);
        let text = "00 0f 1e 2d 3c 4b 5a 69 78 87 96 a5 b4 c3 d2 e1\nf0 ff\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
