//! `dedump verify`: sound folders are sound, and damage is named.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use dedump::image::catalogue::Kind;
use dedump::image::framing::{Image, ImageWriter};
use dedump::image::proto;
use dedump::inspect::verify::verify;
use prost::Message;
use tempfile::TempDir;

use crate::fixtures::{fixtures, sound};
use crate::guest::{Guest, assert_sound, dedump, images, run};
use crate::oracle::{Release, folder};

/// Has CRIU dump a tree, which runs on.
pub(crate) fn dump_by_criu(release: Release, pid: i32, images: &Path, arguments: &[&str]) {
    let Some(oracle) = folder(release) else {
        return;
    };
    std::fs::create_dir(images).unwrap();
    let dumped = run(Command::new(oracle.join("criu"))
        .args(["dump", "-R", "-o", "dump.log", "-t", &pid.to_string(), "-D"])
        .arg(images)
        .args(arguments));
    let log = std::fs::read_to_string(images.join("dump.log")).unwrap_or_default();
    assert!(dumped.status.success(), "{log}");
    assert_sound(images);
}

fn python(script: &str) -> Guest {
    Guest::of_python(script, "ready\n")
}

#[test]
fn what_criu_writes_is_sound() {
    for release in [Release::Criu42, Release::Criu41] {
        let mut guests = vec![
            Guest::of_ours("threads"),
            Guest::of_ours_with("pool", &["4", "star", "3", "10"]),
            python(include_str!("../guests/unix.py")),
            Guest::start(
                Command::new("sh").args(["-c", "(sleep 1000 | cat) & echo ready; wait"]),
                "ready",
            ),
        ];
        if matches!(release, Release::Criu42) {
            // The other release refuses one of its sockets.
            guests.push(python(include_str!("../guests/files.py")));
        }
        for guest in guests {
            let (_dir, images) = images();
            dump_by_criu(release, guest.pid(), &images, &[]);
        }
    }
}

/// A dump of a pool that shares pages, where it may be damaged.
fn pool() -> (TempDir, PathBuf) {
    let guest = Guest::of_ours_with("pool", &["4", "star", "3", "10"]);
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
    assert!(output.status.success());
    assert_sound(&images);
    (dir, images)
}

