//! Looks at a folder in which one file is another one: the first line of the input is its path in
//! `images-fixtures`, the rest is what stands in it.
#![no_main]

use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use dedump::inspect::compare::compare;
use dedump::inspect::size::size;
use dedump::inspect::tree::{Details, tree};
use dedump::inspect::verify::verify;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A copy of all fixtures, in memory where there is such a file system.
static COPY: LazyLock<TempDir> = LazyLock::new(|| {
    let fast = Path::new("/dev/shm");
    let copy = if fast.is_dir() {
        tempfile::tempdir_in(fast)
    } else {
        tempfile::tempdir()
    };
    let copy = copy.expect("a folder can be made");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(fixtures().join("."))
        .arg(copy.path())
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    copy
});

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images-fixtures")
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (name, bytes) = end.map_or((input, &[][..]), |end| (&input[..end], &input[end + 1..]));
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    let name = Path::new(name);
    let is_plain = |part| matches!(part, Component::Normal(_));
    let Some(folder) = name.parent().filter(|_| name.components().all(is_plain)) else {
        return;
    };
    let sound = fixtures().join(folder);
    let copy = COPY.path().join(folder);
    let file = COPY.path().join(name);
    // No links: they would lead to other folders.
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|one| one.is_file());
    if !copy.join("pstree.img").exists() || (file.exists() && !is_file(&file)) {
        return;
    }
    if std::fs::write(&file, bytes).is_err() {
        return;
    }
    let _ = verify(&copy).map(|verdict| verdict.to_string());
    let _ = size(&copy).map(|size| (size.text(), size.svg()));
    let _ = compare(&sound, &copy).map(|comparison| (comparison.text(), comparison.json()));
    let all = Details {
        fds: true,
        maps: true,
    };
    let _ = tree(&copy).map(|tree| (tree.text(all), tree.dot(), tree.json(all)));
    let _ = match std::fs::read(fixtures().join(name)) {
        Ok(original) => std::fs::write(&file, original),
        Err(_) => std::fs::remove_file(&file),
    };
});
