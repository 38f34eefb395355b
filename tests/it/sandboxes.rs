//! Programs under seccomp: dumped, killed, brought back, and as confined as before.

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::Release;
use crate::outside::Outside;
use crate::restores::check_restored;

#[test]
fn strict_mode_and_filters_of_threads() {
    for release in [Release::Criu42, Release::Criu41] {
        check_restored(Guest::of_ours("seccomp"), release, &[], &[]);
    }
}

#[test]
fn a_sandbox_holds_after_a_dump_that_leaves_the_tree_running() {
    let guest = Guest::of_ours("seccomp");
    let before = Outside::settled(guest.pid());
    for _ in 0..3 {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
        before.assert_still(guest.pid());
    }
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    guest.wait_for("done\n");
}
