//! dedump in the hands of an ordinary user: with no capabilities at all, and with two.
//!
//! The images are restored by criu as root.

use std::process::Command;

use crate::guest::Guest;
use crate::oracle::{Release, decode, restore};
use crate::outside::Outside;
use crate::user::{UsersDedump, as_user, reachable};

const TWO: &[&str] = &["checkpoint_restore", "sys_ptrace"];

/// A script of the user.
fn python(script: &str) -> Guest {
    let mut command = Command::new("/usr/bin/python3");
    Guest::start(&mut as_user(command.args(["-c", script]), &[]), "ready\n")
}

/// Dumps a guest that checks itself, first to let it run on, then to kill and restore it.
fn round_trip(mut guest: Guest, dedump: &UsersDedump, release: Release) {
    let before = Outside::settled(guest.pid());
    assert!(dedump.dump(guest.pid(), &["-R"]).status.success());
    before.assert_still(guest.pid());
    std::fs::remove_dir_all(dedump.images()).unwrap();
    let others = guest.other_sessions();
    assert!(dedump.dump(guest.pid(), &[]).status.success());
    guest.reap(&others);
    decode(&dedump.images());
    restore(release, &dedump.images());
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    guest.wait_for("done\n");
}

#[test]
fn every_kind_of_file_and_socket() {
    for (capabilities, release) in [
        (&[][..], Release::Criu42),
        (&[], Release::Criu41),
        (TWO, Release::Criu42),
    ] {
        let guest = python(include_str!("../guests/files.py"));
        round_trip(guest, &UsersDedump::with(capabilities), release);
    }
}

#[test]
fn unix_sockets_with_files_and_names() {
    let guest = python(
        "
import os, socket, time
absolute = socket.socket(socket.AF_UNIX)
absolute.bind(os.path.abspath('absolute'))
absolute.listen(3)
relative = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
relative.bind('relative')
pair = socket.socketpair()
pair[0].send(b'pair')
hidden = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
hidden.bind('\\0dedump hidden %d' % os.getpid())
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
client = socket.socket(socket.AF_UNIX)
client.connect('absolute')
server = absolute.accept()[0]
client.send(b'stream')
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.sendto(b'datagram', 'relative')
sender.sendto(b'abstract', hidden.getsockname())
found = [s.recv(9) for s in (server, relative, pair[1], hidden)]
right = found == [b'stream', b'datagram', b'pair', b'abstract']
print('done' if right else 'BAD %r' % found, flush=True)
time.sleep(1000)
",
    );
    round_trip(guest, &UsersDedump::with(&[]), Release::Criu42);
}

#[test]
fn many_dumps_go_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(reachable("steady", dir.path()));
    let guest = Guest::start(&mut as_user(command.arg("heap"), &[]), "ready");
    let before = Outside::settled(guest.pid());
    for _ in 0..20 {
        let output = UsersDedump::with(&[]).dump(guest.pid(), &["-R"]);
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("no snapshot"), "{said}");
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

/// Shared memory with holes, of which one part was written by a task that is gone.
const SHARED: &str = "
import mmap, os, time
size = 64 << 20
memory = mmap.mmap(-1, size)
other = mmap.mmap(-1, 8 << 20)
memory[5 << 20] = 5
if os.fork() == 0:
    memory[9 << 20] = 9
    os._exit(0)
os.wait()
child = os.fork()
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
if child == 0:
    memory[1 << 20] = 1
    other[4096:4099] = b'yes'
    os._exit(0)
os.wait()
found = bytes(memory)
right = [found[n << 20] for n in (1, 5, 9)] == [1, 5, 9] and found.count(0) == size - 3
print('done' if right and other[4096:4099] == b'yes' else 'BAD memory', flush=True)
time.sleep(1000)
";

#[test]
fn shared_memory_is_read_through_its_mappings() {
    for release in [Release::Criu42, Release::Criu41] {
        let guest = python(SHARED);
        let dedump = UsersDedump::with(&[]);
        assert!(dedump.dump(guest.pid(), &["-R"]).status.success());
        // Whoever reads a hole makes a page of it.
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", guest.pid()));
        let smaps = smaps.unwrap();
        let shared_kib = smaps.lines().find_map(|line| {
            let words = line.strip_prefix("Pss_Shmem:")?.trim();
            words.strip_suffix(" kB")?.parse::<u64>().ok()
        });
        assert!(shared_kib.unwrap() < 100, "{smaps}");
        std::fs::remove_dir_all(dedump.images()).unwrap();
        round_trip(guest, &dedump, release);
    }
}

