//! CRIU, as Debian ships it: the judge of our images.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::run;

/// A release that `tests/fetch-criu` brings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    Criu41,
    Criu42,
}

/// The folder of a release, or `None` with a word about it where it cannot be had.
///
/// In CI that is a failure: a test that was not run must not look like one that passed.
pub(crate) fn folder(release: Release) -> Option<PathBuf> {
    let name = match release {
        Release::Criu41 => "criu-4.1",
        Release::Criu42 => "criu-4.2",
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/oracle")
        .join(name);
    if folder.join("criu").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{name} is missing: run tests/fetch-criu"
    );
    eprintln!("SKIPPED: {name} is missing: run tests/run on a Debian machine");
    None
}

/// Brings a dumped tree back to life; it becomes a child of this process.
pub(crate) fn restore(release: Release, images: &Path) {
    restore_with(release, images, &[]);
}

/// The same with further arguments.
pub(crate) fn restore_with(release: Release, images: &Path, arguments: &[&str]) {
    let Some(folder) = folder(release) else {
        return;
    };
    let log = images.join("restore.log");
    let output = run(Command::new(folder.join("criu"))
        .args([
            "restore",
            "--no-default-config",
            "--restore-detached",
            "-v4",
            "-o",
            "restore.log",
            "-D",
        ])
        .arg(images)
        .args(arguments));
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("Error")).collect();
    assert!(output.status.success(), "{release:?}: {errors:#?}");
}

/// Decodes every image of a folder with CRIU's own tool.
pub(crate) fn decode(images: &Path) {
    let Some(folder) = folder(Release::Criu42) else {
        return;
    };
    let mut decoded = 0;
    for entry in std::fs::read_dir(images).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_image = path.extension().is_some_and(|extension| extension == "img");
        if !is_image || name.starts_with("pages-") || name.starts_with("dedump-") {
            continue;
        }
        let output = Command::new(folder.join("crit"))
            .arg("show")
            .arg(&path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("\"magic\""),
            "crit show {name}: {text}{errors}"
        );
        decoded += 1;
    }
    assert!(
        decoded >= 8,
        "only {decoded} images in {}",
        images.display()
    );
}
