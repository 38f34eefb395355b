//! Trees that do not stop, and dumps that do not get on: let go when their time is up.

use std::process::{Command, Output, Stdio};

use crate::guest::{Guest, dedump, images, program, run};
use crate::outside::Outside;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A task, or one of its threads, that waits in vfork(2) or its like for a child that lives on.
const VFORK: &str = "
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
def wait():
    # Without an address space of its own the child sleeps in the parent's: it uses nothing of it.
    flags = CLONE_VFORK | SIGCHLD
    if libc.syscall(56, flags, 0, 0, 0, 0) == 0:
        print('ready child', os.getpid(), flush=True)
        while True:
            libc.pause()
if sys.argv[1] == 'thread':
    threading.Thread(target=wait).start()
    threading.Event().wait()
wait()
";

#[test]
fn a_parent_in_vfork_is_named_with_its_child() {
    let python = |how: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", VFORK, how]);
        Guest::start(&mut command, "ready child")
    };
    for (guest, how) in [
        (Guest::of_ours("vfork"), "vfork"),
        (python("clone"), "clone"),
        (python("thread"), "thread"),
    ] {
        let output = guest.output();
        let child = output
            .lines()
            .find_map(|line| line.strip_prefix("ready child "));
        let (_dir, images) = images();
        // Were it not found out at once, nothing would ever end this dump.
        let output = run(&mut dedump(guest.pid(), &images, &["--timeout", "0"]));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{how}: {said}");
        let words = format!("waiting in vfork for its child {}", child.unwrap());
        assert!(said.contains(&words), "{how}: no {words:?} in {said}");
        assert!(!images.exists() && guest.is_alive());
    }
}

/// A dumper that is held up where it opens a path with `met` in it, until `go` is there.
fn held_up(guest: &Guest, met: &str, arguments: &[&str]) -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    let dumper = dedump(guest.pid(), &dir.path().join("images"), arguments);
    let mut supervisor = Command::new(program("fault"));
    supervisor
        .args(["hold", met])
        .arg(dir.path().join("go"))
        .arg(dir.path().join("report"))
        .arg("--")
        .arg(dumper.get_program())
        .args(dumper.get_args())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    (dir, supervisor)
}

#[test]
fn a_call_that_does_not_come_back_does_not_keep_the_tree() {
    let guest = Guest::of_ours_with("steady", &["heap"]);
    let before = Outside::settled(guest.pid());
    for (met, arguments, stage) in [
        ("auxv", &["-R", "--timeout", "1"][..], "the kernel tells"),
        ("core-", &["--timeout", "1"], "writing the images"),
    ] {
        let (dir, mut supervisor) = held_up(&guest, met, arguments);
        let output = run(&mut supervisor);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("timed out while "), "{said}");
        assert!(said.contains(stage) && said.contains("--timeout"), "{said}");
        assert!(!dir.path().join("images").exists(), "{said}");
        before.assert_still(guest.pid());
    }
    guest.goes_on();
}

#[test]
fn a_dump_whose_time_is_up_ends_by_itself() {
    let guest = Guest::of_ours_with("steady", &["heap"]);
    let before = Outside::settled(guest.pid());
    let (dir, mut supervisor) = held_up(&guest, "core-", &["--timeout", "1"]);
    let dumper = supervisor.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1200));
    std::fs::write(dir.path().join("go"), "").unwrap();
    let output = dumper.wait_with_output().unwrap();
    let said = said(&output);
    assert!(
        said.contains("timed out while writing the images"),
        "{said}"
    );
    assert!(!dir.path().join("images").exists());
    // Without a word about it, a tree that is killed stands still as long as writing takes.
    before.assert_still(guest.pid());
    guest.goes_on();
}
