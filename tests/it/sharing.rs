//! Every kind of sharing: ids equal exactly where the program says it shares.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dedump::image::catalogue::Kind;
use dedump::image::framing::Image;
use dedump::image::proto::{FdinfoEntry, Manifest, TaskKobjIdsEntry};

use crate::guest::{Guest, dedump, images, run};
use crate::outside::Outside;

/// What the guest says of two of its tasks.
struct Pair {
    tasks: [u64; 2],
    flags: i32,
}

fn pairs(output: &str) -> Vec<Pair> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("pair "));
    let words = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    words
        .map(|words| Pair {
            tasks: [words[0].parse().unwrap(), words[1].parse().unwrap()],
            flags: i32::from_str_radix(words[2], 16).unwrap(),
        })
        .collect()
}

/// The ids of a task; those of its leader for a thread without an image of its own.
fn ids(images: &Path, task: u64, leader: u64) -> TaskKobjIdsEntry {
    let path = |task| images.join(Kind::Ids.file_name(task));
    let image = Image::open(&path(task)).or_else(|_| Image::open(&path(leader)));
    image.unwrap().decode(0).unwrap()
}

#[test]
fn the_matrix() {
    let guest = Guest::of_ours("sharing");
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
    assert!(output.status.success());
    before.assert_still(guest.pid());

    let pairs = pairs(&guest.output());
    assert_eq!(pairs.len(), 12 * 3 + 4);
    let inode = |kind: Kind, task| {
        std::fs::metadata(images.join(kind.file_name(task)))
            .map(|file| file.ino())
            .ok()
    };
    let mut table_inodes = HashMap::new();
    for Pair {
        tasks: [a, b],
        flags,
    } in pairs
    {
        let (first, second) = (ids(&images, a, a), ids(&images, b, a));
        let shares = |flag: i32| flags & flag != 0;
        let context = format!("{a} and {b}, flags {flags:x}: {first:?} {second:?}");
        assert_eq!(
            first.vm_id == second.vm_id,
            shares(libc::CLONE_VM),
            "vm of {context}"
        );
        assert_eq!(
            first.fs_id == second.fs_id,
            shares(libc::CLONE_FS),
            "fs of {context}"
        );
        assert_eq!(
            first.files_id == second.files_id,
            shares(libc::CLONE_FILES),
            "files of {context}"
        );
        assert_eq!(
            first.sighand_id == second.sighand_id,
            shares(libc::CLONE_SIGHAND),
            "sighand of {context}"
        );
        // One inode on disk for one object; threads have images only of what is their own.
        for (kind, flag) in [
            (Kind::Mm, libc::CLONE_VM),
            (Kind::Pagemap, libc::CLONE_VM),
            (Kind::Fs, libc::CLONE_FS),
        ] {
            if let (Some(first), Some(second)) = (inode(kind, a), inode(kind, b)) {
                assert_eq!(first == second, shares(flag), "{kind:?} of {context}");
            }
        }
        for ids in [first, second] {
            let file = inode(Kind::Fdinfo, u64::from(ids.files_id));
            assert!(file.is_some(), "no descriptor table of {context}");
            table_inodes.insert(ids.files_id, file);
        }
    }
    let mut inodes: Vec<_> = table_inodes.values().collect();
    inodes.sort();
    inodes.dedup();
    assert_eq!(inodes.len(), table_inodes.len(), "two tables in one file");
}

#[test]
fn what_no_restorer_brings_back_is_not_killed_unasked() {
    let guest = Guest::of_ours("sharing");
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-unrestorable"));
    assert!(guest.is_alive() && !images.exists());
    let output = run(&mut dedump(guest.pid(), &images, &["--allow-unrestorable"]));
    assert!(output.status.success() && !guest.is_alive());
}

/// Descriptors and what the program says of each: its process, number, and open file.
const FILES: &str = "
import os, socket, time
name = '/etc/hostname'
def say(fd, file):
    print('file', os.getpid(), fd, file, flush=True)
def opened():
    return os.open(name, os.O_RDONLY)
