//! `/proc/PID/stat`: a task in one line of numbers.

use super::text::{Line, ParseError};

/// What `/proc/PID/stat` (or `/proc/PID/task/TID/stat`) tells of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The tid, in the pid namespace of the `/proc` that was read, like all pids here.
    pub tid: i32,
    /// The name of the thread: any bytes, at most 15 for a user task.
    pub comm: Vec<u8>,
    /// What the task is doing.
    pub state: State,
    /// The parent process; 0 when it is outside of the namespace.
    pub parent: i32,
    /// The process group.
    pub process_group: i32,
    /// The session.
    pub session: i32,
    /// The device number of the controlling terminal; 0 for none.
    pub terminal: i32,
    /// The foreground process group of that terminal; -1 without one.
    pub terminal_process_group: i32,
    /// The kernel's `PF_` bits.
    pub flags: u32,
    /// The nice value.
    pub nice: i32,
    /// Threads of the process.
    pub threads: u32,
    /// When the task started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Where the address space begins and ends.
    pub layout: Layout,
    /// The signal a child sends to its parent when it ends; -1 for a thread.
    pub exit_signal: i32,
    /// How a zombie ended, as a wait status; 0 for all others, and without ptrace access.
    pub exit_code: i32,
}

/// The addresses the kernel keeps of an address space; those of a fork child are its parent's.
///
/// All 0 for a task without one (a kernel thread, a zombie); see also [`Layout::is_hidden`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    /// Where the bottom of the main stack was at exec; different in nearly every exec.
    pub start_stack: u64,
    /// Start of the program's text.
    pub start_code: u64,
    /// End of the program's text.
    pub end_code: u64,
    /// Start of the program's data.
    pub start_data: u64,
    /// End of the program's data.
    pub end_data: u64,
    /// Where the heap begins.
    pub start_brk: u64,
    /// Start of the arguments.
    pub arg_start: u64,
    /// End of the arguments.
    pub arg_end: u64,
    /// Start of the environment.
    pub env_start: u64,
    /// End of the environment.
    pub env_end: u64,
}

impl Layout {
    /// Whether the kernel hid the addresses from us, for want of ptrace access.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        let hidden = Self {
            start_code: 1,
            end_code: 1,
            ..Self::default()
        };
        *self == hidden
    }

    /// Whether there is no address space.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }
}

/// The state of a task, by the kernel's letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `R`: running or about to.
    Running,
    /// `S`: waiting, and signals wake it.
    Sleeping,
    /// `D`: waiting, and signals do not wake it.
    DiskSleep,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped for a tracer.
    Traced,
    /// `X`: about to vanish.
    Dead,
    /// `Z`: ended, and not waited for yet.
    Zombie,
    /// `P`: a parked kernel thread.
    Parked,
    /// `I`: an idle kernel thread.
    Idle,
}

impl State {
    pub(super) fn of(letter: &[u8]) -> Option<Self> {
        Some(match letter {
            b"R" => Self::Running,
            b"S" => Self::Sleeping,
            b"D" => Self::DiskSleep,
            b"T" => Self::Stopped,
            b"t" => Self::Traced,
            b"X" => Self::Dead,
            b"Z" => Self::Zombie,
            b"P" => Self::Parked,
            b"I" => Self::Idle,
            _ => return None,
        })
    }
}

