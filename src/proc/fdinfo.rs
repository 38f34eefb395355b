//! `/proc/PID/fdinfo/FD`: what the kernel tells of a descriptor.

use super::text::ParseError;

/// One target of an epoll, as a `tfd:` line describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollLine {
    /// The number under which it was added.
    pub fd: i32,
    /// `EPOLL*` bits.
    pub events: u32,
    /// The caller's value.
    pub data: u64,
    /// Position of the file.
    pub position: u64,
    /// Its inode.
    pub inode: u64,
    /// Its device, in kernel encoding.
    pub device: u32,
}

/// The setting of a timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerfdLines {
    /// `CLOCK_*`.
    pub clock: u32,
    /// Expirations nobody has read yet.
    pub ticks: u64,
    /// `TFD_TIMER_*` of the last setting.
    pub settime_flags: u32,
    /// Time left: seconds, nanoseconds.
    pub value: (u64, u64),
    /// Period: seconds, nanoseconds.
    pub interval: (u64, u64),
}

/// What a kind of file adds to the common lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `eventfd-count`.
    pub eventfd_count: Option<u64>,
    /// `eventfd-id`: a number no other eventfd has, since Linux 5.2.
    pub eventfd_id: Option<u64>,
    /// `eventfd-semaphore`, since Linux 6.5.
    pub eventfd_semaphore: bool,
    /// `sigmask` of a signalfd, bit n-1 for signal n.
    pub sigmask: Option<u64>,
    /// Targets of an epoll.
    pub epoll: Vec<EpollLine>,
    /// A timerfd.
    pub timerfd: Option<TimerfdLines>,
    /// `lock:` lines, as they are.
    pub locks: Vec<Vec<u8>>,
    /// Lines of other kinds, as they are.
    pub others: Vec<Vec<u8>>,
}

/// The content of a fdinfo file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fdinfo {
    /// Position in bytes.
    pub position: u64,
    /// Open flags, `O_CLOEXEC` being that of the descriptor.
    pub flags: u32,
    /// The mount it was opened on.
    pub mount: u64,
    /// The inode, since Linux 5.14.
    pub inode: Option<u64>,
    /// What depends on the kind of file.
    pub extras: Extras,
}

/// Parses the content of a fdinfo file.
///
/// # Errors
/// A missing `pos`, `flags` or `mnt_id`, or a value that is no number.
///
/// # Sources
/// proc_pid_fdinfo(5); fs/proc/fd.c, fs/eventfd.c, fs/eventpoll.c, fs/signalfd.c, fs/timerfd.c.
pub fn parse_fdinfo(text: &[u8]) -> Result<Fdinfo, ParseError> {
    let mut info = Fdinfo::default();
    let (mut has_flags, mut has_mount) = (false, false);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (key, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let number = |radix: u32, what: &'static str| {
            unsigned(value, radix).ok_or_else(|| ParseError::new(index + 1, what, line))
        };
        let extras = &mut info.extras;
        match key {
            b"pos" => info.position = number(10, "pos: a number")?,
            b"flags" => {
                info.flags = u32::try_from(number(8, "flags: an octal number")?).unwrap_or(0);
                has_flags = true;
            }
            b"mnt_id" => {
                info.mount = number(10, "mnt_id: a number")?;
                has_mount = true;
            }
            b"ino" => info.inode = Some(number(10, "ino: a number")?),
            b"eventfd-count" => {
                extras.eventfd_count = Some(number(16, "eventfd-count: a hex number")?)
            }
            b"eventfd-id" => extras.eventfd_id = Some(number(10, "eventfd-id: a number")?),
            b"eventfd-semaphore" => {
                extras.eventfd_semaphore = number(10, "eventfd-semaphore: 0 or 1")? != 0
            }
            b"sigmask" => extras.sigmask = Some(number(16, "sigmask: a hex number")?),
            b"tfd" => {
                let target = epoll_line(line).ok_or_else(|| {
                    ParseError::new(
                        index + 1,
                        "tfd: … events: … data: … pos: … ino: … sdev: …",
                        line,
                    )
                })?;
                extras.epoll.push(target);
            }
            b"clockid" => {
                timerfd(extras).clock = u32::try_from(number(10, "clockid: a number")?).unwrap_or(0)
            }
            b"ticks" => timerfd(extras).ticks = number(10, "ticks: a number")?,
            b"settime flags" => {
                timerfd(extras).settime_flags =
                    u32::try_from(number(8, "settime flags: an octal number")?).unwrap_or(0)
            }
            b"it_value" => {
                timerfd(extras).value = pair(value)
                    .ok_or_else(|| ParseError::new(index + 1, "it_value: (s, ns)", line))?
            }
            b"it_interval" => {
                timerfd(extras).interval = pair(value)
                    .ok_or_else(|| ParseError::new(index + 1, "it_interval: (s, ns)", line))?
            }
            b"lock" => extras.locks.push(value.to_vec()),
            _ => extras.others.push(line.to_vec()),
        }
    }
    if has_flags && has_mount {
        Ok(info)
    } else {
        Err(ParseError::new(0, "flags and mnt_id", text))
    }
}

