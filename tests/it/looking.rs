//! `dedump tree` and `dedump size` in all their forms, on kept folders, whose facts are known.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use dedump::image::catalogue::Kind;
use dedump::inspect::size::size;
use dedump::inspect::tree::tree;
use serde_json::Value;

use crate::fixtures::{fixtures, sound};
use crate::guest::run;

/// What a command prints about folders; nothing may be wrong.
fn told(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dedump"));
    let output = run(command.current_dir(fixtures()).args(arguments));
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&told(arguments)).unwrap()
}

/// The text of a quoted string of Graphviz, and what is behind it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.strip_prefix('"').unwrap().char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 2..]),
            '\\' => value.extend(['\\', letters.next().unwrap().1]),
            other => value.push(other),
        }
    }
    panic!("{text} does not end");
}

/// Nodes by name with their attributes, and edges, of a graph as we write it.
fn graph(text: &str) -> (HashMap<String, String>, Vec<(String, String)>) {
    let (mut nodes, mut edges) = (HashMap::new(), Vec::new());
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("digraph tree {"));
    assert_eq!(lines.next_back(), Some("}"));
    let name = |text: &str| match text.starts_with('"') {
        true => quoted(text).0,
        false => {
            let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric());
            assert!(is_plain, "{text}");
            text.to_owned()
        }
    };
    for line in lines {
        let line = line.trim().strip_suffix(';').unwrap();
        let (what, attributes) = line.split_once(" [").unwrap_or((line, "]"));
        let attributes = attributes.strip_suffix(']').unwrap();
        if let Some((from, to)) = what.split_once(" -> ") {
            edges.push((name(from), name(to)));
        } else if !["node", "edge"].contains(&what) {
            let (_, label) = attributes.split_once("label=").unwrap();
            let (label, rest) = quoted(label);
            assert_eq!(rest, "");
            let before = nodes.insert(name(what), label);
            assert_eq!(before, None, "{what} is there twice");
        }
    }
    (nodes, edges)
}

#[test]
fn graphs_have_a_node_for_each_thing_that_is_shared() {
    for folder in sound() {
        let text = tree(&folder).unwrap().dot();
        let (nodes, edges) = graph(&text);
        for (from, to) in &edges {
            let known = nodes.contains_key(from) && nodes.contains_key(to);
            assert!(known, "{}: {from} -> {to}: {text}", folder.display());
        }
        // What is drawn beside the tasks is shared.
        for node in nodes.keys().filter(|node| !node.starts_with('t')) {
            let users: HashSet<_> = edges.iter().filter(|(_, to)| to == node).collect();
            assert!(!users.is_empty(), "{}: {node}", folder.display());
        }
    }
    let (nodes, edges) = graph(&told(&["tree", "--dot", "shared-vm-dedump"]));
    let shared: Vec<&String> = nodes.keys().filter(|node| node.starts_with("vm")).collect();
    assert_eq!(shared.len(), 1, "{nodes:?}");
    let holders = edges.iter().filter(|(_, to)| to == shared[0]).count();
    assert!(holders >= 2, "{edges:?}");
    let tasks = nodes.keys().filter(|node| node.starts_with('t')).count();
    assert_eq!(tasks, 6);
}

