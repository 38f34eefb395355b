//! Trees that live on: nothing may have happened to them.

use std::time::Duration;

use crate::guest::{Guest, dedump, images, run};
use crate::outside::Outside;

#[test]
fn two_hundred_dumps_go_unnoticed() {
    let guest = Guest::of_ours("steady");
    let before = Outside::settled(guest.pid());
    for _ in 0..200 {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(
            output.status.success() && guest.is_alive(),
            "{}",
            guest.output()
        );
        assert!(images.join("inventory.img").exists());
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_killed_dumper_harms_nobody() {
    let kills = if std::env::var_os("DEDUMP_TEST_FULL").is_some() {
        300
    } else {
        60
    };
    // What the kernel ends with EINTR we put right at the stop; killed before, we cannot.
    let guest = Guest::of_ours_with("steady", &["restarted"]);
    let before = Outside::settled(guest.pid());
    let (dir, images) = images();
    let mut state: u64 = u64::from(std::process::id());
    let mut killed = 0;
    while killed < kills {
        let mut dumper = dedump(guest.pid(), &images, &["-R", "--overwrite"])
            .spawn()
            .unwrap();
        // xorshift: random moments, no further dependency
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::thread::sleep(Duration::from_micros(state % 12_000));
        killed += usize::from(dumper.try_wait().unwrap().is_none());
        dumper.kill().unwrap();
        dumper.wait().unwrap();
        assert!(
            guest.is_alive() && !guest.output().contains("BAD"),
            "{}",
            guest.output()
        );
    }
    guest.goes_on();
    // The next dump removes what a killed one may have left.
    let output = run(&mut dedump(guest.pid(), &images, &["-R", "--overwrite"]));
    assert!(output.status.success());
    before.assert_still(guest.pid());
    let hidden = std::fs::read_dir(&images).unwrap().filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with('.')
    });
    assert_eq!(
        hidden.count(),
        0,
        "staging folders are left in {}",
        dir.path().display()
    );
}

#[test]
fn a_stopped_program_stays_stopped_and_leave_stopped_stops() {
    let state = |guest: &Guest| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", guest.pid())).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    };
    let pid = |guest: &Guest| nix::unistd::Pid::from_raw(guest.pid());
    let guest = Guest::of_ours("threads");
    let (_dir, first) = images();
    assert!(
        run(&mut dedump(guest.pid(), &first, &["-s"]))
            .status
            .success()
    );
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(state(&guest), 'T');
    let (_dir, second) = images();
    assert!(
        run(&mut dedump(guest.pid(), &second, &["-R"]))
            .status
            .success()
    );
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(state(&guest), 'T');
    nix::sys::signal::kill(pid(&guest), nix::sys::signal::Signal::SIGCONT).unwrap();
    guest.goes_on();
}
