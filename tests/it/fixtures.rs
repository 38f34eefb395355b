//! The image folders kept in the repository, ours and CRIU's, looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use dedump::image::catalogue::{Head, Kind};
use dedump::image::framing::Image;
use dedump::image::opened::OpenedFolder;
use dedump::image::proto::{Manifest, MmEntry};
use dedump::image::schema::{Field, Form, Holds, schema};
use dedump::inspect::memory::{Memory, Origin};
use dedump::inspect::paint::Paint;
use dedump::inspect::show::{Style, show, show_path};

use crate::guest::run;
use crate::oracle::{Release, folder};

/// Where the folders are.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images-fixtures")
}

/// All folders with images below a folder, those of chains one by one.
pub(crate) fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut subfolders: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        // Not `parent`, which is a link.
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.path())
        .collect();
    subfolders.sort();
    for subfolder in subfolders {
        if subfolder.join("pstree.img").exists() {
            found.push(subfolder.clone());
        }
        found.extend(folders_below(&subfolder));
    }
    found
}

/// The folders that are as they should be.
pub(crate) fn sound() -> Vec<PathBuf> {
    let mut folders = folders_below(&fixtures());
    folders.retain(|folder| !folder.starts_with(fixtures().join("damaged")));
    assert!(folders.len() >= 15, "{folders:?}");
    folders
}

fn images(folder: &Path) -> Vec<Image> {
    let folder = OpenedFolder::open(folder).unwrap();
    let (names, _) = folder.names().unwrap();
    let images = names
        .iter()
        .map(|name| folder.image_named(name).unwrap().unwrap());
    images.collect()
}

fn shown(image: &Image, style: Style) -> Vec<u8> {
    let mut text = Vec::new();
    show(image, style, &mut text).unwrap();
    text
}

fn crit(arguments: &[&str]) -> Option<Command> {
    let library = folder(Release::Criu42)?.join("usr/lib/python3/dist-packages");
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crit.py"))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", library);
    Some(command)
}

#[test]
fn manifests_know_every_image() {
    let mut with_manifest = 0;
    for folder in sound() {
        let path = folder.join(Kind::Manifest.file_name(0));
        if !path.exists() {
            continue;
        }
        with_manifest += 1;
        let manifest: Manifest = Image::open(&path).unwrap().decode(0).unwrap();
        for image in images(&folder) {
            if matches!(image.kind(), Kind::Manifest | Kind::Stats) {
                continue;
            }
            let name = image.name();
            let file = manifest.files.iter().find(|file| file.name == name);
            let file = file.unwrap_or_else(|| panic!("{}: {name}", folder.display()));
            assert_eq!(file.size_bytes, image.bytes().len() as u64, "{name}");
            assert_eq!(file.crc32, crc32fast::hash(image.bytes()), "{name}");
        }
    }
    assert!(with_manifest >= 8);
}

/// Every field of every message, as CRIU's own library describes it.
#[test]
fn the_schema_is_that_of_crit() {
    let Some(mut command) = crit(&["schema"]) else {
        return;
    };
    let output = run(&mut command);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut messages: BTreeMap<String, Vec<[String; 5]>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        if words[0] == "magics" {
            magics(&words[1..]);
            continue;
        }
        let [message, rest @ ..] = &words[..] else {
            panic!("{line}");
        };
        let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
        let fields = messages.entry(camel(message)).or_default();
        fields.push(rest.try_into().unwrap());
    }
    assert!(messages.len() > 130, "{}", messages.len());
    for (name, mut fields) in messages {
        fields.sort_by_key(|field| field[0].parse::<u32>().unwrap());
        let ours = schema()
            .message(&name)
            .unwrap_or_else(|| panic!("no {name}"));
        let ours: Vec<[String; 5]> = ours.fields.iter().map(described).collect();
        assert_eq!(ours, fields, "{name}");
    }
}

fn magics(words: &[&str]) {
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        let magic: u32 = value.parse().unwrap();
        // Not of images: the heads, a version, a cache of the restorer's own.
        if name.starts_with("IMG_") || name.starts_with("CRTOOLS") || name == "KDAT" {
            continue;
        }
        let kind = Kind::of_magic(magic).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(kind.magic_name(), name);
    }
}

fn camel(name: &str) -> String {
    let words = name.split('_').map(|word| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_uppercase() + rest,
        None => String::new(),
    });
    words.collect()
}

fn described(field: &Field) -> [String; 5] {
    let kind = match field.holds {
        // Names are bytes to Linux and texts to crit.
        Holds::Bytes if field.form == Form::Text => "string".to_owned(),
        Holds::Message(inner) => format!("message {}", snake(&schema().inner(inner).name)),
        Holds::Enum(names) => {
            let values = schema().values(names).iter();
            let values: Vec<String> = values.map(|(n, name)| format!("{name}={n}")).collect();
            format!("enum {}", values.join(","))
        }
        other => format!("{other:?}").to_lowercase(),
    };
    let form = match field.form {
        Form::Text => Form::Plain,
        form => form,
    };
    [
        field.number.to_string(),
        field.name.clone(),
        format!("{:?}", field.label),
        kind,
        format!("{form:?}"),
    ]
}

