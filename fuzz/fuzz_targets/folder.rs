//! Looks at a folder in which one file is another one: the first line of the input is its name, the
//! rest is what stands in it.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use dedump::inspect::size::size;
use dedump::inspect::tree::{Details, tree};
use dedump::inspect::verify::verify;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// A copy of a sound folder.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let fast = Path::new("/dev/shm");
    let copy = if fast.is_dir() {
        tempfile::tempdir_in(fast)
    } else {
        tempfile::tempdir()
    };
    let copy = copy.expect("a folder can be made");
    for file in std::fs::read_dir(sound()).expect("the fixtures are there") {
        let file = file.expect("the fixtures can be read").path();
        if let Some(name) = file.file_name() {
            let _ = std::fs::copy(&file, copy.path().join(name));
        }
    }
    copy
});

fn sound() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images-fixtures/one-task")
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (name, bytes) = end.map_or((input, &[][..]), |end| (&input[..end], &input[end + 1..]));
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return;
    }
    let folder = FOLDER.path();
    let path = folder.join(name);
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let _ = verify(folder).map(|verdict| verdict.to_string());
    let _ = size(folder).map(|size| (size.text(), size.svg()));
    let all = Details {
        fds: true,
        maps: true,
    };
    let _ = tree(folder).map(|tree| (tree.text(all), tree.dot()));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::copy(sound().join(name), &path);
});
