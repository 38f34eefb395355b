//! `/proc/PID/timers`: the POSIX timers of a process.

use super::text::{Line, ParseError, lines, unsigned};

/// What timer_create(2) was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PosixTimer {
    /// The id that the process knows it by.
    pub id: u32,
    /// The signal to send.
    pub signal: i32,
    /// The value that comes with the signal: a pointer or a number.
    pub value: u64,
    /// What happens when it expires.
    pub notify: Notify,
    /// Whom that happens to.
    pub receiver: Receiver,
    /// The clock, negative for one of a process or thread.
    pub clock: i32,
}

/// What happens when a timer expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// `SIGEV_SIGNAL`
    Signal,
    /// `SIGEV_NONE`
    None,
    /// `SIGEV_THREAD`
    Thread,
}

/// Who is notified, in the pid namespace of the `/proc` that was read; 0 when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The process.
    Process(i32),
    /// One thread of it: `SIGEV_THREAD_ID`.
    Thread(i32),
}

/// Parses the content of a `timers` file, in the kernel's order.
///
/// # Errors
/// Any line that is not what the kernel documents.
///
/// # Sources
/// proc_pid_timers(5); fs/proc/base.c, `show_timer`.
pub fn parse_timers(text: &[u8]) -> Result<Vec<PosixTimer>, ParseError> {
    let mut lines = lines(text);
    let mut timers = Vec::new();
    while let Some(mut line) = lines.next() {
        let id = value(&mut line, b"ID:", "ID:", |line| line.unsigned("a timer id"))?;
        let mut next = |key: &'static str| {
            let line = lines.next();
            line.ok_or_else(|| ParseError::new(0, key, b"the end of the file"))
        };
        let mut line = next("signal:")?;
        let (signal, pointer) = value(&mut line, b"signal:", "signal:", |line| {
            line.convert("signal/value", signal_and_value)
        })?;
        let mut line = next("notify:")?;
        let (notify, receiver) = value(&mut line, b"notify:", "notify:", |line| {
            line.convert("notification/receiver", notification)
        })?;
        let mut line = next("ClockID:")?;
        let clock = value(&mut line, b"ClockID:", "ClockID:", |line| {
            line.signed("a clock")
        })?;
        timers.push(PosixTimer {
            id,
            signal,
            value: pointer,
            notify,
            receiver,
            clock,
        });
    }
    Ok(timers)
}

/// Eats a whole line: the key, and what `parse` makes of the rest.
fn value<'a, T>(
    line: &mut Line<'a>,
    key: &[u8],
    expected: &'static str,
    parse: impl FnOnce(&mut Line<'a>) -> Result<T, ParseError>,
) -> Result<T, ParseError> {
    if !line.eat(key) {
        return Err(line.error(expected));
    }
    let value = parse(line)?;
    line.end().map(|()| value)
}

fn signal_and_value(word: &[u8]) -> Option<(i32, u64)> {
    let slash = word.iter().position(|byte| *byte == b'/')?;
    let signal = i32::try_from(unsigned(&word[..slash], 10)?).ok()?;
    Some((signal, unsigned(&word[slash + 1..], 16)?))
}

fn notification(word: &[u8]) -> Option<(Notify, Receiver)> {
    let slash = word.iter().position(|byte| *byte == b'/')?;
    let notify = match &word[..slash] {
        b"signal" => Notify::Signal,
        b"none" => Notify::None,
        b"thread" => Notify::Thread,
        _ => return None,
    };
    let receiver = &word[slash + 1..];
    let (kind, number) = receiver.split_at_checked(4)?;
    let number = i32::try_from(unsigned(number, 10)?).ok()?;
    let receiver = match kind {
        b"pid." => Receiver::Process(number),
        b"tid." => Receiver::Thread(number),
        _ => return None,
    };
    Some((notify, receiver))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
        ID: 2147483647\nsignal: 0/ffffffffffffffff\nnotify: none/tid.0\nClockID: -6\n";

    #[test]
    fn every_line_lands_in_its_field() {
        let timers = parse_timers(TEXT.as_bytes()).unwrap();
        let first = PosixTimer {
            id: 1,
            signal: 60,
            value: 0x7fff_86e4_52a8,
            notify: Notify::Signal,
            receiver: Receiver::Process(2634),
            clock: 0,
        };
        let second = PosixTimer {
            id: 2_147_483_647,
            signal: 0,
            value: u64::MAX,
            notify: Notify::None,
            receiver: Receiver::Thread(0),
            clock: -6,
        };
        assert_eq!(timers, [first, second]);
        assert_eq!(parse_timers(b""), Ok(vec![]));
    }

    #[test]
    fn strange_lines_are_refused() {
        for (good, bad, line) in [
            ("ID: 1", "ID: x", 1),
            ("signal: 60/", "signal: 60", 2),
            ("notify: signal", "notify: smoke", 3),
            ("pid.2634", "uid.2634", 3),
            ("pid.2634", "pi", 3),
            ("ClockID: 0", "ClockID: 0 0", 4),
            ("ClockID: 0\n", "ClockID: 0\nOverrun: 1\n", 5),
            ("ClockID: -6\n", "", 0),
        ] {
            let text = TEXT.replacen(good, bad, 1);
            assert_ne!(text, TEXT);
            assert_eq!(
                parse_timers(text.as_bytes()).unwrap_err().line,
                line,
                "{bad}"
            );
        }
    }
}