/// The other way round; digits belong to the word in front of them.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// What `show` writes of images is, letter by letter, what crit writes, and `crit encode` makes
/// the same files of it.
fn agree_with_crit(paths: &[PathBuf]) {
    let work = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for (number, path) in paths.iter().enumerate() {
        let image = Image::open(path).unwrap();
        for (suffix, style) in [("json", Style::Json), ("pretty", Style::Pretty)] {
            let text = work.path().join(format!("{number}.{suffix}"));
            std::fs::write(text, shown(&image, style)).unwrap();
        }
        // Whether the form for people panics.
        assert!(!shown(&image, Style::Readable(Paint::PLAIN)).is_empty());
        writeln!(list, "{number} {}", path.display()).unwrap();
    }
    std::fs::write(work.path().join("list"), list).unwrap();
    let Some(mut command) = crit(&["compare", work.path().to_str().unwrap()]) else {
        return;
    };
    let output = run(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(&format!("compared {}", paths.len())),
        "{text}"
    );
}

#[test]
fn all_fixtures_are_shown_as_crit_does() {
    let mut paths = Vec::new();
    // Where dedump found pages to be shared, some stand in a folder below.
    let mut folders = sound();
    folders.extend(sound().iter().map(|folder| folder.join("parent")));
    folders.retain(|folder| folder.is_dir());
    for folder in folders {
        let images = images(&folder).into_iter();
        // crit knows neither files of bytes nor our manifest.
        let known = images
            .filter(|image| image.kind().head() != Head::Raw && image.kind() != Kind::Manifest);
        paths.extend(known.map(|image| folder.join(image.name())));
    }
    assert!(paths.len() > 150, "{}", paths.len());
    agree_with_crit(&paths);
}

/// Images of every kind that crit knows, those of old dumpers too, with every field there is.
#[test]
fn every_field_is_shown_as_crit_does() {
    let made = tempfile::tempdir().unwrap();
    let Some(mut command) = crit(&["make", made.path().to_str().unwrap()]) else {
        return;
    };
    assert!(run(&mut command).status.success());
    let files = std::fs::read_dir(made.path()).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 500, "{}", paths.len());
    agree_with_crit(&paths);
}

/// The commands themselves, once.
#[test]
fn the_commands_lead_back_to_the_image() {
    let Some(criu) = folder(Release::Criu42) else {
        return;
    };
    let path = fixtures().join("files-dedump/files.img");
    let json = run(Command::new(env!("CARGO_BIN_EXE_dedump"))
        .args(["show", "--pretty"])
        .arg(&path));
    assert!(json.status.success());
    let work = tempfile::tempdir().unwrap();
    let text = work.path().join("files.json");
    std::fs::write(&text, &json.stdout).unwrap();
    let encoded = run(Command::new(criu.join("crit"))
        .args(["encode", "-i"])
        .arg(&text));
    assert_eq!(encoded.stdout, std::fs::read(&path).unwrap());
    let crit = run(Command::new(criu.join("crit")).arg("show").arg(&path));
    assert_eq!(
        String::from_utf8_lossy(&json.stdout),
        String::from_utf8_lossy(&crit.stdout)
    );
}

#[test]
fn show_is_fit_to_read() {
    let mut whole = Vec::new();
    for folder in sound() {
        show_path(&folder, Style::Readable(Paint::PLAIN), &mut whole).unwrap();
    }
    let whole = String::from_utf8(whole).unwrap();
    for part in [
        "mtype: X86_64",
        "prot: PROT_READ | PROT_WRITE",
        "flags: MAP_PRIVATE | MAP_ANON",
        "counter: 5",
        "content: 11 bytes \"in the FIFO\"",
        "content: 13 bytes \"in the \\x00 pipe\"",
        "seals: F_SEAL_SHRINK | F_SEAL_GROW",
        "sigmask: SIGUSR1 SIGTERM",
        "clockid: CLOCK_MONOTONIC",
        "events: EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLET",
        "data: 0xfeedfacecafe",
        "name: \"\\x00abstract \\xff name\"",
        "family: INET",
        "flag: FL_FLOCK",
        "mask: IN_MODIFY | IN_DELETE_SELF",
        "comm: \"na\\xc3\\xafve \\\"guest\\\"\"",
        "inventory.img: INVENTORY, ",
        "pages-1.img: PAGES, ",
        "no images: README.md",
    ] {
        assert!(whole.contains(part), "{part} is missing");
    }
    assert!(
        !whole.contains("unknown field"),
        "a field is not in the schema"
    );
    assert!(!whole.contains('\x1b'));
}