/// What `dedump verify` says of a damaged folder.
fn complaints(folder: &Path) -> String {
    let output = run(Command::new(env!("CARGO_BIN_EXE_dedump"))
        .arg("verify")
        .arg(folder));
    assert_eq!(output.status.code(), Some(1), "{}", folder.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn holes_by_criu_dedup_are_seen() {
    let Some(oracle) = folder(Release::Criu42) else {
        return;
    };
    let (_dir, images) = pool();
    let done = run(Command::new(oracle.join("criu"))
        .args(["dedup", "-D"])
        .arg(&images));
    assert!(done.status.success());
    let said = complaints(&images);
    assert!(said.contains("checksum"), "{said}");
    // Also where no manifest tells.
    std::fs::remove_file(images.join(Kind::Manifest.file_name(0))).unwrap();
    let said = complaints(&images);
    let holes: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("criu dedup"))
        .collect();
    assert!(
        !holes.is_empty() && holes[0].starts_with("parent/pages-"),
        "{said}"
    );
}

/// Every file of a folder.
fn files(images: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(images).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_a_full_disk_cuts_is_named() {
    let (_dir, images) = pool();
    let manifest = images.join(Kind::Manifest.file_name(0));
    let known = std::fs::read(&manifest).unwrap();
    for path in files(&images) {
        let name = path
            .strip_prefix(&images)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let kind = Kind::of_file_name(path.file_name().unwrap().to_str().unwrap());
        if matches!(kind, None | Some((Kind::Stats | Kind::Manifest, _))) {
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for with_manifest in [true, false] {
            if !with_manifest {
                std::fs::remove_file(&manifest).unwrap();
            }
            for rest in [whole.len() / 2, 0] {
                // In place: the file may have several names.
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(rest as u64).unwrap();
                // An empty pages file may be one that nobody needs.
                if rest < whole.len() {
                    let said = complaints(&images);
                    assert!(
                        said.contains(&format!("{name}: ")),
                        "{name} to {rest}: {said}"
                    );
                }
                std::fs::write(&path, &whole).unwrap();
            }
        }
        std::fs::write(&manifest, &known).unwrap();
    }
    assert_sound(&images);
}

/// A copy of a kept folder, without its manifest: only what the images say of each other counts.
fn copy_of_fixture() -> (TempDir, PathBuf) {
    let fixture = fixtures().join("one-task");
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for path in files(&fixture) {
        let name = path.file_name().unwrap();
        if name != Kind::Manifest.file_name(0).as_str() {
            std::fs::copy(&path, images.join(name)).unwrap();
        }
    }
    assert_sound(&images);
    (dir, images)
}

/// The words of `images-fixtures/damaged/README.md`, and how `verify` puts it.
const WORDS: &[(&str, &str)] = &[
    ("magic", "magic "),
    ("framing", "are announced"),
    ("protobuf", "no protobuf"),
    ("required", "root_id is missing"),
    ("single", "where one belongs"),
    ("missing", "it is missing"),
    ("reference", "is not in files.img"),
    ("twice", "stands there twice"),
    ("unreferenced", "belongs to nobody"),
    ("sorted", "they have to ascend"),
    ("outside", "is in no private mapping"),
    ("pages", " bytes where pagemap-"),
    ("parent", "in no earlier folder"),
    ("crc", "checksum is not the one"),
    ("size", "bytes and was written with"),
    ("manifest", "the manifest does not know it"),
];

#[test]
fn damaged_folders_have_the_defects_they_are_said_to_have() {
    let mut cases = 0;
    for entry in std::fs::read_dir(fixtures().join("damaged")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        cases += 1;
        let said = complaints(&folder);
        let verdict = std::fs::read_to_string(folder.join("verdict")).unwrap();
        for line in verdict.lines() {
            let (file, word) = line.split_once('\t').unwrap();
            let (_, text) = WORDS.iter().find(|(known, _)| *known == word).unwrap();
            let names = |line: &str| line.starts_with(&format!("{file}: ")) && line.contains(text);
            assert!(
                said.lines().any(names),
                "{}: no {word} of {file} in {said}",
                folder.display()
            );
        }
    }
    assert!(cases >= 20, "{cases}");
}

#[test]
fn kept_folders_are_sound() {
    for folder in sound() {
        assert_sound(&folder);
    }
}

/// The number of the task in the kept folder.
const PID: u64 = 11927;

/// Reads the entries of an image, has them changed, and writes them back.
fn change<M: Message + Default>(
    images: &Path,
    (kind, id): (Kind, u64),
    change: impl Fn(&mut Vec<M>),
) {
    let path = images.join(kind.file_name(id));
    let image = Image::open(&path).unwrap();
    let entries = image.entries();
    let mut entries: Vec<M> = entries
        .map(|entry| entry.unwrap().decode().unwrap())
        .collect();
    change(&mut entries);
    let file = File::create(&path).unwrap();
    let mut writer = ImageWriter::start(file, kind, String::new()).unwrap();
    for entry in &entries {
        writer.entry(entry).unwrap();
    }
    writer.finish().unwrap();
}

/// What is done to the folder, and what has to be said of it.
type Case = (fn(&Path), &'static str);

const CASES: &[Case] = &[
    (
        |images| std::fs::remove_file(images.join("inventory.img")).unwrap(),
        "inventory.img: it is missing",
    ),
    (
        |images| std::fs::remove_file(images.join("core-11927.img")).unwrap(),
        "core-11927.img: it is missing: restore fails",
    ),
    (
        |images| std::fs::remove_file(images.join("fs-11927.img")).unwrap(),
        "fs-11927.img: it is missing: criu crashes",
    ),
    (
        |images| {
            std::fs::copy(images.join("mm-11927.img"), images.join("mm-7.img")).unwrap();
        },
        "mm-7.img: there is no such task: restore does not use it",
    ),
    (
        |images| std::fs::write(images.join("pages-9.img"), [0; 4096]).unwrap(),
        "pages-9.img: no pagemap names it",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Files, 0),
                |files: &mut Vec<proto::FileEntry>| {
                    let twin = files[0].clone();
                    files.push(twin);
                },
            );
        },
        "stands there twice: restore fails",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Files, 0),
                |files: &mut Vec<proto::FileEntry>| {
                    let mut stray = files[0].clone();
                    stray.id = 77;
                    stray.reg.as_mut().unwrap().id = 77;
                    files.push(stray);
                },
            );
        },
        "file 77 belongs to nobody: restore does not use it",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Files, 0),
                |files: &mut Vec<proto::FileEntry>| {
                    files[0].reg.as_mut().unwrap().id += 50;
                },
            );
        },
        "calls itself",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Fdinfo, 2),
                |table: &mut Vec<proto::FdinfoEntry>| {
                    table[0].id = 99;
                },
            );
        },
        "fdinfo-2.img: fd 0: file 99 is not in files.img: restore fails",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Fdinfo, 2),
                |table: &mut Vec<proto::FdinfoEntry>| {
                    table[1].fd = 0;
                },
            );
        },
        "fdinfo-2.img: fd 0: it stands there twice",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Core, PID),
                |core: &mut Vec<proto::CoreEntry>| {
                    core[0].tc.as_mut().unwrap().sigactions.pop();
                },
            );
        },
        "61 sigactions where 62 belong",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Core, PID),
                |core: &mut Vec<proto::CoreEntry>| {
                    core[0].thread_core.as_mut().unwrap().creds = None;
                },
            );
        },
        "no credentials: restore fails",
    ),
    (
        |images| {
            change(images, (Kind::Mm, PID), |mm: &mut Vec<proto::MmEntry>| {
                mm[0].vmas.swap(0, 1);
            });
        },
        "begins before the one in front of it ends",
    ),
    (
        |images| {
            change(images, (Kind::Mm, PID), |mm: &mut Vec<proto::MmEntry>| {
                mm[0].mm_saved_auxv.resize(45, 0);
            });
        },
        "more than 44 words",
    ),
    (
        |images| {
            change(
                images,
                (Kind::Pstree, 0),
                |tree: &mut Vec<proto::PstreeEntry>| {
                    let orphan = proto::PstreeEntry {
                        pid: 5,
                        ppid: 4,
                        threads: vec![5],
                        ..tree[0].clone()
                    };
                    tree.push(orphan);
                },
            );
        },
        "pstree.img: task 5: its parent 4 does not stand before it",
    ),
    (
        |images| {
            // A pagemap of pages that are further down, where nothing is.
            let file = File::create(images.join("pagemap-11927.img")).unwrap();
            let mut writer = ImageWriter::start(file, Kind::Pagemap, String::new()).unwrap();
            writer.entry(&proto::PagemapHead { pages_id: 1 }).unwrap();
            let entry = proto::PagemapEntry {
                vaddr: 0x40_0000,
                compat_nr_pages: 1,
                in_parent: None,
                flags: Some(1),
                nr_pages: Some(1),
            };
            writer.entry(&entry).unwrap();
            writer.finish().unwrap();
        },
        "1 pages from 0x400000 on are in no earlier folder",
    ),
    (
        |images| std::os::unix::fs::symlink(".", images.join("parent")).unwrap(),
        "leads back to itself",
    ),
    (
        |images| std::os::unix::fs::symlink("../gone", images.join("parent")).unwrap(),
        "parent: the earlier dump is gone",
    ),
    (
        |images| {
            std::fs::remove_file(images.join("files.img")).unwrap();
            nix::unistd::mkfifo(&images.join("files.img"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        },
        "files.img: it is no plain file",
    ),
];

#[test]
fn every_defect_is_named() {
    for (damage, expected) in CASES {
        let (_dir, images) = copy_of_fixture();
        damage(&images);
        let verdict = verify(&images).unwrap();
        assert!(!verdict.is_sound(), "{expected}");
        let said = verdict.to_string();
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
}

#[test]
fn random_damage_ends_in_words() {
    let (_dir, images) = copy_of_fixture();
    let rounds = if std::env::var_os("DEDUMP_TEST_FULL").is_some() {
        100_000
    } else {
        3000
    };
    let originals: Vec<(PathBuf, Vec<u8>)> = files(&images)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    // xorshift: the same damage in every run.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below.max(1) as u64).unwrap()
    };
    for _ in 0..rounds {
        let (path, whole) = &originals[random(originals.len())];
        let mut bytes = whole.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(random(256)).unwrap()),
                _ if bytes.is_empty() => {}
                _ => bytes[at] = u8::try_from(random(256)).unwrap(),
            }
        }
        std::fs::write(path, &bytes).unwrap();
        let said = verify(&images).unwrap().to_string();
        assert!(said.ends_with('\n'));
        std::fs::write(path, whole).unwrap();
    }
    assert_sound(&images);
}