#[test]
fn trees_are_told_to_programs() {
    for name in ["shared-dedump", "shared-criu-4.1", "shared-criu-4.2"] {
        let tree = json(&["tree", "--json", "--fds", "--maps", name]);
        let tasks = tree["tasks"].as_array().unwrap();
        assert_eq!(tasks.len(), 3, "{name}");
        // Two of the three have one descriptor table, as the guest does it.
        let tables: HashSet<_> = tasks.iter().map(|task| task["files_id"].as_u64()).collect();
        assert_eq!(tables.len(), 2, "{name}");
        let shared = tree["shared"].as_array().unwrap();
        let files = shared.iter().filter(|one| one["kind"] == "files");
        assert_eq!(files.count(), 1, "{name}: {shared:?}");
        let root = &tasks[0];
        assert_eq!(root["pid"], root["threads"][0]);
        assert!(tasks[1..].iter().all(|task| task["ppid"] == root["pid"]));
        for task in tasks {
            // Every descriptor counts in the summary of kinds.
            let fds = task["fds"].as_array().unwrap();
            let kinds = task["descriptors"].as_object().unwrap();
            let counted: u64 = kinds.values().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(fds.len() as u64, counted, "{name}");
            // What a task has is what its mappings have.
            for what in ["own_bytes", "shared_bytes"] {
                let maps = task["maps"].as_array().unwrap();
                let mapped: u64 = maps.iter().map(|map| map[what].as_u64().unwrap()).sum();
                assert_eq!(task["memory"][what], mapped, "{name}: {what} of {task}");
            }
        }
    }
    let tree = json(&["tree", "--json", "shared-vm-dedump"]);
    assert!(!tree["notes"].as_array().unwrap().is_empty());
    assert!(tree["tasks"][0].get("fds").is_none());
}

#[test]
fn what_a_restore_changes_is_noted_wherever_the_folder_is_looked_at() {
    for command in ["show", "verify", "tree", "size"] {
        let text = told(&[command, "shared-vm-dedump"]);
        let notes = text.lines().filter(|line| line.starts_with("note: "));
        assert!(notes.count() > 0, "{command}: {text}");
    }
    let both = told(&["compare", "shared-vm-dedump", "shared-vm-dedump"]);
    let notes = both
        .lines()
        .filter(|line| line.starts_with("note: shared-vm-dedump: "));
    assert!(notes.count() >= 2, "{both}");
}

/// The bytes of all images of a folder, each file once.
fn weighed(folder: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for below in [folder.to_owned(), folder.join("parent")] {
        // A link leads to an earlier dump, which counts for itself.
        let is_here = below.symlink_metadata().is_ok_and(|one| one.is_dir());
        for entry in std::fs::read_dir(&below).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = Kind::of_file_name(entry.file_name().to_str().unwrap());
            let is_counted = !matches!(kind, None | Some((Kind::Stats, _)));
            let file = entry.metadata().unwrap();
            if is_here && is_counted && seen.insert(file.ino()) {
                bytes += file.len();
            }
        }
    }
    bytes
}

