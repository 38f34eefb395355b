//! `dedump check`: what stands in the way, said before anything is done.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::guest::{Guest, dedump, images, run};
use crate::outside::Outside;

/// Four tasks with something each that no image can hold, one of them with two things.
fn hopeless() -> Guest {
    let script = "
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def io_uring():
    if libc.syscall(425, 4, ctypes.create_string_buffer(256)) < 0:
        print('BAD io_uring', ctypes.get_errno(), flush=True)
def userfaultfd():
    if libc.syscall(323, 0o2004000) < 0:
        print('BAD userfaultfd', ctypes.get_errno(), flush=True)
def dispatch():
    # Calls from anywhere pass.
    if libc.prctl(59, 1, 0, ctypes.c_ulong((1 << 47) - 1), 0) < 0:
        print('BAD dispatch', ctypes.get_errno(), flush=True)
def child(*things):
    ready, told = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        for thing in things:
            thing()
        os.close(told)
        while True:
            time.sleep(1000)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
child(userfaultfd)
child(dispatch, io_uring)
child()
io_uring()
print('ready', flush=True)
while True:
    print('at', flush=True)
    time.sleep(0.02)
";
    Guest::of_python(script, "ready")
}

fn check(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dedump"));
    command.arg("check").args(arguments);
    command
}

#[test]
fn everything_is_said_at_once_and_the_tree_runs_on() {
    let guest = hopeless();
    let pid = guest.pid().to_string();
    let before = Outside::settled(guest.pid());

    let asked = run(&mut check(&["-t", &pid]));
    assert_eq!(asked.status.code(), Some(1));
    let asked = String::from_utf8(asked.stdout).unwrap();
    let (summary, told): (Vec<&str>, Vec<&str>) =
        asked.lines().partition(|line| line.contains("in the way"));
    let told: BTreeSet<&str> = told.into_iter().collect();
    assert_eq!(told.len(), 4, "{told:#?}");
    assert!(summary[0].contains("4 things"), "{summary:?}");

    // The dump says the same.
    let (_dir, images) = images();
    let dump = run(&mut dedump(guest.pid(), &images, &[]));
    assert_eq!(dump.status.code(), Some(1));
    let errors = String::from_utf8(dump.stderr).unwrap();
    let errors: BTreeSet<&str> = errors
        .lines()
        .filter_map(|line| line.strip_prefix("dedump: error: "))
        .collect();
    assert_eq!(errors, told);
    assert!(!images.exists());

    // And so does the answer for programs.
    let asked = run(&mut check(&["-t", &pid, "--json"]));
    assert_eq!(asked.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(answer["dumpable"], false);
    assert_eq!(answer["processes"], 4);
    let blockers = answer["blockers"].as_array().unwrap();
    let found: Vec<(&str, bool)> = blockers
        .iter()
        .map(|one| {
            let kind = one["kind"].as_str().unwrap();
            assert!(one["pid"].is_i64() && one["remedy"].is_string(), "{one}");
            (kind, one["fd"].is_i64())
        })
        .collect();
    let count = |kind: &str| found.iter().filter(|(found, _)| *found == kind).count();
    assert_eq!((count("descriptor"), count("thread")), (3, 1), "{answer:#}");
    assert!(
        found
            .iter()
            .all(|(kind, fd)| (*kind == "descriptor") == *fd)
    );

    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_tree_that_can_be_dumped_is_told_so() {
    let guest = Guest::of_ours("steady");
    let before = Outside::settled(guest.pid());
    let pid = guest.pid().to_string();
    for _ in 0..20 {
        let asked = run(&mut check(&["-t", &pid]));
        assert_eq!(asked.status.code(), Some(0));
        let text = String::from_utf8(asked.stdout).unwrap();
        assert!(text.contains("nothing stands in the way"), "{text}");
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_question_is_about_the_dump_that_is_meant() {
    // In the session of the test: a job of a shell.
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id().to_string();
    let told = run(&mut check(&["-t", &pid]));
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stdout).contains("--shell-job"));
    assert!(run(&mut check(&["-t", &pid, "-j"])).status.success());
    child.kill().unwrap();
    child.wait().unwrap();
    // Reaped: there is no such process.
    let told = run(&mut check(&["-t", &pid, "--json"]));
    assert_eq!(told.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(answer["blockers"][0]["kind"], "process");
}

#[test]
fn what_the_system_allows_is_told_feature_by_feature() {
    let told = run(&mut check(&[]));
    assert_eq!(told.status.code(), Some(0));
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.lines().count() > 15, "{text}");
    assert!(text.lines().all(|line| !line.contains("MISSING")), "{text}");

    // Without any rights, what they would give is missing, and the price is named.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("dedump");
    crate::guest::copy_program(env!("CARGO_BIN_EXE_dedump").as_ref(), &program);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let told = run(Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["check", "--json"])
        .current_dir("/"));
    let features: Value = serde_json::from_slice(&told.stdout).unwrap();
    let feature = |name: &str| {
        let all = features.as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(feature("kcmp")["works"], true);
    for name in [
        "page frame numbers",
        "seccomp suspension",
        "repair of TCP connections",
    ] {
        let feature = feature(name);
        assert_eq!(feature["works"], false, "{feature}");
        assert!(
            feature["cost"].as_str().unwrap().contains("CAP_"),
            "{feature}"
        );
    }
}
