//! `/proc/PID/limits`.

/// The soft limit on data (`RLIMIT_DATA`), in bytes; `None` without a limit.
#[must_use]
pub fn parse_data_limit(limits: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"Max data size";
    let line = limits
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(NAME))?;
    let word = line.trim_ascii_start().split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_data_limit;

    #[test]
    fn a_limit_and_none() {
        let text = |word: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max file size             77                   unlimited            bytes     \n\
                 Max data size             {word:<20} 99                   bytes     \n"
            )
        };
        assert_eq!(parse_data_limit(text("4096").as_bytes()), Some(4096));
        assert_eq!(parse_data_limit(text("0").as_bytes()), Some(0));
        assert_eq!(parse_data_limit(text("unlimited").as_bytes()), None);
        assert_eq!(parse_data_limit(b""), None);
    }
}