/// A deleted file that is mapped and not open any more, which Python's own mmap would keep.
const MAPPED_AND_GONE: &str = "
import ctypes, os
file = open('gone', 'w+b')
file.write(bytes(range(256)) * 64)
file.flush()
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
address = libc.mmap(None, ctypes.c_size_t(16384), 3, 1, file.fileno(), ctypes.c_long(0))
memory = (ctypes.c_ubyte * 16384).from_address(address)
file.close()
os.unlink('gone')
";

/// What needs a capability: a script that sets it up, and the capability.
const NEEDS: [(&str, &str); 5] = [
    (MAPPED_AND_GONE, "CAP_CHECKPOINT_RESTORE"),
    (
        "
import os
os.mkdir('closed')
file = open('closed/file', 'w')
os.chmod('closed', 0)
",
        "CAP_DAC_READ_SEARCH",
    ),
    (
        "
import os, socket
s = socket.socket(socket.AF_UNIX)
os.mkdir('below')
os.chdir('below')
s.bind('name')
os.chdir('..')
",
        "CAP_NET_ADMIN",
    ),
    (
        "
import ctypes, struct
code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = struct.pack('HxxxxxxQ', 1, ctypes.addressof(code))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    raise OSError('no filter')
",
        "CAP_SYS_ADMIN",
    ),
    (
        "
import ctypes
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
",
        "CAP_SYS_PTRACE",
    ),
];

#[test]
fn what_needs_a_capability_is_refused_by_its_name() {
    for (script, capability) in NEEDS {
        let wait = "import time\nprint('ready', flush=True)\ntime.sleep(1000)\n";
        let guest = python(&format!("{script}{wait}"));
        let before = Outside::settled(guest.pid());
        let dedump = UsersDedump::with(&[]);
        let output = dedump.dump(guest.pid(), &["--tcp-established"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(capability), "{errors}");
        assert!(!dedump.images().join("inventory.img").exists());
        before.assert_still(guest.pid());
    }
}

#[test]
fn tcp_connections_need_a_capability() {
    let guest = python(
        "
import socket, time
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()
print('ready', flush=True)
time.sleep(1000)
",
    );
    let before = Outside::settled(guest.pid());
    let dedump = UsersDedump::with(&[]);
    let output = dedump.dump(guest.pid(), &["--tcp-established"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("CAP_NET_ADMIN"), "{errors}");
    before.assert_still(guest.pid());
    let output = dedump.dump(guest.pid(), &["--tcp-close", "-R"]);
    assert!(output.status.success());
    before.assert_still(guest.pid());
}

#[test]
fn a_task_of_somebody_else() {
    let guest = Guest::start(
        Command::new("sh").args(["-c", "echo ready; exec sleep 1000"]),
        "ready",
    );
    let before = Outside::settled(guest.pid());
    for (capabilities, needed) in [
        (&[][..], "CAP_SYS_PTRACE"),
        // Root's tasks have more capabilities than we.
        (TWO, "CAP_DAC_OVERRIDE"),
    ] {
        let output = UsersDedump::with(capabilities).dump(guest.pid(), &[]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(needed), "{errors}");
        before.assert_still(guest.pid());
    }
    let dedump = UsersDedump::with(&["sys_ptrace", "dac_override"]);
    assert!(dedump.dump(guest.pid(), &["-R"]).status.success());
    before.assert_still(guest.pid());
}

#[test]
fn with_two_capabilities_also_deleted_mapped_files() {
    let rest = "
import time
memory[0] = 77
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
right = bytes(memory) == b'M' + (bytes(range(256)) * 64)[1:]
print('done' if right else 'BAD memory', flush=True)
time.sleep(1000)
";
    let guest = python(&format!("{MAPPED_AND_GONE}{rest}"));
    round_trip(guest, &UsersDedump::with(TWO), Release::Criu42);
}