/// Parses the content of a `stat` file.
///
/// The name is whatever stands between the first ` (` and the last `) `, since it may hold
/// both, and newlines; everything behind it is numbers.
///
/// # Errors
/// Anything but the 52 columns of Linux 3.5 and later.
///
/// # Sources
/// proc_pid_stat(5); fs/proc/array.c, `do_task_stat`.
pub fn parse_stat(text: &[u8]) -> Result<Stat, ParseError> {
    let mut line = Line::of_file(text);
    let tid = line.signed("a pid")?;
    let in_parentheses = "a name in parentheses";
    if !line.eat(b" (") {
        return Err(line.error(in_parentheses));
    }
    let from_name = line.rest();
    let name_length = from_name.windows(2).rposition(|pair| pair == b") ");
    let name_length = name_length.ok_or_else(|| line.error(in_parentheses))?;
    let comm = from_name[..name_length].to_vec();
    let mut line = Line::new(1, &from_name[name_length + 1..]);

    let state = line.convert("a task state", State::of)?;
    let parent = line.signed("a parent pid")?;
    let process_group = line.signed("a process group")?;
    let session = line.signed("a session")?;
    let terminal = line.signed("a terminal number")?;
    let terminal_process_group = line.signed("a foreground process group")?;
    let flags = line.unsigned("task flags")?;
    line.skip(9, "faults, times and priority")?;
    let nice = line.signed("a nice value")?;
    let threads = line.unsigned("a count of threads")?;
    line.skip(1, "an interval timer")?;
    let start_ticks = line.unsigned("a start time")?;
    line.skip(3, "memory sizes")?;
    let start_code = line.unsigned("startcode")?;
    let end_code = line.unsigned("endcode")?;
    let start_stack = line.unsigned("startstack")?;
    line.skip(9, "registers, signals and swap counts")?;
    let exit_signal = line.signed("an exit signal")?;
    line.skip(6, "processor, policy and delays")?;
    let layout = Layout {
        start_stack,
        start_code,
        end_code,
        start_data: line.unsigned("start_data")?,
        end_data: line.unsigned("end_data")?,
        start_brk: line.unsigned("start_brk")?,
        arg_start: line.unsigned("arg_start")?,
        arg_end: line.unsigned("arg_end")?,
        env_start: line.unsigned("env_start")?,
        env_end: line.unsigned("env_end")?,
    };
    let exit_code = line.signed("an exit code")?;
    line.end()?;
    Ok(Stat {
        tid,
        comm,
        state,
        parent,
        process_group,
        session,
        terminal,
        terminal_process_group,
        flags,
        nice,
        threads,
        start_ticks,
        layout,
        exit_signal,
        exit_code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns behind the name, as one running program showed them.
    const COLUMNS: &str = "S 5681 5682 3712 34816 5683 4194304 100 0 0 0 1 2 3 4 20 -5 7 0 \
        202630 3133440 358 18446744073709551615 94499743879168 94499743899049 140732987407392 \
        0 0 0 0 4096 134433283 0 0 0 17 1 0 0 0 0 0 94499743915056 94499743916672 \
        94500247601152 140732987415236 140732987415274 140732987415275 140732987416555 9\n";

    fn with_name(name: &[u8]) -> Vec<u8> {
        [b"5729 (", name, b") ", COLUMNS.as_bytes()].concat()
    }

    #[test]
    fn every_column_lands_in_its_field() {
        let expected = Stat {
            tid: 5729,
            comm: b"cat".to_vec(),
            state: State::Sleeping,
            parent: 5681,
            process_group: 5682,
            session: 3712,
            terminal: 34816,
            terminal_process_group: 5683,
            flags: 4_194_304,
            nice: -5,
            threads: 7,
            start_ticks: 202_630,
            layout: Layout {
                start_stack: 140_732_987_407_392,
                start_code: 94_499_743_879_168,
                end_code: 94_499_743_899_049,
                start_data: 94_499_743_915_056,
                end_data: 94_499_743_916_672,
                start_brk: 94_500_247_601_152,
                arg_start: 140_732_987_415_236,
                arg_end: 140_732_987_415_274,
                env_start: 140_732_987_415_275,
                env_end: 140_732_987_416_555,
            },
            exit_signal: 17,
            exit_code: 9,
        };
        assert_eq!(parse_stat(&with_name(b"cat")), Ok(expected));
    }

    #[test]
    fn names_may_hold_anything() {
        let names: [&[u8]; 8] = [
            b"",
            b" ",
            b") (",
            b") R 1 (",
            b"a\nb\n",
            b"(((",
            b")))",
            b"\xff\xfe\0",
        ];
        for name in names {
            let stat = parse_stat(&with_name(name)).unwrap();
            assert_eq!((stat.comm.as_slice(), stat.parent), (name, 5681));
        }
    }

    #[test]
    fn cut_wrong_and_longer_lines_are_refused() {
        let good = with_name(b"cat");
        for length in 0..good.len() - 2 {
            assert!(parse_stat(&good[..length]).is_err(), "{length} bytes");
        }
        let unknown_state = b"1 (x) Q 0 0";
        let error = parse_stat(unknown_state).unwrap_err();
        assert_eq!(
            (error.expected, &error.found[..]),
            ("a task state", " Q 0 0")
        );
        let longer = [&good[..good.len() - 1], b" 0\n"].concat();
        assert_eq!(parse_stat(&longer).unwrap_err().expected, "nothing more");
    }

    #[test]
    fn hidden_and_absent_address_spaces_are_told_apart() {
        let mut layout = Layout::default();
        assert!(layout.is_absent() && !layout.is_hidden());
        (layout.start_code, layout.end_code) = (1, 1);
        assert!(layout.is_hidden() && !layout.is_absent());
        layout.start_brk = 4096;
        assert!(!layout.is_hidden() && !layout.is_absent());
    }
}
