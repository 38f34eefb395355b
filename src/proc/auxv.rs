//! `/proc/PID/auxv`: what the kernel told the program at exec.

use super::text::ParseError;

/// Parses the content of an `auxv` file: 64-bit words, keys and values in turn.
///
/// The last pair is `AT_NULL`; an empty file means there is no address space.
///
/// # Errors
/// A length that is not whole pairs, as a 32-bit program has them.
///
/// # Sources
/// `proc_pid_auxv(5)`, getauxval(3).
pub fn parse_auxv(bytes: &[u8]) -> Result<Vec<u64>, ParseError> {
    let mut pairs = bytes.chunks_exact(16);
    let words = pairs.by_ref().flat_map(|pair| pair.chunks_exact(8));
    let words = words.filter_map(|word| word.try_into().ok().map(u64::from_ne_bytes));
    let words = words.collect();
    match pairs.remainder() {
        b"" => Ok(words),
        rest => Err(ParseError::new(0, "pairs of 64-bit words", rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_order() {
        let words = [33, 0x7fff_0000_1000, 0, u64::MAX];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(parse_auxv(&bytes), Ok(words.to_vec()));
        assert_eq!(parse_auxv(b""), Ok(vec![]));
        for cut in [1, 8, 15, 31] {
            assert!(parse_auxv(&bytes[..cut]).is_err());
        }
    }
}
