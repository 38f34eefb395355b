//! Damaged images of every sort: nothing that looks at them panics, hangs or takes memory.
//!
//! Each mutation is shown, and, in turn, the folder it stands in is verified, measured, drawn as a
//! tree, or compared with what it was. A process of its own does it, so that its memory can be measured. `DEDUMP_TEST_FULL=1`
//! makes a million mutations, else it is a sample; `DEDUMP_TEST_SEED` starts from another number.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dedump::image::framing::Image;
use dedump::inspect::compare::compare;
use dedump::inspect::paint::Paint;
use dedump::inspect::show::{Style, show};
use dedump::inspect::size::size;
use dedump::inspect::tree::{Details, tree};
use dedump::inspect::verify::verify;

use crate::fixtures::{fixtures, sound};

const MOST_MEMORY_KIB: u64 = 256 << 10;

/// Reproducible numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Counts what is written, and keeps nothing of it.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Damages bytes in one of the ways in which files are damaged, and in some in which they are not.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const ODD: [u32; 8] = [
        0,
        1,
        0x7f,
        0x80,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
    ];
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = dice.below(bytes.len());
    let len = 1 + dice.below(16);
    let end = (at + len).min(bytes.len());
    match dice.below(9) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] = dice.next().to_le_bytes()[0],
        3 | 4 => {
            // A length, a count, a magic.
            let value = ODD[dice.below(ODD.len())].to_le_bytes();
            let room = bytes.len().min(at + 4) - at;
            bytes[at..at + room].copy_from_slice(&value[..room]);
        }
        5 => drop(bytes.drain(at..end)),
        6 => {
            let copy = bytes[at..end].to_vec();
            let to = dice.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        7 => bytes[at..end].fill(0),
        _ => {
            let more: Vec<u8> = (0..len).map(|_| dice.next().to_le_bytes()[0]).collect();
            bytes.extend(more);
        }
    }
}

/// Shows an image in every form; says whether it can be told to be damaged.
fn look(name: &str, bytes: Vec<u8>) -> bool {
    let Ok(image) = Image::from_bytes(name, bytes) else {
        return true;
    };
    let mut damaged = false;
    for style in [Style::Readable(Paint::PLAIN), Style::Json, Style::Pretty] {
        let mut sink = Sink(0);
        damaged |= show(&image, style, &mut sink).is_err();
        assert!(sink.0 < 64 << 20, "{name}: {} bytes of text", sink.0);
    }
    damaged
}

/// A copy of a folder, whose files are damaged one after the other.
struct Patient {
    sound: PathBuf,
    copy: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// Copies all folders that are as they should be, chains as a whole.
fn patients(into: &Path) -> Vec<Patient> {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(fixtures())
        .arg(into)
        .status();
    assert!(copied.unwrap().success());
    let root = into.join("images-fixtures");
    let patient = |sound: PathBuf| {
        let copy = root.join(sound.strip_prefix(fixtures()).unwrap());
        let mut files: Vec<_> = std::fs::read_dir(&copy)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| (entry.path(), std::fs::read(entry.path()).unwrap()))
            .filter(|(path, _)| !path.ends_with("README.md"))
            .collect();
        files.sort();
        Patient { sound, copy, files }
    };
    sound().into_iter().map(patient).collect()
}

/// Looks at a damaged folder in one of the ways there are.
fn look_at_folder(patient: &Patient, way: u64) {
    match way % 4 {
        0 => drop(verify(&patient.copy).map(|verdict| (verdict.to_string(), verdict.json()))),
        1 => drop(
            size(&patient.copy).map(|size| (size.text(), size.json(), size.csv(true), size.svg())),
        ),
        2 => drop(
            compare(&patient.sound, &patient.copy)
                .map(|comparison| (comparison.text(), comparison.json())),
        ),
        _ => drop(tree(&patient.copy).map(|tree| {
            let all = Details {
                fds: true,
                maps: true,
            };
            (tree.text(all), tree.dot(), tree.json(all))
        })),
    }
}

#[test]
#[ignore = "started by the test below"]
fn worker() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (count, seed) = (number("MUTATIONS"), number("MUTATIONS_SEED"));
    // In memory, where there is such a file system: every mutation is written.
    let shared_memory = Path::new("/dev/shm");
    let work = if shared_memory.is_dir() {
        tempfile::tempdir_in(shared_memory)
    } else {
        tempfile::tempdir()
    };
    let work = work.unwrap();
    let patients = patients(work.path());
    let mut found = 0_u64;
    for round in 0..count {
        // Each round has its own dice, so that one can be repeated.
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let patient = &patients[dice.below(patients.len())];
        let (path, original) = &patient.files[dice.below(patient.files.len())];
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut bytes = original.clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut bytes, &mut dice);
        }
        std::fs::write(path, &bytes).unwrap();
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(|| {
            look_at_folder(patient, round);
            look(name, bytes)
        });
        std::fs::write(path, original).unwrap();
        let damaged =
            outcome.unwrap_or_else(|_| panic!("round {round} of seed {seed}: {}", path.display()));
        found += u64::from(damaged);
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "round {round} of seed {seed}: {}",
            path.display()
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!("damage found in {found} of {count}, {peak}");
}

#[test]
fn no_mutation_is_too_much() {
    let full = std::env::var_os("DEDUMP_TEST_FULL").is_some_and(|value| value == "1");
    let count: u64 = if full { 1_000_000 } else { 10_000 };
    let seed = std::env::var("DEDUMP_TEST_SEED").unwrap_or_else(|_| "20260101".to_owned());
    let worker = Command::new(std::env::current_exe().unwrap())
        .args(["mutations::worker", "--exact", "--ignored", "--nocapture"])
        .env("MUTATIONS", count.to_string())
        .env("MUTATIONS_SEED", &seed)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = worker.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let line = text
        .lines()
        .find(|line| line.contains("damage found"))
        .unwrap();
    let numbers = line.split(|letter: char| !letter.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
    let [found, done, peak_kib] = numbers[..] else {
        panic!("{line}");
    };
    println!("{line}");
    assert_eq!(done, count);
    assert!(peak_kib < MOST_MEMORY_KIB, "{line}");
    // Most mutations hit something that can be told.
    assert!(found * 4 > count, "{line}");
}
