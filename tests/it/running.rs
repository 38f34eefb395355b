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
