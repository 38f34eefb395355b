//! `/proc/PID/timens_offsets`: how far the clocks of a time namespace are from the machine's.

use super::text::{ParseError, lines};

/// The offsets of a time namespace, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of `CLOCK_MONOTONIC`.
    pub monotonic_ns: i128,
    /// Of `CLOCK_BOOTTIME`.
    pub boottime_ns: i128,
}

/// Parses the content of a `timens_offsets` file.
///
/// # Errors
/// Any line that is not what the kernel documents.
///
/// # Sources
/// time_namespaces(7), since Linux 5.6; kernel/time/namespace.c.
pub fn parse_timens_offsets(text: &[u8]) -> Result<Offsets, ParseError> {
    const NS_PER_S: i128 = 1_000_000_000;
    let mut offsets = Offsets::default();
    for mut line in lines(text) {
        let clock = line;
        // The kernel pads with spaces, and older ones give numbers in place of names.
        let name = line.word("a clock")?.to_vec();
        let seconds: i64 = line.signed("seconds")?;
        let nanoseconds: i64 = line.signed("nanoseconds")?;
        line.end()?;
        let offset = i128::from(seconds) * NS_PER_S + i128::from(nanoseconds);
        match name.as_slice() {
            b"monotonic" | b"1" => offsets.monotonic_ns = offset,
            b"boottime" | b"7" => offsets.boottime_ns = offset,
            _ => return Err(clock.error("monotonic or boottime")),
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_and_backwards() {
        let text = b"monotonic           0         0\nboottime           -2 999999999\n";
        let offsets = parse_timens_offsets(text).unwrap();
        assert_eq!(offsets.monotonic_ns, 0);
        assert_eq!(offsets.boottime_ns, -1_000_000_001);
        let text = b"1 3 5\n7 0 1\n";
        assert_eq!(
            parse_timens_offsets(text).unwrap().monotonic_ns,
            3_000_000_005
        );
    }

    #[test]
    fn strange_lines_are_refused() {
        for bad in [
            &b"monotonic\n"[..],
            b"monotonic 1 x\n",
            b"tai 1 1\n",
            b"boottime 1 2 3\n",
        ] {
            assert!(parse_timens_offsets(bad).is_err());
        }
    }
}
