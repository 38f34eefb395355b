//! Damaged images of every sort: nothing that looks at them panics, hangs or takes memory.
//!
//! A process of its own does it, so that its memory can be measured and its end waited for.
//! `DEDUMP_TEST_FULL=1` makes a million mutations, else it is a sample; `DEDUMP_TEST_SEED` starts
//! from another number.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dedump::image::framing::Image;
use dedump::inspect::paint::Paint;
use dedump::inspect::show::{Style, show};

use crate::fixtures::sound;

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

/// Shows an image in every form; says whether damage was found.
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

#[test]
#[ignore = "started by the test below"]
fn worker() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (count, seed) = (number("MUTATIONS"), number("MUTATIONS_SEED"));
    let mut originals = Vec::new();
    for folder in sound() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let is_raw = name.starts_with("pages-") || name == "README.md";
            if entry.file_type().unwrap().is_file() && !is_raw {
                originals.push((name, std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    originals.sort();
    originals.dedup();
    let mut found = 0_u64;
    for round in 0..count {
        // Each round has its own dice, so that one can be repeated.
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (name, original) = &originals[dice.below(originals.len())];
        let mut bytes = original.clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut bytes, &mut dice);
        }
        let started = Instant::now();
        let outcome = std::panic::catch_unwind(|| look(name, bytes));
        let damaged = outcome.unwrap_or_else(|_| panic!("round {round} of seed {seed}: {name}"));
        found += u64::from(damaged);
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "round {round}: {name}"
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
    let count: u64 = if full { 1_000_000 } else { 20_000 };
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