first, alike = opened(), opened()
say(first, 'first'), say(alike, 'alike')
say(os.dup(first), 'first')
# Behind the link in /proc is the file, not the open file.
say(os.open(f'/proc/self/fd/{first}', os.O_RDONLY), 'opened again')
ours, theirs = socket.socketpair()
if os.fork() == 0:
    say(first, 'first'), say(alike, 'alike')
    say(opened(), 'of the child')
    _, fds, _, _ = socket.recv_fds(theirs, 1, 2)
    say(fds[0], 'sent'), say(fds[1], 'sent')
    os.dup2(alike, first)
    theirs.send(b'x')
    while True:
        time.sleep(1)
say(opened(), 'of the parent')
sent = opened()
say(sent, 'sent')
socket.send_fds(ours, [b'x'], [sent, sent])
ours.recv(1)
print('ready', flush=True)
while True:
    time.sleep(1)
";

#[test]
fn an_open_file_has_one_id_whichever_way_it_is_reached() {
    let guest = Guest::start(
        std::process::Command::new("/usr/bin/python3").args(["-c", FILES]),
        "ready",
    );
    let (_dir, images) = images();
    // From an earlier look, and without one.
    for arguments in [&["-R"][..], &["-R", "--no-snapshot", "--overwrite"]] {
        let output = run(&mut dedump(guest.pid(), &images, arguments));
        assert!(output.status.success());
        let mut id_of: HashMap<String, u32> = HashMap::new();
        let mut seen = 0;
        for line in guest.output().lines() {
            let Some(rest) = line.strip_prefix("file ") else {
                continue;
            };
            let mut words = rest.splitn(3, ' ');
            let task: u64 = words.next().unwrap().parse().unwrap();
            let fd: u32 = words.next().unwrap().parse().unwrap();
            let mut file = words.next().unwrap().to_owned();
            if task != u64::try_from(guest.pid()).unwrap() && file == "first" {
                // It has put the other one there meanwhile.
                file = "alike".to_owned();
            }
            let table =
                images.join(Kind::Fdinfo.file_name(u64::from(ids(&images, task, task).files_id)));
            let mut found = None;
            for entry in Image::open(&table).unwrap().entries() {
                let entry: FdinfoEntry = entry.unwrap().decode().unwrap();
                if entry.fd == fd {
                    found = Some(entry.id);
                }
            }
            let id = found.unwrap_or_else(|| panic!("no descriptor for {line}"));
            assert_eq!(*id_of.entry(file).or_insert(id), id, "{line}");
            seen += 1;
        }
        assert_eq!(seen, 11);
        let different: std::collections::HashSet<_> = id_of.values().collect();
        assert_eq!(different.len(), id_of.len(), "{id_of:?}");
    }
}

/// The kernel is asked about once for each descriptor, however much the files look alike.
#[test]
fn questions_grow_with_descriptors_and_no_faster() {
    for kind in ["eventfds", "opens"] {
        let guest = Guest::of_ours_with("crowd", &[kind, "10000"]);
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
        let image = Image::open(&images.join(Kind::Manifest.file_name(0))).unwrap();
        let manifest: Manifest = image.decode(0).unwrap();
        let file = manifest
            .trees
            .iter()
            .find(|tree| tree.name == "file")
            .unwrap();
        assert!(file.asked > 10_000 && file.new_objects > 10_000, "{file:?}");
        assert!(file.kcmp_calls * 10 <= file.asked * 11, "{kind}: {file:?}");
        let stages: Vec<_> = manifest
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect();
        for stage in [
            "seize", "identify", "inject", "scan", "snapshot", "release", "write",
        ] {
            assert!(stages.contains(&stage), "{stages:?}");
        }
        let frozen = manifest
            .stages
            .iter()
            .filter(|stage| stage.frozen == Some(true));
        let frozen_us: u64 = frozen.map(|stage| stage.us + 1).sum();
        assert!(manifest.frozen_us <= frozen_us, "{manifest:?}");
    }
}
