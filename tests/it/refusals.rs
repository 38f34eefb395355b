//! Requests that must end in one clear error, with nothing touched and nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::guest::{Guest, dedump, images, run};
use crate::outside::Outside;

/// Checks the error of a dump that must not happen.
fn refused(output: &Output, code: i32, images: &std::path::Path, words: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for word in words {
        assert!(errors.contains(word), "no {word:?} in {errors}");
    }
    let left: Vec<_> = std::fs::read_dir(images)
        .map(|entries| entries.flatten().collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pids_that_make_no_sense() {
    let (_dir, images) = images();
    let own = i32::try_from(std::process::id()).unwrap();
    for (pid, word) in [
        (i32::MAX, "does not exist"),
        (own, "ancestor"),
        (1, "ancestor"),
        (2, "kernel thread"),
    ] {
        refused(
            &run(&mut dedump(pid, &images, &[])),
            1,
            &images,
            &[&pid.to_string(), word],
        );
    }
}

#[test]
fn a_traced_task() {
    let guest = Guest::start(
        Command::new("sh").args(["-c", "echo ready; exec sleep 1000"]),
        "ready",
    );
    let before = Outside::settled(guest.pid());
    let pid = nix::unistd::Pid::from_raw(guest.pid());
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty()).unwrap();
    let (_dir, images) = images();
    refused(
        &run(&mut dedump(guest.pid(), &images, &[])),
        1,
        &images,
        &["traced by"],
    );
    nix::sys::ptrace::interrupt(pid).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    nix::sys::ptrace::detach(pid, None).unwrap();
    before.assert_still(guest.pid());
}

#[test]
fn a_task_in_namespaces_of_its_own() {
    for (flag, word) in [
        ("-pf", "pid namespace"),
        ("-m", "mnt namespace"),
        ("-n", "net namespace"),
        ("-u", "uts namespace"),
    ] {
        let script = "echo ready; exec sleep 1000";
        let guest = Guest::start(
            Command::new("unshare").args([flag, "sh", "-c", script]),
            "ready",
        );
        let before = Outside::settled(guest.pid());
        let (_dir, images) = images();
        refused(
            &run(&mut dedump(guest.pid(), &images, &[])),
            1,
            &images,
            &[word],
        );
        before.assert_still(guest.pid());
    }
}

#[test]
fn a_32_bit_task() {
    let guest = Guest::of_ours("ia32");
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    refused(
        &run(&mut dedump(guest.pid(), &images, &[])),
        1,
        &images,
        &["32-bit"],
    );
    assert!(guest.is_alive());
    before.assert_still(guest.pid());
}

#[test]
fn what_is_found_in_a_frozen_task() {
    let guest = Guest::of_ours_with("steady", &["io_uring"]);
    let before = Outside::settled(guest.pid());
    for _ in 0..20 {
        let (_dir, images) = images();
        refused(
            &run(&mut dedump(guest.pid(), &images, &[])),
            1,
            &images,
            &["io_uring"],
        );
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_folder_that_cannot_be_written_or_holds_a_dump() {
    let guest = Guest::start(
        Command::new("sh").args(["-c", "echo ready; exec sleep 1000"]),
        "ready",
    );
    let before = Outside::settled(guest.pid());
    let output = run(&mut dedump(guest.pid(), "/proc/self/nowhere".as_ref(), &[]));
    assert_eq!(output.status.code(), Some(1));
    let (_dir, images) = images();
    assert!(
        run(&mut dedump(guest.pid(), &images, &["-R"]))
            .status
            .success()
    );
    let again = run(&mut dedump(guest.pid(), &images, &["-R"]));
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--overwrite"));
    before.assert_still(guest.pid());
}

#[test]
fn a_session_from_outside() {
    // Runs in the session of the test: CRIU calls that a shell job.
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let (_dir, images) = images();
    refused(
        &run(&mut dedump(pid, &images, &[])),
        1,
        &images,
        &["--shell-job"],
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_permission() {
    let guest = Guest::start(
        Command::new("sh").args(["-c", "echo ready; exec sleep 1000"]),
        "ready",
    );
    let before = Outside::settled(guest.pid());
    let dir = tempfile::tempdir().unwrap();
    // An ordinary user must reach both the program and a folder to write to.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("dedump");
    crate::guest::copy_program(env!("CARGO_BIN_EXE_dedump").as_ref(), &program);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let images = dir.path().join("images");
    let output = run(Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["dump", "-t", &guest.pid().to_string(), "-D"])
        .arg(&images)
        .current_dir("/"));
    refused(&output, 1, &images, &[&guest.pid().to_string()]);
    assert!(!images.exists());
    before.assert_still(guest.pid());
}

#[test]
fn usage() {
    for (arguments, word) in [
        (vec!["dump"], "-t PID"),
        (vec!["dump", "-t", "x"], "x"),
        (vec!["dump", "-t", "1", "--page-server"], "page-server"),
        (vec!["restore"], "restore"),
    ] {
        let output = run(Command::new(env!("CARGO_BIN_EXE_dedump")).args(&arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(word),
            "{arguments:?}"
        );
    }
}
