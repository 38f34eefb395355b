//! Device numbers as the kernel's text files write them: `major:minor`.

use super::text::unsigned;

/// A device number in its two parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The kind of device.
    pub major: u32,
    /// The device among those of its kind.
    pub minor: u32,
}

impl Device {
    /// The number in `st_dev`'s form.
    #[must_use]
    pub fn number(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }

    /// The two parts of a number in `st_dev`'s form.
    #[must_use]
    pub fn of_number(number: u64) -> Self {
        Self {
            major: libc::major(number),
            minor: libc::minor(number),
        }
    }

    pub(super) fn parse(word: &[u8], radix: u32) -> Option<Self> {
        let colon = word.iter().position(|byte| *byte == b':')?;
        let part = |digits| u32::try_from(unsigned(digits, radix)?).ok();
        Some(Self {
            major: part(&word[..colon])?,
            minor: part(&word[colon + 1..])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_radixes_and_the_form_of_stat() {
        let device = Device::parse(b"103:1048575", 10).unwrap();
        assert_eq!((device.major, device.minor), (103, 1_048_575));
        assert_eq!(Device::parse(b"67:fffff", 16), Some(device));
        assert_eq!(Device::of_number(device.number()), device);
        for bad in [&b"1"[..], b":1", b"1:", b"1:2:3", b"x:1", b"4294967296:0"] {
            assert_eq!(Device::parse(bad, 10), None);
        }
    }
}
