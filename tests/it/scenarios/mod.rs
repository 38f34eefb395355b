//! Small programs, one for each kernel feature, which check themselves.
//!
//! The programs are in `tests/guests/scenarios`, one file for an area, as here. A scenario
//! becomes a test by a line in its area's list, with its name:
//!
//! ```text
//! restored! {
//!     name_with_parentheses;
//!     flock_held, dump ["--file-locks"], restore ["--file-locks"];
//! }
//! refused! {
//!     io_uring, says ["io_uring"];
//! }
//! ```

use crate::guest::{Guest, TERMINALS, dedump, images, run};
use crate::oracle::Release;
use crate::restores::{check_restored, dump_and_restore, dump_and_restore_again};

/// Tests that dump a scenario while it runs on, dump it again and kill it, have criu 4.2
/// restore it, dump, kill and restore it once more, for a restored tree is not in all like what
/// it was before, and let it check itself.
macro_rules! restored {
    ($($name:ident $(, dump [$($dump:literal),*])? $(, restore [$($restore:literal),*])?;)*) => {$(
        #[test]
        fn $name() {
            $crate::scenarios::restored(
                stringify!($name),
                2,
                &[$($($dump),*)?],
                &[$($($restore),*)?],
            );
        }
    )*};
}

/// The same for scenarios that come back once, because of what a restore does to them.
macro_rules! restored_once {
    ($($name:ident;)*) => {$(
        #[test]
        fn $name() {
            $crate::scenarios::restored(stringify!($name), 1, &[], &[]);
        }
    )*};
}

/// Tests that a scenario is refused with these words, and runs on as it was.
macro_rules! refused {
    ($($name:ident $(, dump [$($dump:literal),*])?, says [$($word:literal),*];)*) => {$(
        #[test]
        fn $name() {
            $crate::scenarios::refused(stringify!($name), &[$($($dump),*)?], &[$($word),*]);
        }
    )*};
}

/// Tests that a scenario is restored, and that the dump tells with these words what is lost.
macro_rules! noted {
    ($($name:ident $(, dump [$($dump:literal),*])?, says [$($word:literal),*];)*) => {$(
        #[test]
        fn $name() {
            $crate::scenarios::noted(stringify!($name), &[$($($dump),*)?], &[$($word),*]);
        }
    )*};
}

// Behind the macros, which they use.
mod files;
mod memory;
mod tasks;

/// A scenario that has set itself up; `None` where the kernel lacks what it needs.
///
/// In CI that is a failure: a test that was not run must not look like one that passed.
pub(crate) fn start(name: &str) -> Option<Guest> {
    let guest = Guest::of_ours_with("scenarios", &[name]);
    let output = guest.output();
    if output.contains("SKIPPED") {
        assert!(std::env::var_os("CI").is_none(), "{name}: {output}");
        eprintln!("{name}: {output}");
        return None;
    }
    Some(guest)
}

/// Tells a scenario to check itself.
pub(crate) fn check(guest: &Guest) {
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    guest.wait_for("done\n");
}

pub(crate) fn restored(name: &str, cycles: usize, for_dump: &[&str], for_restore: &[&str]) {
    // A test that has failed is no reason for others to.
    let terminals = name.contains("terminal").then(|| TERMINALS.lock());
    let Some(mut guest) = start(name) else { return };
    first_dump(&guest, for_dump);
    dump_and_restore(&mut guest, Release::Criu42, for_dump, for_restore);
    for _ in 1..cycles {
        dump_and_restore_again(&mut guest, for_dump, for_restore);
    }
    check(&guest);
    drop(terminals);
}

/// A dump of a scenario that runs on; what was said.
fn first_dump(guest: &Guest, arguments: &[&str]) -> String {
    let (_dir, images) = images();
    let arguments = [arguments, &["--leave-running"]].concat();
    let output = run(&mut dedump(guest.pid(), &images, &arguments));
    assert!(output.status.success(), "a dump that lets it run on");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn noted(name: &str, for_dump: &[&str], words: &[&str]) {
    let Some(guest) = start(name) else { return };
    let said = first_dump(&guest, for_dump);
    for word in words {
        assert!(said.contains(word), "{name}: no {word:?} in {said}");
    }
    check_restored(guest, Release::Criu42, for_dump, &[]);
}

pub(crate) fn refused(name: &str, for_dump: &[&str], words: &[&str]) {
    let Some(guest) = start(name) else { return };
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, for_dump));
    assert_eq!(output.status.code(), Some(1), "{name}");
    let said = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(said.contains(word), "{name}: no {word:?} in {said}");
    }
    assert!(!images.join("inventory.img").exists());
    check(&guest);
}
