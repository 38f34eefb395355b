//! `dedump compare`: what happened between two dumps is told, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use dedump::inspect::compare::{Comparison, EntryChange, Fate, PageCount, compare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::fixtures::{fixtures, sound};
use crate::guest::{Guest, dedump, images, program, run, session};
use crate::oracle::Release;
use crate::verify::dump_by_criu;

fn dump(guest: &Guest, images: &Path) {
    let output = run(&mut dedump(guest.pid(), images, &["-R"]));
    assert!(output.status.success());
}

/// Exit code, output and complaints of `dedump compare`.
fn told(arguments: &[&Path], json: bool) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dedump"));
    command.arg("compare").args(arguments);
    if json {
        command.arg("--json");
    }
    let output = run(&mut command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Changes as `- image: entry`.
fn lines(comparison: &Comparison) -> Vec<String> {
    let entries = comparison.entries.iter().map(|one| {
        let mark = match one.fate {
            Fate::Removed => '-',
            Fate::Added => '+',
            Fate::Changed => '~',
        };
        format!("{mark} {}: {}", one.image, one.entry)
    });
    entries.collect()
}

/// The fields of a change, as `name: before -> after`.
fn fields(comparison: &Comparison, entry: &str) -> Vec<String> {
    let change = comparison.entries.iter().find(|one| one.entry == entry);
    let change = change.unwrap_or_else(|| panic!("nothing is told of {entry}"));
    let fields = change.fields.iter().map(|field| {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        format!(
            "{}: {} -> {}",
            field.name,
            value(&field.before),
            value(&field.after)
        )
    });
    fields.collect()
}

/// Whether nothing differs but these fields.
fn only(change: &EntryChange, fields: &[&str]) -> bool {
    let mut names = change.fields.iter().map(|field| field.name.as_str());
    change.fate == Fate::Changed && names.all(|name| fields.contains(&name))
}

/// The pages of the mapping that starts at an address.
fn pages_at(comparison: &Comparison, start: u64) -> PageCount {
    let rows = &comparison.changed_pages;
    let row = rows.iter().find(|row| row.start == start);
    row.unwrap_or_else(|| panic!("{start:#x} is not in {rows:?}"))
        .pages
}

#[test]
fn what_happened_in_between_is_told() {
    let guest = Guest::of_ours("changes");
    let (dir, before) = images();
    let after = dir.path().join("after");
    dump(&guest, &before);
    kill(Pid::from_raw(guest.pid()), Signal::SIGUSR1).unwrap();
    guest.wait_for("changed");
    dump(&guest, &after);
    let comparison = compare(&before, &after).unwrap();
    let pid = guest.pid();
    let output = guest.output();
    let children: Vec<u32> = output
        .lines()
        .filter_map(|line| line.strip_prefix("child ")?.parse().ok())
        .collect();
    assert_eq!(comparison.tasks_in_both, 1);
    assert_eq!(comparison.gone[0].pid, children[0]);
    assert_eq!(comparison.come[0].pid, children[1]);
    assert_eq!((comparison.gone.len(), comparison.come.len()), (1, 1));

    let lines = lines(&comparison);
    for wanted in [
        format!("- fdinfo-N: fd 11 of {pid}"),
        format!("- files: open file, fd 11 of {pid}"),
        format!("~ fdinfo-N: fd 12 of {pid}"),
        format!("- files: open file, fd 12 of {pid}"),
        format!("+ files: open file, fd 12 of {pid}"),
        format!("+ fdinfo-N: fd 22 of {pid}"),
        format!("~ files: open file, fd 10 of {pid}"),
        format!("~ files: open file, fd 13 of {pid}"),
        format!("~ pipes-data: what waits in the pipe, fd 20 of {pid}"),
        format!("~ fs-N: folders of {pid}"),
        format!("+ mm-N: mapping 0x40000000-0x40002000 of {pid}"),
        format!("- mm-N: mapping 0x30000000-0x30001000 of {pid}"),
    ] {
        assert!(lines.contains(&wanted), "{wanted} is not in {lines:#?}");
    }
    // Besides, only the registers, and the position in the output.
    let others = lines.iter().filter(|line| {
        let known = ["core-N", "fdinfo-N", "files", "fs-N", "mm-N", "pipes-data"];
        let image = line[2..].split(':').next().unwrap();
        !known.contains(&image) || (line.contains("mm-N") && line.starts_with('~'))
    });
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());

    let of = |fd| fields(&comparison, &format!("open file, fd {fd} of {pid}"));
    assert_eq!(of(10), ["reg.pos: 10 -> 3"]);
    assert_eq!(of(13), ["efd.counter: 7 -> 12"]);
    let umask = fields(&comparison, &format!("folders of {pid}"));
    assert_eq!(umask.len(), 1, "{umask:?}");
    let moved = fields(&comparison, &format!("fd 12 of {pid}"));
    assert!(
        moved.len() == 1 && moved[0].contains("/old -> REG ") && moved[0].ends_with("/new"),
        "{moved:?}"
    );

    let private = pages_at(&comparison, 0x1000_0000);
    let counts = PageCount {
        same: 5,
        changed: 2,
        new: 1,
        gone: 0,
    };
    assert_eq!(private, counts);
    assert_eq!(pages_at(&comparison, 0x4000_0000).new, 2);
    assert_eq!(pages_at(&comparison, 0x3000_0000).gone, 1);
    let shared = comparison.changed_pages.iter();
    let shared: Vec<_> = shared.filter(|row| row.what == "shared memory").collect();
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert_eq!((shared[0].pages.changed, shared[0].pages.same), (1, 7));

    let (code, text, _) = told(&[&before, &after], false);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(&format!("\n- {} changes: ", children[0])),
        "{text}"
    );
    let (code, json, _) = told(&[&before, &after], true);
    assert_eq!(code, Some(1));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["same"], false);
    assert_eq!(json["tasks"]["gone"][0]["pid"], children[0]);
    assert_eq!(json["pages"]["changed"], comparison.pages.changed);
}

