//! What `verify` says of the folders of `images-fixtures`: each defect of the damaged ones is found,
//! the others are sound.

use std::process::Command;

use dedump::inspect::verify::verify;

use crate::fixtures::{fixtures, sound};
use crate::guest::run;

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
fn every_damage_is_found() {
    let mut cases = 0;
    for entry in std::fs::read_dir(fixtures().join("damaged")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        cases += 1;
        let output = run(Command::new(env!("CARGO_BIN_EXE_dedump"))
            .arg("verify")
            .arg(&folder));
        assert_eq!(output.status.code(), Some(1), "{}", folder.display());
        let found = String::from_utf8(output.stdout).unwrap();
        let wanted = std::fs::read_to_string(folder.join("verdict")).unwrap();
        for line in wanted.lines() {
            let (image, word) = line.split_once('\t').unwrap();
            let (_, text) = WORDS.iter().find(|(known, _)| *known == word).unwrap();
            let told = |line: &str| line.starts_with(image) && line.contains(text);
            assert!(
                found.lines().any(told),
                "{}: {word}: {found}",
                folder.display()
            );
        }
    }
    assert!(cases >= 20, "{cases}");
}

#[test]
fn undamaged_folders_are_sound() {
    for folder in sound() {
        let verdict = verify(&folder).unwrap();
        assert!(verdict.is_sound(), "{}: {verdict}", folder.display());
    }
}