fn timerfd(extras: &mut Extras) -> &mut TimerfdLines {
    extras.timerfd.get_or_insert_default()
}

fn unsigned(word: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(word).ok()?, radix).ok()
}

fn pair(value: &[u8]) -> Option<(u64, u64)> {
    let inner = value.strip_prefix(b"(")?.strip_suffix(b")")?;
    let mut words = inner.split(|byte| *byte == b',');
    let (seconds, rest) = (words.next()?, words.next()?);
    Some((
        unsigned(seconds.trim_ascii(), 10)?,
        unsigned(rest.trim_ascii(), 10)?,
    ))
}

/// `tfd: 5 events: 19 data: 5  pos:0 ino:61 sdev:7`, blanks as the kernel likes.
fn epoll_line(line: &[u8]) -> Option<EpollLine> {
    let text = std::str::from_utf8(line).ok()?;
    let field = |key: &str| text.split_once(key)?.1.split_ascii_whitespace().next();
    Some(EpollLine {
        fd: field("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(field("events:")?, 16).ok()?,
        data: u64::from_str_radix(field("data:")?, 16).ok()?,
        position: field("pos:")?.parse().ok()?,
        inode: u64::from_str_radix(field("ino:")?, 16).ok()?,
        device: u32::from_str_radix(field("sdev:")?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_lines() {
        let info =
            parse_fdinfo(b"pos:\t17\nflags:\t02100002\nmnt_id:\t15\nino:\t9\n").expect("parses");
        assert_eq!(
            (info.position, info.flags, info.mount, info.inode),
            (17, 0o210_0002, 15, Some(9))
        );
    }

    #[test]
    fn an_epoll_with_its_targets() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\ntfd:        5 events:       19 data:     ffffffff00000005  pos:0 ino:3d sdev:f\n";
        let info = parse_fdinfo(text).expect("parses");
        let target = info.extras.epoll[0];
        assert_eq!(
            (target.fd, target.events, target.inode, target.device),
            (5, 0x19, 0x3d, 15)
        );
        assert_eq!(target.data, 0xffff_ffff_0000_0005);
    }

    #[test]
    fn an_eventfd() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t11\neventfd-count:               2a\neventfd-id: 7\neventfd-semaphore: 1\n";
        let extras = parse_fdinfo(text).expect("parses").extras;
        assert_eq!(
            (
                extras.eventfd_count,
                extras.eventfd_id,
                extras.eventfd_semaphore
            ),
            (Some(42), Some(7), true)
        );
    }

    #[test]
    fn a_timerfd() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nclockid: 1\nticks: 3\nsettime flags: 01\nit_value: (1, 500)\nit_interval: (0, 7)\n";
        let timer = parse_fdinfo(text)
            .expect("parses")
            .extras
            .timerfd
            .expect("a timer");
        assert_eq!(
            (
                timer.clock,
                timer.ticks,
                timer.settime_flags,
                timer.value,
                timer.interval
            ),
            (1, 3, 1, (1, 500), (0, 7))
        );
    }

    #[test]
    fn what_is_missing_or_odd_is_an_error_or_kept() {
        assert!(parse_fdinfo(b"pos:\t0\n").is_err());
        assert!(parse_fdinfo(b"pos:\tx\nflags:\t0\nmnt_id:\t1\n").is_err());
        let info = parse_fdinfo(b"pos:\t0\nflags:\t0\nmnt_id:\t1\nnew-thing: 1\n").expect("parses");
        assert_eq!(info.extras.others, [b"new-thing: 1".to_vec()]);
    }
}