#[test]
fn nothing_differs_where_nothing_happened() {
    let guest = Guest::of_ours_with("pool", &["4", "star", "3", "10"]);
    let (dir, images) = images();
    dump(&guest, &images);
    let copy = dir.path().join("copy");
    // Files that the folder has once, with several names, the copy has several times.
    let copied = run(Command::new("cp").arg("-r").arg(&images).arg(&copy));
    assert!(copied.status.success());
    let comparison = compare(&images, &copy).unwrap();
    assert!(comparison.is_same(), "{}", comparison.text());
    assert!(comparison.pages.same > 1000 && comparison.entries_compared > 100);
    let (code, text, _) = told(&[&images, &copy], false);
    assert_eq!(code, Some(0), "{text}");
    // One changed byte of a page that all have is seen.
    let pages = copy.join("parent/pages-1.img");
    let sound = std::fs::read(&pages).unwrap();
    let mut bytes = sound.clone();
    bytes[4096 * 7 + 5] ^= 1;
    std::fs::write(&pages, bytes).unwrap();
    let comparison = compare(&images, &copy).unwrap();
    assert!(comparison.pages.changed >= 1 && comparison.entries.is_empty());
    std::fs::write(&pages, sound).unwrap();
}

#[test]
fn kept_folders_equal_themselves() {
    for folder in sound() {
        let comparison = compare(&folder, &folder).unwrap();
        assert!(comparison.is_same(), "{}", comparison.text());
        assert!(comparison.entries_compared > 5);
    }
}

