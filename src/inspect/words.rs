//! Numbers as words: bits, kinds, devices, addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::image::schema::Form;

const PROT: &[(u64, &str)] = &[(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP: &[(u64, &str)] = &[
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (8, "MAP_DROPPABLE"),
    (0x20, "MAP_ANON"),
    (0x100, "MAP_GROWSDOWN"),
];
const VMA: &[(u64, &str)] = &[
    (1, "VMA_AREA_REGULAR"),
    (1 << 1, "VMA_AREA_STACK"),
    (1 << 2, "VMA_AREA_VSYSCALL"),
    (1 << 3, "VMA_AREA_VDSO"),
    (1 << 5, "VMA_AREA_HEAP"),
    (1 << 6, "VMA_FILE_PRIVATE"),
    (1 << 7, "VMA_FILE_SHARED"),
    (1 << 8, "VMA_ANON_SHARED"),
    (1 << 9, "VMA_ANON_PRIVATE"),
    (1 << 10, "VMA_AREA_SYSVIPC"),
    (1 << 11, "VMA_AREA_SOCKET"),
    (1 << 12, "VMA_AREA_VVAR"),
    (1 << 13, "VMA_AREA_AIORING"),
    (1 << 14, "VMA_AREA_MEMFD"),
    (1 << 15, "VMA_AREA_SHSTK"),
    (1 << 17, "VMA_AREA_UPROBES"),
    (1 << 31, "VMA_UNSUPP"),
];
const OPEN: &[(u64, &str)] = &[
    (0o1, "O_WRONLY"),
    (0o2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o1_0000, "O_DSYNC"),
    (0o2_0000, "FASYNC"),
    (0o4_0000, "O_DIRECT"),
    (0o10_0000, "O_LARGEFILE"),
    (0o20_0000, "O_DIRECTORY"),
    (0o40_0000, "O_NOFOLLOW"),
    (0o100_0000, "O_NOATIME"),
    (0o200_0000, "O_CLOEXEC"),
];
const SEALS: &[(u64, &str)] = &[
    (1, "F_SEAL_SEAL"),
    (2, "F_SEAL_SHRINK"),
    (4, "F_SEAL_GROW"),
    (8, "F_SEAL_WRITE"),
    (16, "F_SEAL_FUTURE_WRITE"),
];
const PAGES: &[(u64, &str)] = &[(1, "PE_PARENT"), (2, "PE_LAZY"), (4, "PE_PRESENT")];
const SA: &[(u64, &str)] = &[
    (1, "SA_NOCLDSTOP"),
    (2, "SA_NOCLDWAIT"),
    (4, "SA_SIGINFO"),
    (0x0400_0000, "SA_RESTORER"),
    (0x0800_0000, "SA_ONSTACK"),
    (0x1000_0000, "SA_RESTART"),
    (0x4000_0000, "SA_NODEFER"),
    (0x8000_0000, "SA_RESETHAND"),
];
const EPOLL: &[(u64, &str)] = &[
    (0x1, "EPOLLIN"),
    (0x2, "EPOLLPRI"),
    (0x4, "EPOLLOUT"),
    (0x8, "EPOLLERR"),
    (0x10, "EPOLLHUP"),
    (0x40, "EPOLLRDNORM"),
    (0x80, "EPOLLRDBAND"),
    (0x100, "EPOLLWRNORM"),
    (0x200, "EPOLLWRBAND"),
    (0x2000, "EPOLLRDHUP"),
    (1 << 28, "EPOLLEXCLUSIVE"),
    (1 << 29, "EPOLLWAKEUP"),
    (1 << 30, "EPOLLONESHOT"),
    (1 << 31, "EPOLLET"),
];
const WATCHED: &[(u64, &str)] = &[
    (0x1, "IN_ACCESS"),
    (0x2, "IN_MODIFY"),
    (0x4, "IN_ATTRIB"),
    (0x8, "IN_CLOSE_WRITE"),
    (0x10, "IN_CLOSE_NOWRITE"),
    (0x20, "IN_OPEN"),
    (0x40, "IN_MOVED_FROM"),
    (0x80, "IN_MOVED_TO"),
    (0x100, "IN_CREATE"),
    (0x200, "IN_DELETE"),
    (0x400, "IN_DELETE_SELF"),
    (0x800, "IN_MOVE_SELF"),
    (0x2000, "IN_UNMOUNT"),
    (0x0100_0000, "IN_ONLYDIR"),
    (0x0200_0000, "IN_DONT_FOLLOW"),
    (0x0400_0000, "IN_EXCL_UNLINK"),
    (0x8000_0000, "IN_ONESHOT"),
];
const MOUNT: &[(u64, &str)] = &[
    (0x1, "MS_RDONLY"),
    (0x2, "MS_NOSUID"),
    (0x4, "MS_NODEV"),
    (0x8, "MS_NOEXEC"),
    (0x10, "MS_SYNCHRONOUS"),
    (0x40, "MS_MANDLOCK"),
    (0x80, "MS_DIRSYNC"),
    (0x400, "MS_NOATIME"),
    (0x800, "MS_NODIRATIME"),
    (0x1000, "MS_BIND"),
    (0x4000, "MS_REC"),
    (0x2_0000, "MS_UNBINDABLE"),
    (0x4_0000, "MS_PRIVATE"),
    (0x8_0000, "MS_SLAVE"),
    (0x10_0000, "MS_SHARED"),
    (0x20_0000, "MS_RELATIME"),
    (0x100_0000, "MS_STRICTATIME"),
];
const NAMESPACE: &[(u64, &str)] = &[
    (0x80, "CLONE_NEWTIME"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x0200_0000, "CLONE_NEWCGROUP"),
    (0x0400_0000, "CLONE_NEWUTS"),
    (0x0800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
];
const DESCRIPTOR: &[(u64, &str)] = &[(1, "FD_CLOEXEC")];

const TASK_STATE: &[(u64, &str)] = &[(1, "Alive"), (2, "Dead"), (3, "Stopped"), (6, "Zombie")];
const FAMILY: &[(u64, &str)] = &[
    (1, "UNIX"),
    (2, "INET"),
    (10, "INET6"),
    (16, "NETLINK"),
    (17, "PACKET"),
];
const SOCKET_TYPE: &[(u64, &str)] = &[
    (1, "STREAM"),
    (2, "DGRAM"),
    (3, "RAW"),
    (5, "SEQPACKET"),
    (10, "PACKET"),
];
const SOCKET_STATE: &[(u64, &str)] = &[
    (1, "ESTABLISHED"),
    (2, "SYN_SENT"),
    (3, "SYN_RECV"),
    (4, "FIN_WAIT1"),
    (5, "FIN_WAIT2"),
    (6, "TIME_WAIT"),
    (7, "CLOSE"),
    (8, "CLOSE_WAIT"),
    (9, "LAST_ACK"),
    (10, "LISTEN"),
];
const PROTOCOL: &[(u64, &str)] = &[(0, "IP"), (6, "TCP"), (17, "UDP"), (136, "UDPLITE")];
const CLOCK: &[(u64, &str)] = &[
    (0, "CLOCK_REALTIME"),
    (1, "CLOCK_MONOTONIC"),
    (2, "CLOCK_PROCESS_CPUTIME_ID"),
    (3, "CLOCK_THREAD_CPUTIME_ID"),
    (7, "CLOCK_BOOTTIME"),
    (8, "CLOCK_REALTIME_ALARM"),
    (9, "CLOCK_BOOTTIME_ALARM"),
    (11, "CLOCK_TAI"),
];
const POLICY: &[(u64, &str)] = &[
    (0, "SCHED_OTHER"),
    (1, "SCHED_FIFO"),
    (2, "SCHED_RR"),
    (3, "SCHED_BATCH"),
    (5, "SCHED_IDLE"),
    (6, "SCHED_DEADLINE"),
];
const OWNER: &[(u64, &str)] = &[(0, "thread"), (1, "process"), (2, "group")];
const LOCK: &[(u64, &str)] = &[(0, "F_RDLCK"), (1, "F_WRLCK"), (2, "F_UNLCK")];
const LOCK_KIND: &[(u64, &str)] = &[
    (1, "FL_POSIX"),
    (2, "FL_FLOCK"),
    (32, "FL_LEASE"),
    (1024, "FL_OFDLCK"),
];
const FILE_SYSTEM: &[(u64, &str)] = &[
    (0, "UNSUPPORTED"),
    (1, "PROC"),
    (2, "SYSFS"),
    (3, "DEVTMPFS"),
    (4, "BINFMT_MISC"),
    (5, "TMPFS"),
    (6, "DEVPTS"),
    (7, "SIMFS"),
    (8, "PSTORE"),
    (9, "SECURITYFS"),
    (10, "FUSECTL"),
    (11, "DEBUGFS"),
    (12, "CGROUP"),
    (13, "AUFS"),
    (14, "MQUEUE"),
    (15, "FUSE"),
    (16, "AUTO"),
    (17, "OVERLAYFS"),
    (18, "AUTOFS"),
    (19, "TRACEFS"),
    (23, "CGROUP2"),
];
const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A number in this form; `None` where the form says nothing and plain digits do.
pub(super) fn worded(form: Form, number: i128) -> Option<String> {
    let bits = |table| Some(flags(table, number));
    let name = |table: &[(u64, &str)]| {
        let found = table.iter().find(|(value, _)| i128::from(*value) == number);
        found.map(|(_, name)| (*name).to_owned())
    };
    match form {
        Form::Plain | Form::Text | Form::Quoted | Form::Ip => None,
        Form::Hex => Some(hexadecimal(number)),
        Form::Mode => Some(format!("{number:#o}")),
        Form::Device => Some(format!("{}:{}", number >> 20, number & 0xf_ffff)),
        Form::OldDevice => {
            let major = number >> 8 & 0xfff | number >> 32 & !0xfff;
            let minor = number & 0xff | number >> 12 & !0xff;
            Some(format!("{major}:{minor}"))
        }
        Form::OpenFlags => bits(OPEN),
        Form::Prot => bits(PROT),
        Form::MapFlags => bits(MAP),
        Form::VmaStatus => bits(VMA),
        Form::PageFlags => bits(PAGES),
        Form::Seals => bits(SEALS),
        Form::SaFlags => bits(SA),
        Form::PollEvents => bits(EPOLL),
        Form::WatchEvents => bits(WATCHED),
        Form::MountFlags => bits(MOUNT),
        Form::Namespaces => bits(NAMESPACE),
        Form::DescriptorFlags => bits(DESCRIPTOR),
        Form::TaskState => name(TASK_STATE),
        Form::Family => name(FAMILY),
        Form::SocketType => name(SOCKET_TYPE),
        Form::SocketState => name(SOCKET_STATE),
        Form::Protocol => name(PROTOCOL),
        Form::Clock => name(CLOCK),
        Form::Policy => name(POLICY),
        Form::OwnerType => name(OWNER),
        Form::Lock => name(LOCK),
        Form::LockKind => bits(LOCK_KIND),
        Form::FileSystem => name(FILE_SYSTEM),
        Form::Signal => signal(number),
        Form::SignalSet => Some(signals(number)),
    }
}

/// The names of the bits that are set, then the rest of them.
fn flags(table: &[(u64, &str)], number: i128) -> String {
    let mut rest = number;
    let mut words = Vec::new();
    for (bit, name) in table {
        if number & i128::from(*bit) != 0 {
            words.push((*name).to_owned());
            rest &= !i128::from(*bit);
        }
    }
    if rest != 0 {
        words.push(hexadecimal(rest));
    }
    words.join(" | ")
}

/// `0x1f`, `-0x1`.
pub(super) fn hexadecimal(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{:#x}", number.unsigned_abs())
}

fn signal(number: i128) -> Option<String> {
    let place = usize::try_from(number).ok()?.checked_sub(1)?;
    let name = SIGNALS.get(place)?;
    Some(format!("SIG{name}"))
}

/// A set of signals: bit n-1 is signal n.
fn signals(set: i128) -> String {
    let members = (1..=64).filter(|number| set >> (number - 1) & 1 != 0);
    let names = members.map(|number| signal(number).unwrap_or_else(|| number.to_string()));
    let names: Vec<String> = names.collect();
    match names.len() {
        0 => "none".to_owned(),
        64 => "all".to_owned(),
        _ => names.join(" "),
    }
}

/// An internet address of one or four words, as `crit` writes it.
pub(super) fn address(words: &[u32]) -> Option<String> {
    match words {
        [word] => Some(Ipv4Addr::from(word.to_le_bytes()).to_string()),
        [_, _, _, _] => {
            let mut octets = [0; 16];
            for (place, word) in octets.chunks_mut(4).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            let address = Ipv6Addr::from(octets);
            let [.., high, low] = address.segments();
            Some(match address.to_ipv4_mapped() {
                Some(_) => format!("::ffff:{high:x}:{low:x}"),
                None => address.to_string(),
            })
        }
        _ => None,
    }
}

/// A text in which odd characters stand as `=XX`, in lines of at most 76 characters: quoted
/// printable, as Python's `quopri` writes it.
pub(super) fn quoted(text: &[u8]) -> Vec<u8> {
    const LINE: usize = 76;
    let end_of_line = match text.iter().position(|byte| *byte == b'\n') {
        Some(place) if place > 0 && text[place - 1] == b'\r' => "\r\n",
        _ => "\n",
    };
    let mut out: Vec<u8> = Vec::new();
    let mut length = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let next = text.get(at + 1).copied();
        let breaks = byte == b'\n' || byte == b'\r' && next == Some(b'\n');
        let lone_dot =
            byte == b'.' && length == 0 && matches!(next, None | Some(b'\n' | b'\r' | 0));
        let blank_end = matches!(byte, b' ' | b'\t') && next.is_none();
        let odd = byte > 126
            || byte == b'='
            || byte < 33 && !matches!(byte, b'\r' | b'\n' | b' ' | b'\t')
            || lone_dot
            || blank_end;
        if odd {
            if length + 3 >= LINE {
                out.push(b'=');
                out.extend(end_of_line.as_bytes());
                length = 0;
            }
            out.extend(format!("={byte:02X}").as_bytes());
            length += 3;
        } else if breaks {
            length = 0;
            if let Some(blank @ (b' ' | b'\t')) = out.last().copied() {
                out.pop();
                out.extend(format!("={blank:02X}").as_bytes());
            }
            out.extend(end_of_line.as_bytes());
            at += usize::from(byte == b'\r');
        } else {
            if next.is_some_and(|next| next != b'\n') && length + 1 >= LINE {
                out.push(b'=');
                out.extend(end_of_line.as_bytes());
                length = 0;
            }
            length += 1;
            out.push(byte);
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names_and_a_rest() {
        let worded = |form, number| worded(form, number).unwrap();
        assert_eq!(worded(Form::Prot, 5), "PROT_READ | PROT_EXEC");
        assert_eq!(worded(Form::Prot, 0x19), "PROT_READ | 0x18");
        assert_eq!(worded(Form::OpenFlags, 0), "");
        assert_eq!(worded(Form::Hex, -1), "-0x1");
        assert_eq!(worded(Form::SignalSet, 0x4001), "SIGHUP SIGTERM");
        assert_eq!(worded(Form::Device, 0x80_0001), "8:1");
        assert_eq!(worded(Form::OldDevice, 0x801), "8:1");
        assert_eq!(worded(Form::Mode, 0o100_644), "0o100644");
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        assert_eq!(worded(Form::Family, 99), None);
        assert_eq!(worded(Form::Signal, 0), None);
        assert_eq!(worded(Form::Signal, 40), None);
    }

    #[test]
    fn addresses_are_spelled_as_python_does() {
        let v6 = |octets: [u8; 16]| {
            let words: Vec<u32> = octets
                .chunks(4)
                .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
                .collect();
            address(&words).unwrap()
        };
        assert_eq!(address(&[0x0100_007f]).unwrap(), "127.0.0.1");
        assert_eq!(v6(Ipv6Addr::LOCALHOST.octets()), "::1");
        assert_eq!(
            v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()),
            "::ffff:7f00:1"
        );
        assert_eq!(address(&[1, 2]), None);
    }

    #[test]
    fn socket_names_are_quoted() {
        assert_eq!(quoted(b"\0name=\xff"), b"=00name=3D=FF");
        assert_eq!(quoted(b"a b "), b"a b=20");
        assert_eq!(quoted(b"."), b"=2E");
        let long = quoted(&[b'x'; 80]);
        assert_eq!(long, [&[b'x'; 75][..], b"=\n", &[b'x'; 5][..]].concat());
    }
}
