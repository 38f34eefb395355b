//! `docs/coverage.md` says which test proves what: those tests exist, and none is left out.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const TABLE: &str = include_str!("../../docs/coverage.md");

/// A row of the table.
struct Row {
    item: &'static str,
    verdict: &'static str,
    /// Names of tests; one that ends in `*` stands for all that begin so.
    tests: Vec<&'static str>,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| line.starts_with("| "));
    let cells = lines.map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        cells.map(str::trim).collect::<Vec<_>>()
    });
    let rows = cells.filter(|cells| cells[0] != "Item");
    rows.map(|cells| {
        let [item, verdict, tests] = cells[..] else {
            panic!("not three cells: {cells:?}");
        };
        Row {
            item,
            verdict,
            tests: tests.split('`').skip(1).step_by(2).collect(),
        }
    })
    .collect()
}

/// Whether a test of the library, named by its file, is there.
fn is_in_source(name: &str) -> bool {
    let Some((file, test)) = name
        .split_once("::")
        .filter(|(file, _)| file.ends_with(".rs"))
    else {
        return false;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.contains(&format!("#[test]\n    fn {test}()"))
}

fn stands_for(pattern: &str, test: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => test.starts_with(beginning),
        None => pattern == test,
    }
}

/// The names of all tests in this program.
fn tests() -> BTreeSet<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// The sources of scenario tests, each with the beginning of its tests' names.
fn scenario_sources() -> Vec<(String, String)> {
    fn add(folder: &Path, prefix: &str, sources: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = path.file_stem().unwrap().to_str().unwrap();
            let prefix = format!("{prefix}{module}::");
            if path.is_dir() {
                add(&path, &prefix, sources);
            } else {
                sources.push((prefix, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scenarios");
    let mut sources = Vec::new();
    add(&folder, "scenarios::", &mut sources);
    sources
}

/// The tests of scenarios that are listed as refused.
fn refused_scenarios() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (prefix, text) in scenario_sources() {
        for list in text.split("\nrefused! {\n").skip(1) {
            let list = list.split("\n}").next().unwrap();
            let entries = list.split(';').filter_map(|entry| {
                let mut lines = entry.lines().map(str::trim);
                let line = lines.find(|line| !line.is_empty() && !line.starts_with("//"))?;
                line.split(',').next()
            });
            names.extend(entries.map(|name| format!("{prefix}{}", name.trim())));
        }
    }
    names
}

#[test]
fn every_row_names_tests_that_exist_and_fit_its_verdict() {
    let tests = tests();
    let refused = refused_scenarios();
    let is_refusal = |test: &str| {
        test.starts_with("refusals::") || test.contains("refused") || refused.contains(test)
    };
    for row in rows() {
        let Row {
            item,
            verdict,
            tests: named,
        } = row;
        for pattern in &named {
            let is_there = tests.iter().any(|test| stands_for(pattern, test));
            assert!(
                is_there || is_in_source(pattern),
                "{item}: there is no test {pattern}"
            );
        }
        let of_the_library = named.iter().copied().filter(|name| is_in_source(name));
        let proofs: Vec<&str> = tests
            .iter()
            .map(String::as_str)
            .filter(|test| named.iter().any(|pattern| stands_for(pattern, test)))
            .chain(of_the_library)
            .collect();
        match verdict {
            "not yet" => assert!(named.is_empty(), "{item}: not yet, and tested?"),
            "supported" => {
                assert!(!named.is_empty(), "{item}: no test");
                assert!(
                    proofs.iter().any(|test| !is_refusal(test)),
                    "{item} is supported, but its tests refuse it"
                );
            }
            "refused" => {
                assert!(
                    proofs.iter().any(|test| is_refusal(test)),
                    "{item}: no test of a refusal"
                );
            }
            other => panic!("{item}: {other} is no verdict"),
        }
    }
}

#[test]
fn every_scenario_is_in_a_row() {
    let rows = rows();
    let tests = tests();
    let is_told = |test: &str| {
        let patterns = rows.iter().flat_map(|row| &row.tests);
        patterns
            .into_iter()
            .any(|pattern| stands_for(pattern, test))
    };
    let untold: Vec<&String> = tests
        .iter()
        .filter(|test| test.starts_with("scenarios::") && !is_told(test))
        .collect();
    assert!(
        untold.is_empty(),
        "put these into the rows of docs/coverage.md that they prove: {untold:#?}"
    );
}
