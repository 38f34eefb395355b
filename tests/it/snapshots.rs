//! Trees that run on while their memory is written: of one instant, and unnoticed.

use std::time::Duration;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, decode, restore};
use crate::outside::Outside;

/// The processes that dumps have left anywhere, by the name they give themselves.
/// The living copies that there are of a guest's tasks; other tests make copies meanwhile.
fn copies(guest: &Guest) -> Vec<String> {
    let of_guest = std::fs::read_to_string(format!("/proc/{}/stat", guest.pid())).unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| stat.contains("(dedump-copy) ") && layout(stat) == layout(&of_guest))
        .collect()
}

/// Where code and stack are, which the kernel makes different for every program it starts; a
/// task that has ended has none.
fn layout(stat: &str) -> Vec<&str> {
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(23).take(3).collect()
}

fn assert_no_copies(guest: &Guest) {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while !copies(guest).is_empty() {
        assert!(std::time::Instant::now() < end, "{:?}", copies(guest));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends a guest that ran on, so that its pids are free for its restored self.
fn end(guest: &mut Guest) {
    let root = nix::unistd::Pid::from_raw(guest.pid());
    nix::sys::signal::killpg(root, nix::sys::signal::Signal::SIGKILL).unwrap();
    guest.reap(&[]);
}

#[test]
fn images_of_tasks_that_write_at_full_speed_are_of_one_instant() {
    for release in [Release::Criu42, Release::Criu41, Release::Criu42] {
        let mut guest = Guest::of_ours("writer");
        let (_dir, images) = images();
        let output = run(&mut dedump(
            guest.pid(),
            &images,
            &["-R", "--display-stats"],
        ));
        assert!(output.status.success());
        guest.goes_on();
        assert_no_copies(&guest);
        end(&mut guest);
        decode(&images);
        restore(release, &images);
        guest.goes_on();
    }
}

#[test]
fn a_dump_with_snapshots_goes_unnoticed() {
    let guest = Guest::of_ours_with("steady", &["heap"]);
    let before = Outside::settled(guest.pid());
    for _ in 0..50 {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
    }
    before.assert_still(guest.pid());
    guest.goes_on();
    assert_no_copies(&guest);
}

#[test]
fn a_copy_ends_with_its_dumper() {
    let guest = Guest::of_ours_with("steady", &["heap", "restarted"]);
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    let mut met = 0;
    for round in 0..60_u64 {
        let mut dumper = dedump(guest.pid(), &images, &["-R", "--overwrite"])
            .spawn()
            .unwrap();
        // Every other one is killed while it has a copy, whenever that is.
        while round % 2 == 0 && copies(&guest).is_empty() && dumper.try_wait().unwrap().is_none() {}
        std::thread::sleep(Duration::from_micros(round * 397 % 16_000));
        met += copies(&guest).len();
        dumper.kill().unwrap();
        dumper.wait().unwrap();
        assert!(guest.is_alive(), "{}", guest.output());
    }
    assert!(met > 0, "no dumper was killed while it had a copy");
    assert_no_copies(&guest);
    guest.goes_on();
    let output = run(&mut dedump(guest.pid(), &images, &["-R", "--overwrite"]));
    assert!(output.status.success());
    before.assert_still(guest.pid());
}

#[test]
fn who_takes_in_orphans_gets_none_of_ours() {
    let script = "
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
signal.signal(signal.SIGCHLD, lambda *_: print('BAD SIGCHLD', flush=True))
heap = bytearray(os.urandom(1 << 20)) * 32
child = os.fork()
heap[5 << 20] = 0
if child == 0:
    while True:
        time.sleep(1)
print('ready', flush=True)
while True:
    print('here', flush=True)
    time.sleep(0.05)
";
    let guest = Guest::start(
        std::process::Command::new("/usr/bin/python3").args(["-c", script]),
        "ready",
    );
    let before = Outside::settled(guest.pid());
    for _ in 0..5 {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
    }
    guest.goes_on();
    before.assert_still(guest.pid());
}

/// A task whose memory cannot be copied by a fork, with a page that it keeps changing.
const NO_FORK: &str = "
import ctypes, os, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
heap = bytearray(os.urandom(1 << 20)) * 8
if sys.argv[1] == 'limit':
    import resource
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    os.setgid(4242)
    os.setuid(4242)
else:
    # A filter that allows everything.
    code = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
    program = struct.pack('HxxxxxxQ', 1, ctypes.addressof(code))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        sys.exit('no filter')
print('ready', flush=True)
while True:
    print('here', sum(heap[::4096]) and 'whole', flush=True)
    time.sleep(0.05)
";

#[test]
fn without_a_snapshot_memory_is_copied_in_the_freeze_and_that_is_said() {
    for (why, says) in [
        ("limit", "no snapshot of its memory (EAGAIN"),
        (
            "filter",
            "no snapshot of its memory (it has seccomp filters)",
        ),
    ] {
        let mut guest = Guest::start(
            std::process::Command::new("/usr/bin/python3").args(["-c", NO_FORK, why]),
            "ready",
        );
        let before = Outside::settled(guest.pid());
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says), "{said}");
        assert!(said.contains("copied while it is frozen"), "{said}");
        before.assert_still(guest.pid());
        guest.goes_on();
        end(&mut guest);
        decode(&images);
        restore(Release::Criu42, &images);
        guest.goes_on();
    }
}