#[test]
fn weights_add_up() {
    for folder in sound() {
        let size = size(&folder).unwrap();
        assert_eq!(size.bytes(), weighed(&folder), "{}", folder.display());
        let json = size.json();
        let kinds = json["kinds"].as_array().unwrap();
        let kinds: u64 = kinds
            .iter()
            .map(|kind| kind["bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(json["bytes"], kinds, "{}", folder.display());
        for task in &size.tasks {
            assert!(task.alone_bytes >= task.own_bytes(), "{task:?}");
            assert_eq!(task.with.is_empty(), task.shared_bytes() == 0, "{task:?}");
        }
        // Nothing is counted for two tasks, or for none that has it.
        let own: u64 = size.tasks.iter().map(|task| task.own_bytes()).sum();
        let common: u64 = size.common.iter().map(|(_, bytes)| bytes).sum();
        assert!(own + common <= size.bytes(), "{}", folder.display());
        assert_eq!(
            json["written_out_bytes"],
            size.bytes() + size.saved.bytes(),
            "{}",
            folder.display()
        );
    }
    // Two of three forked tasks have most pages in common: criu writes them all, dedump once.
    let of = |name: &str| size(&fixtures().join(name)).unwrap();
    let (ours, theirs) = (of("forked-dedump"), of("forked-criu-4.2"));
    assert!(ours.saved.pages_bytes > 0 && theirs.saved.pages_bytes == 0);
    assert!(ours.content.twin_pages < theirs.content.twin_pages);
    assert!(ours.bytes() < theirs.bytes());
    let chain = of("chain-dedump/3");
    assert!(chain.saved.earlier_bytes > 0);
}

#[test]
fn weights_are_told_in_every_form() {
    let text = told(&["size", "forked-dedump", "forked-criu-4.2"]);
    for part in [
        "forked-dedump: ",
        "forked-criu-4.2: ",
        "KIND",
        "pages-N",
        "TASK",
        "ALONE",
        "WITH EVERY REFERENCE WRITTEN OUT",
        "it would be",
        "it is",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let csv = told(&["size", "--csv", "forked-dedump", "forked-criu-4.2"]);
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["folder", "section", "name", "count", "bytes"]);
    assert!(
        rows[1..]
            .iter()
            .all(|row| row.len() == 5 && row[0] != "folder")
    );
    for folder in ["forked-dedump", "forked-criu-4.2"] {
        let weight = json(&["size", "--json", folder]);
        let rows = rows.iter().filter(|row| row[0] == folder);
        let bytes = |section: &str, name: Option<&str>| -> u64 {
            let rows = rows.clone().filter(|row| row[1] == section);
            let rows = rows.filter(|row| name.is_none_or(|name| row[2] == name));
            rows.map(|row| row[4].parse::<u64>().unwrap()).sum()
        };
        assert_eq!(weight["bytes"], bytes("whole", Some("it is")));
        assert_eq!(weight["bytes"], bytes("kind", None));
        assert_eq!(
            weight["written_out_bytes"],
            bytes("whole", Some("written out"))
        );
        let tasks = weight["tasks"].as_array().unwrap().iter();
        let own: u64 = tasks.map(|task| task["own_bytes"].as_u64().unwrap()).sum();
        assert_eq!(own, bytes("own", None));
    }
}

#[test]
fn treemaps_are_pictures_of_the_whole() {
    const PROGRAM: &str = "
import sys, xml.dom.minidom
svg = xml.dom.minidom.parse(sys.argv[1]).documentElement
width, height = [float(side) for side in svg.getAttribute('viewBox').split()[2:]]
sides = lambda rect: [float(rect.getAttribute(name)) for name in ('x', 'y', 'width', 'height')]
groups = [node for node in svg.childNodes if node.nodeName == 'g']
area = 0
for group in groups:
    rects = [sides(rect) for rect in group.getElementsByTagName('rect')]
    x, y, w, h = rects[0]
    assert x >= 0 and y >= 0 and x + w <= width + .2 and y + h <= height + .2, rects[0]
    area += w * h
    for inner in rects[1:]:
        assert inner[0] >= x and inner[1] >= y, (inner, rects[0])
        assert inner[0] + inner[2] <= x + w + .2 and inner[1] + inner[3] <= y + h + .2, (inner, rects[0])
assert abs(area / (width * height) - 1) < .01, area
for group in groups:
    print(group.getElementsByTagName('title')[0].firstChild.data)
";
    let dir = tempfile::tempdir().unwrap();
    let svg = dir.path().join("map.svg");
    let folder = fixtures().join("forked-dedump");
    told(&["size", "--svg", svg.to_str().unwrap(), "forked-dedump"]);
    let drawn = run(Command::new("/usr/bin/python3")
        .args(["-c", PROGRAM])
        .arg(&svg));
    assert!(drawn.status.success());
    let titles = String::from_utf8(drawn.stdout).unwrap();
    for task in size(&folder).unwrap().tasks {
        let start = format!("{} {}: ", task.pid, task.name);
        assert!(
            titles.lines().any(|line| line.starts_with(&start)),
            "{titles}"
        );
    }
    assert!(titles.contains("shared: "), "{titles}");
    // A picture shows one folder.
    let two = Command::new(env!("CARGO_BIN_EXE_dedump"))
        .args(["size", "--svg", "/dev/null"])
        .arg(&folder)
        .arg(&folder)
        .status();
    assert_eq!(two.unwrap().code(), Some(2));
}