/// What the guest wrote into its memory is found in the last dump of a chain.
#[test]
fn memory_is_read_through_all_levels() {
    let folder = OpenedFolder::open(&fixtures().join("chain-dedump/3")).unwrap();
    let (names, _) = folder.names().unwrap();
    let pid = names
        .iter()
        .find_map(|name| match Kind::of_file_name(name) {
            Some((Kind::Mm, pid)) => Some(pid),
            _ => None,
        })
        .unwrap();
    let memory = Memory::open(&folder, pid).unwrap();
    let mm: MmEntry = folder
        .image(Kind::Mm, pid)
        .unwrap()
        .unwrap()
        .decode(0)
        .unwrap();
    let mut first_lines = Vec::new();
    let mut of_a_file = 0;
    for vma in &mm.vmas {
        for page in (vma.start..vma.end).step_by(4096) {
            let mut bytes = [0; 32];
            match memory.read(page, &mut bytes).unwrap() {
                Origin::Saved if bytes.starts_with(b"page ") => {
                    let text = String::from_utf8_lossy(&bytes);
                    let number = text["page ".len()..].split(',').next().unwrap();
                    first_lines.push(number.parse::<u32>().unwrap());
                }
                Origin::File(path, _) => {
                    assert!(path.ends_with(b"/guest"), "{}", path.escape_ascii());
                    of_a_file += 1;
                }
                _ => {}
            }
        }
    }
    first_lines.sort_unstable();
    // Six private pages and four shared ones; in each of three rounds one of both was written.
    assert_eq!(first_lines, [0, 1, 3, 4, 5, 103, 1000, 1001, 2000, 2001]);
    assert!(of_a_file > 10, "{of_a_file}");
    let mut bytes = [0; 16];
    assert_eq!(memory.read(8, &mut bytes).unwrap(), Origin::Unmapped);
}

#[test]
fn a_hexdump_tells_where_the_bytes_are_from() {
    let folder = fixtures().join("one-task");
    let dump = |arguments: &[&str]| {
        let output = run(Command::new(env!("CARGO_BIN_EXE_dedump"))
            .arg("show")
            .arg(&folder)
            .args(arguments));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let mm = Image::open(&folder.join("mm-11927.img")).unwrap();
    let mm: MmEntry = mm.decode(0).unwrap();
    let stack = mm.mm_arg_start & !15;
    let (code, text, _) = dump(&[
        "--pid",
        "11927",
        "--addr",
        &format!("{stack:#x}"),
        "--len",
        "48",
    ]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("saved\n") && text.contains("./pause"),
        "{text}"
    );
    let last = format!("\n{:016x}\n", stack + 48);
    assert!(text.ends_with(&last), "{text}");
    let (code, _, error) = dump(&["--pid", "1", "--addr", "0", "--len", "1"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("no memory of a process 1: name one of 11927"),
        "{error}"
    );
    let (code, _, error) = dump(&["--pid", "1"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("--addr"), "{error}");
}

/// Damage is named, and what is sound is shown all the same.
#[test]
fn damage_is_named() {
    let folder = fixtures().join("damaged/cut-entry");
    let mut text = Vec::new();
    let style = Style::Readable(Paint::PLAIN);
    let failure = show_path(&folder, style, &mut text)
        .unwrap_err()
        .to_string();
    let text = String::from_utf8(text).unwrap();
    assert!(failure.contains("files.img: at byte") && failure.contains("are announced"));
    assert!(
        text.contains("damaged at byte") && text.contains("mm-11927.img: MM"),
        "{text}"
    );
    let mut json = Vec::new();
    show_path(&folder.join("files.img"), Style::Json, &mut json).unwrap_err();
    assert_eq!(json, b"", "half a document");
}

#[test]
fn colours_are_for_terminals() {
    let shown = |terminal: bool, no_color: &str| {
        let program = format!(
            "{} show {}",
            env!("CARGO_BIN_EXE_dedump"),
            fixtures().join("one-task/pstree.img").display()
        );
        let mut command = if terminal {
            let mut script = Command::new("script");
            script.args(["-qec", &program, "/dev/null"]);
            script
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", &program]);
            shell
        };
        let output = run(command.env("NO_COLOR", no_color).env("TERM", "xterm"));
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(true, "").contains("\x1b["));
    assert!(!shown(true, "1").contains('\x1b'));
    assert!(!shown(false, "").contains('\x1b'));
}

#[test]
fn folders_are_small_and_say_what_they_are() {
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut folders = folders_below(&path);
        folders.push(path.clone());
        let is_damaged = name == "damaged";
        let bytes = |folder: &PathBuf| -> u64 {
            let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
            files.map(|file| file.metadata().unwrap().len()).sum()
        };
        let most = folders.iter().map(bytes).max().unwrap();
        let size = if is_damaged {
            most
        } else {
            folders.iter().map(bytes).sum()
        };
        assert!(size < 300 << 10, "{name} has {size} bytes");
        let readme = std::fs::read_to_string(path.join("README.md")).unwrap();
        assert!(readme.starts_with(&format!("# {name}\n")), "{name}");
    }
}
