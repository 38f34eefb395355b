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
    restore_by(&mut Command::new(folder.join("criu")), images, arguments);
}

/// The same as on a machine whose vdso is another one: criu has a switch for its own tests.
pub(crate) fn restore_with_foreign_vdso(release: Release, images: &Path) {
    const FOREIGN_VDSO: &str = "127";
    let Some(folder) = folder(release) else {
        return;
    };
    let mut criu = Command::new(folder.join("criu"));
    restore_by(criu.env("CRIU_FAULT", FOREIGN_VDSO), images, &[]);
}

fn restore_by(criu: &mut Command, images: &Path, arguments: &[&str]) {
    let log = images.join("restore.log");
    let output = run(criu
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
    assert!(output.status.success(), "{criu:?}: {errors:#?}");
}

/// Decodes every image of a folder with the library of CRIU's own tool: in one go, since crit
/// itself takes one image a time.
pub(crate) fn decode(images: &Path) {
    const PROGRAM: &str = "
import pycriu, sys
for path in sys.argv[1:]:
    with open(path, 'rb') as image:
        if not pycriu.images.load(image, True)['magic']:
            sys.exit('no magic: ' + path)
";
    let Some(folder) = folder(Release::Criu42) else {
        return;
    };
    let entries = std::fs::read_dir(images).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let paths: Vec<_> = paths
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(".img") && !name.starts_with("pages-") && !name.starts_with("dedump-")
        })
        .collect();
    assert!(paths.len() >= 8, "only {paths:?}");
    let output = run(Command::new("/usr/bin/python3")
        .env("PYTHONPATH", folder.join("usr/lib/python3/dist-packages"))
        .args(["-c", PROGRAM])
        .args(&paths));
    assert!(output.status.success(), "{}", images.display());
}