/// Two dumps of one tree at one moment, by criu and by dedump: the same tasks, descriptors,
/// mappings and pages, whatever they are numbered and wherever they stand.
#[test]
fn criu_and_dedump_tell_of_the_same_tree() {
    for (guest, arguments, word) in [
        ("pool", &["4", "star", "3", "10"][..], "ready"),
        // By then every thread has begun.
        ("threads", &[], "round 1"),
        ("changes", &[], "ready"),
    ] {
        let guest = Guest::start(Command::new(program(guest)).args(arguments), word);
        // It stands still, and so does what it holds.
        for pid in session(guest.pid()) {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        }
        let (dir, ours) = images();
        let theirs = dir.path().join("criu");
        dump_by_criu(Release::Criu42, guest.pid(), &theirs, &[]);
        if !theirs.exists() {
            return;
        }
        let output = run(&mut dedump(guest.pid(), &ours, &["-R", "--timeout", "0"]));
        assert!(output.status.success());
        let comparison = compare(&theirs, &ours).unwrap();
        eprintln!("{}", comparison.text());
        assert!(comparison.gone.is_empty() && comparison.come.is_empty());
        let PageCount {
            same,
            changed,
            new,
            gone,
        } = comparison.pages;
        // The kernel writes the number of the processor into a page of each thread (rseq(2)).
        let pids = session(guest.pid()).into_iter();
        let threads = pids.map(|pid| {
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .count()
        });
        assert!(
            changed <= threads.sum::<usize>() as u64 && new + gone == 0 && same > 10,
            "{}",
            comparison.text()
        );
        // What tasks have and where is the same; criu writes build ids and one advice more.
        let is_known = |change: &&EntryChange| match change.image.as_str() {
            "seccomp" | "cgroup" => change.fate == Fate::Removed,
            "core-N" => only(change, &["tc.cg_set", "thread_core.cg_set"]),
            "mm-N" => only(change, &["madv"]) && change.what.ends_with("[vvar]"),
            "files" => only(change, &["reg.build_id", "memfd.flags"]),
            _ => false,
        };
        let entries = comparison.entries.iter();
        let others: Vec<_> = entries.filter(|change| !is_known(change)).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

/// Folders of different runs have no pid in common.
#[test]
fn runs_of_one_program_are_compared_by_place() {
    let folder = |name: &str| fixtures().join(name);
    let comparison = compare(&folder("forked-criu-4.2"), &folder("forked-dedump")).unwrap();
    assert!(comparison.by_place);
    assert_eq!(comparison.tasks_in_both, 3);
    assert!(comparison.gone.is_empty() && comparison.come.is_empty());
}

#[test]
fn a_folder_that_is_not_there_is_trouble() {
    let one = fixtures().join("one-task");
    let nowhere = PathBuf::from("/nowhere");
    let (code, _, error) = told(&[&one, &nowhere], false);
    assert_eq!(code, Some(2));
    assert!(error.contains("/nowhere"), "{error}");
    let (code, ..) = told(&[&one], false);
    assert_eq!(code, Some(2));
}

#[test]
fn damage_is_named_and_makes_a_difference() {
    let sound = fixtures().join("one-task");
    for entry in std::fs::read_dir(fixtures().join("damaged")).unwrap() {
        let damaged = entry.unwrap().path();
        if !damaged.is_dir() {
            continue;
        }
        let (code, ..) = told(&[&sound, &damaged], false);
        // What only the manifest or restore would notice is no difference of the tree.
        let is_unseen = [
            "bytes-behind",
            "crc",
            "long-pages",
            "no-inventory",
            "not-in-the-manifest",
            "size",
        ];
        let name = damaged.file_name().unwrap().to_str().unwrap();
        let wanted = if is_unseen.contains(&name) {
            None
        } else {
            Some(1)
        };
        assert!(
            wanted.is_none_or(|wanted| code == Some(wanted)),
            "{name}: {code:?}"
        );
        assert!(matches!(code, Some(0 | 1)), "{name}: {code:?}");
    }
    let (_, _, error) = told(&[&sound, &fixtures().join("damaged/cut-entry")], false);
    assert!(
        error.contains("damaged/cut-entry: files.img: byte "),
        "{error}"
    );
}
