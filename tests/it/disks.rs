//! Disks that are full, read-only or gone, and folders in which others lay traps.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;

use crate::guest::{Guest, dedump, images, program, run};
use crate::outside::Outside;

/// A guest that has a small disk of its own in `disk`, mounted with these options.
fn guest_with_disk(mount: &str, arguments: &[&str]) -> Guest {
    let script = "mkdir disk && mount -t tmpfs -o \"$0\" none disk && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(mount)
        .arg(program("steady"))
        .args(arguments);
    Guest::start(&mut command, "ready")
}

/// Runs a command where the disk of the guest can be seen.
fn beside(guest: &Guest, command: &Command) -> Output {
    let mut inside = Command::new("nsenter");
    inside
        .args(["--target", &guest.pid().to_string(), "--mount", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    run(&mut inside)
}

fn remount(guest: &Guest, options: &str) {
    let mut mount = Command::new("mount");
    mount.args(["-o", &format!("remount,{options}")]);
    mount.arg(guest.dir.path().join("disk"));
    assert!(beside(guest, &mount).status.success());
}

/// What lies on the disk.
fn on_disk(guest: &Guest) -> Vec<PathBuf> {
    let below = guest.dir.path().strip_prefix("/").unwrap();
    let disk = Path::new("/proc")
        .join(guest.pid().to_string())
        .join("root");
    let entries = std::fs::read_dir(disk.join(below).join("disk")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_that_fills_up_anywhere() {
    let guest = guest_with_disk("size=4k", &["heap"]);
    let before = Outside::settled(guest.pid());
    let images = guest.dir.path().join("disk/images");
    for arguments in [
        &["-R"][..],
        &["-R", "--no-snapshot"],
        &["-R", "--no-page-dedup"],
    ] {
        // First a disk of few pages, then one of few files.
        for unit in ["nr_inodes=9999,size", "size=1g,nr_inodes"] {
            let mut size = 2;
            let mut failures = 0;
            loop {
                let factor = if unit.ends_with("size") { 4096 } else { 1 };
                remount(&guest, &format!("{unit}={}", size * factor));
                let arguments = [arguments, &["--no-space-check"]].concat();
                let output = beside(&guest, &dedump(guest.pid(), &images, &arguments));
                if output.status.success() {
                    break;
                }
                failures += 1;
                let said = said(&output);
                assert_eq!(output.status.code(), Some(1), "{said}");
                let path = images.to_str().unwrap();
                assert!(
                    said.contains(path) && said.contains("No space left"),
                    "{said}"
                );
                // Before there is a folder to put images in, nothing is to be said of these.
                let is_begun = !said.contains("make folder") && !said.contains("open folder");
                assert!(said.contains("are free") == is_begun, "{said}");
                assert_eq!(on_disk(&guest), [""; 0].map(PathBuf::from));
                size += 1 + size / 5;
            }
            assert!(failures > 5, "{unit}: only {failures} failures");
            let mut remove = Command::new("rm");
            assert!(
                beside(&guest, remove.arg("-r").arg(&images))
                    .status
                    .success()
            );
        }
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_disk_that_is_too_small_is_noticed_before_the_freeze() {
    let guest = guest_with_disk("size=4m", &["heap"]);
    let images = guest.dir.path().join("disk/images");
    let output = beside(&guest, &dedump(guest.pid(), &images, &[]));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--no-space-check"), "{said}");
    let numbers: Vec<u64> = said
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    let needed = numbers
        .iter()
        .any(|number| (16 << 20..64 << 20).contains(number));
    let free = numbers
        .iter()
        .any(|number| (3 << 20..=4 << 20).contains(number));
    assert!(needed && free, "{said}");
    assert_eq!(on_disk(&guest), [""; 0].map(PathBuf::from));
    remount(&guest, "size=1g");
    let output = beside(&guest, &dedump(guest.pid(), &images, &["-R"]));
    assert!(output.status.success());
    remount(&guest, "ro");
    let output = beside(
        &guest,
        &dedump(guest.pid(), &images, &["-R", "--overwrite"]),
    );
    let said = self::said(&output);
    assert!(said.contains("Read-only") && said.contains("-D"), "{said}");
    guest.goes_on();
}

#[test]
fn every_write_fails_once() {
    let guest = Guest::of_ours("threads");
    let before = Outside::settled(guest.pid());
    for (errno, words) in [
        (Errno::EIO, "Input/output error"),
        (Errno::EDQUOT, "Disk quota exceeded"),
    ] {
        let mut failures = 0;
        let mut number = 0;
        loop {
            // The later ones are more and more alike.
            number += 1 + number / 4;
            let (dir, images) = images();
            let report = dir.path().join("report");
            let dumper = dedump(guest.pid(), &images, &["-R"]);
            let mut supervisor = Command::new(program("fault"));
            supervisor
                .arg("spoil")
                .arg(dir.path())
                .args([number.to_string(), (errno as i32).to_string()])
                .arg(&report)
                .arg("--")
                .arg(dumper.get_program())
                .args(dumper.get_args());
            let output = run(&mut supervisor);
            let said = said(&output);
            let met = std::fs::read_to_string(&report).unwrap();
            if met.split(' ').nth(1) == Some("-1") {
                assert!(output.status.success(), "{output:?}");
                break;
            }
            if output.status.success() {
                continue;
            }
            failures += 1;
            assert_eq!(output.status.code(), Some(1), "{met}: {said}");
            let path = dir.path().to_str().unwrap();
            assert!(said.contains(path) && said.contains(words), "{met}: {said}");
            let is_begun = said.contains(images.to_str().unwrap()) && !said.contains(" folder ");
            assert!(!is_begun || said.contains("are free"), "{met}: {said}");
            std::fs::remove_file(&report).unwrap();
            assert_eq!(
                std::fs::read_dir(dir.path()).unwrap().count(),
                0,
                "{met}: {said}"
            );
        }
        assert!(failures > 10, "{words}: only {failures} failures");
    }
    before.assert_still(guest.pid());
    guest.goes_on();
}

#[test]
fn a_folder_that_is_removed_meanwhile() {
    for met in ["pages-1.img", "stats-dump"] {
        let guest = Guest::of_ours_with("steady", &["heap"]);
        let before = Outside::settled(guest.pid());
        let (dir, images) = images();
        let go = dir.path().join("go");
        let dumper = dedump(guest.pid(), &images, &[]);
        let mut supervisor = Command::new(program("fault"))
            .args(["hold", met])
            .arg(&go)
            .arg(dir.path().join("report"))
            .arg("--")
            .arg(dumper.get_program())
            .args(dumper.get_args())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut told = BufReader::new(supervisor.stdout.take().unwrap());
        told.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        std::fs::remove_dir_all(&images).unwrap();
        std::fs::write(&go, "").unwrap();
        let output = supervisor.wait_with_output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("somebody has removed the folder"), "{said}");
        assert!(!images.exists());
        before.assert_still(guest.pid());
    }
}

const SOMEBODY_ELSE: u32 = 4242;

#[test]
fn links_that_others_lay_are_not_followed() {
    let guest = Guest::of_ours("threads");
    let dir = tempfile::tempdir().unwrap();
    let (shared, private) = (dir.path().join("shared"), dir.path().join("private"));
    for folder in [&shared, &private] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(private.join("kept"), "kept").unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o1777)).unwrap();
    let trap = shared.join("trap");
    symlink(&private, &trap).unwrap();
    let log_trap = shared.join("dump.log");
    symlink(private.join("kept"), &log_trap).unwrap();
    for link in [&trap, &log_trap] {
        lchown(link, Some(SOMEBODY_ELSE), Some(SOMEBODY_ELSE)).unwrap();
    }
    let trap = trap.to_str().unwrap();
    let (_dir, images) = images();
    for (images, arguments) in [
        (Path::new(trap), &["-R"][..]),
        (&Path::new(trap).join("below"), &["-R"]),
        (&images, &["-R", "-W", trap]),
        (
            &images,
            &["-R", "-W", shared.to_str().unwrap(), "-o", "dump.log"],
        ),
    ] {
        let output = run(&mut dedump(guest.pid(), images, arguments));
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(shared.to_str().unwrap()), "{said}");
        assert!(said.contains("Permission denied"), "{said}");
        assert!(!images.join("inventory.img").exists());
    }
    assert_eq!(std::fs::read_dir(&private).unwrap().count(), 1);
    assert_eq!(std::fs::read(private.join("kept")).unwrap(), b"kept");
    guest.goes_on();
}

#[test]
fn images_are_for_their_owner_alone() {
    let guest = Guest::of_ours_with("pool", &["2", "star", "2", "10"]);
    let (_dir, images) = images();
    let dumper = dedump(guest.pid(), &images, &["-R", "-o", "dump.log"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(dumper.get_program())
        .args(dumper.get_args());
    assert!(run(&mut command).status.success());
    let mut folders = vec![images];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| {
            std::fs::symlink_metadata(path)
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode(&folder) & 0o7777, 0o700, "{}", folder.display());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path) & 0o7777, 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 20, "{files}");
}

#[test]
fn a_program_with_rights_of_its_file_refuses_to_work() {
    let guest = Guest::of_ours("threads");
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("dedump");
    crate::guest::copy_program(env!("CARGO_BIN_EXE_dedump").as_ref(), &copy);
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o4755)).unwrap();
    let (_dir, images) = images();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["dump", "-t", &guest.pid().to_string(), "-R", "-D"])
        .arg(&images);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("set-user-ID"));
    assert!(!images.exists());
    guest.goes_on();
}
