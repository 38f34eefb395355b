//! Every kind of sharing: ids equal exactly where the program says it shares.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dedump::image::catalogue::Kind;
use dedump::image::framing::ImageReader;
use dedump::image::proto::TaskKobjIdsEntry;

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
    let bytes = std::fs::read(path(task))
        .or_else(|_| std::fs::read(path(leader)))
        .unwrap();
    ImageReader::start(Kind::Ids, &bytes)
        .unwrap()
        .entry()
        .unwrap()
        .unwrap()
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
