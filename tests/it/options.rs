//! Options as programs that drive `criu dump` give them, beside criu itself.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cgroups::hierarchies;
use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, folder, restore};
use crate::outside::Outside;

/// Says something all the time.
fn talker() -> Guest {
    let script = "import time
print('ready', flush=True)
while True:
    print('at', flush=True)
    time.sleep(0.02)
";
    Guest::of_python(script, "ready")
}

/// `criu dump` of a tree, which reads no configuration files of this machine.
fn criu(pid: i32, images: &Path, arguments: &[&str]) -> Option<Command> {
    std::fs::create_dir_all(images).unwrap();
    let mut command = Command::new(folder(Release::Criu42)?.join("criu"));
    command
        .args(["dump", "-t", &pid.to_string(), "-D"])
        .arg(images)
        .args(arguments);
    Some(command)
}

/// A program that notes when it was run, under two names.
struct Script {
    dir: TempDir,
}

impl Script {
    /// Fails at the moment `fails_at`.
    fn new(fails_at: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "#!/bin/sh
exec 9>>{record}
echo \"$(basename $0) $CRTOOLS_SCRIPT_ACTION with $# arguments in $PWD\" >&9
env | sed -n 's/^\\(CRTOOLS[^=]*\\)=.*/variable \\1/p' | sort >&9
ls -d \"$CRTOOLS_IMAGE_DIR\"/inventory.img >/dev/null 2>&1 && echo complete >&9
echo \"root $(sed -n 's/^State:\\t\\(.\\).*/\\1/p' /proc/$CRTOOLS_INIT_PID/status)\" >&9
touch \"$CRTOOLS_IMAGE_DIR/seen-at-$CRTOOLS_SCRIPT_ACTION\"
echo \"said at $CRTOOLS_SCRIPT_ACTION\"
[ $CRTOOLS_SCRIPT_ACTION != {fails_at} ] || exit 7
",
            record = dir.path().join("record").display()
        );
        for name in ["one", "two"] {
            let path = dir.path().join(name);
            std::fs::write(&path, &text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    fn arguments(&self) -> Vec<String> {
        let option = |name| format!("--action-script={}", self.dir.path().join(name).display());
        vec![option("one"), option("two")]
    }

    fn record(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("record")).unwrap_or_default()
    }
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Runs both dumpers with scripts on trees of their own, and gives their exit codes.
fn with_scripts(fails_at: &str, arguments: &[&str], check: impl Fn(&mut Guest, &Path)) {
    let mut records = Vec::new();
    for is_ours in [false, true] {
        let mut guest = talker();
        let script = Script::new(fails_at);
        let (_dir, images) = images();
        let scripts = script.arguments();
        let scripts = scripts.iter().map(String::as_str);
        let all = scripts.chain(["--no-default-config", "-o", "dump.log", "-v4"]);
        let all: Vec<&str> = all.chain(arguments.iter().copied()).collect();
        let command = if is_ours {
            Some(dedump(guest.pid(), &images, &all))
        } else {
            criu(guest.pid(), &images, &all)
        };
        let Some(mut command) = command else { return };
        let output = run(&mut command);
        let log = std::fs::read_to_string(images.join("dump.log")).unwrap_or_default();
        check(&mut guest, &images);
        // Where the work folder is, and nothing else, differs.
        let record = script
            .record()
            .replace(&images.display().to_string(), "IMAGES")
            // It sleeps most of the time.
            .replace("root R", "root S");
        let said: Vec<String> = log
            .lines()
            .filter(|line| line.starts_with("said at"))
            .map(str::to_owned)
            .collect();
        records.push((output.status.code(), record, said));
    }
    assert_eq!(records[1], records[0], "left: dedump, right: criu");
    assert!(records[0].1.contains("pre-dump"), "{}", records[0].1);
}

#[test]
fn scripts_run_as_under_criu() {
    with_scripts("never", &["--leave-running"], |guest, images| {
        guest.goes_on();
        assert!(entries(images).contains(&"seen-at-post-dump".to_owned()));
    });
    with_scripts("never", &[], |guest, _| {
        let others = guest.other_sessions();
        guest.reap(&others);
    });
}

#[test]
fn a_script_that_fails_before_the_dump_prevents_it() {
    with_scripts("pre-dump", &[], |guest, images| {
        assert!(!entries(images).contains(&"inventory.img".to_owned()));
        guest.goes_on();
    });
}

#[test]
fn a_script_that_fails_behind_the_dump_saves_the_tree() {
    with_scripts("post-dump", &[], |guest, images| {
        let names = entries(images);
        assert!(names.contains(&"inventory.img".to_owned()), "{names:?}");
        assert!(!names.contains(&"stats-dump".to_owned()), "{names:?}");
        guest.goes_on();
    });
}

#[test]
fn a_script_that_cannot_be_run_prevents_the_dump() {
    let guest = talker();
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    let output = run(&mut dedump(
        guest.pid(),
        &images,
        &["--action-script", "/nowhere/script"],
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/script"));
    assert_eq!(entries(&images), [""; 0]);
    before.assert_still(guest.pid());
}

/// What a dump is told by files and the environment.
#[derive(Default)]
struct Told {
    user_file: Option<&'static str>,
    named_file: Option<&'static str>,
    given_file: Option<&'static str>,
    arguments: &'static [&'static str],
}

/// Whether a tree lives on after each dumper was told so or not.
fn lives_on(told: &Told) -> Vec<bool> {
    let mut answers = Vec::new();
    for is_ours in [false, true] {
        let mut guest = talker();
        let (dir, images) = images();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let given = told.given_file.map(|text| write("given", text));
        let given = given.map(|path| format!("--config={}", path.display()));
        let arguments: Vec<&str> = told
            .arguments
            .iter()
            .copied()
            .chain(given.as_deref())
            .collect();
        let command = if is_ours {
            Some(dedump(guest.pid(), &images, &arguments))
        } else {
            criu(guest.pid(), &images, &arguments)
        };
        let Some(mut command) = command else { continue };
        command.env("HOME", dir.path());
        if let Some(text) = told.user_file {
            write(".criu/default.conf", text);
        }
        if let Some(text) = told.named_file {
            command.env("CRIU_CONFIG_FILE", write("named", text));
        }
        assert!(run(&mut command).status.success());
        answers.push(guest.is_alive());
        if guest.is_alive() {
            guest.goes_on();
        } else {
            let others = guest.other_sessions();
            guest.reap(&others);
        }
    }
    answers
}

#[test]
fn configuration_files_count_as_for_criu() {
    const STAY: Option<&str> =
        Some("# a comment\nleave-running   # and another\n\nlog-file \"a \\\"b\\\" c\"\n");
    const OTHER: Option<&str> = Some("verbosity=3\nrestore-detached\n");
    let cases = [
        Told {
            user_file: STAY,
            ..Told::default()
        },
        Told {
            user_file: STAY,
            arguments: &["--no-default-config"],
            ..Told::default()
        },
        Told {
            user_file: STAY,
            given_file: OTHER,
            ..Told::default()
        },
        Told {
            user_file: OTHER,
            given_file: STAY,
            ..Told::default()
        },
        Told {
            user_file: OTHER,
            named_file: STAY,
            ..Told::default()
        },
        Told {
            named_file: STAY,
            arguments: &["--no-default-config"],
            ..Told::default()
        },
        Told {
            named_file: STAY,
            given_file: OTHER,
            ..Told::default()
        },
    ];
    let expected = [true, false, false, true, true, true, true];
    for (number, (told, expected)) in cases.iter().zip(expected).enumerate() {
        let answers = lives_on(told);
        assert!(!answers.is_empty());
        assert!(
            answers.iter().all(|lives| *lives == expected),
            "case {number}: {answers:?}"
        );
    }
}

/// Output of both dumpers for a tree that runs on.
fn printed(arguments: &[&str]) -> Vec<String> {
    let mut texts = Vec::new();
    for is_ours in [false, true] {
        let guest = talker();
        let (_dir, images) = images();
        let all = [arguments, &["--no-default-config", "-R"]].concat();
        let command = if is_ours {
            Some(dedump(guest.pid(), &images, &all))
        } else {
            criu(guest.pid(), &images, &all)
        };
        let Some(mut command) = command else { continue };
        let output = run(&mut command);
        assert!(output.status.success());
        let names = entries(&images);
        assert!(!names.contains(&"pid".to_owned()), "{names:?}");
        texts.push(String::from_utf8(output.stdout).unwrap());
        guest.goes_on();
    }
    texts
}

#[test]
fn what_criu_accepts_without_doing_anything() {
    let texts = printed(&[
        "--pidfile=pid",
        "--status-fd=7",
        "--log-pid",
        "--deprecated",
    ]);
    assert!(texts.iter().all(String::is_empty), "{texts:?}");
}

#[test]
fn the_figures_are_printed_as_by_criu() {
    let texts = printed(&["--display-stats"]);
    let shape = |text: &String| -> Vec<String> {
        let criu_part = text.split("\n\n").next().unwrap();
        let lines = criu_part.lines();
        lines
            .map(|line| {
                let (label, figure) = line.split_once(": ").unwrap_or((line, ""));
                let without_numbers = figure.split(|letter: char| letter.is_ascii_hexdigit());
                format!("{label}: {}", without_numbers.collect::<String>())
            })
            .collect()
    };
    let shapes: Vec<_> = texts.iter().map(shape).collect();
    assert!(shapes.iter().all(|one| *one == shapes[0]), "{shapes:#?}");
    assert_eq!(shapes[0].len(), 10, "{shapes:#?}");
}

/// A cgroup of the test's own, with a freezer; removed on drop.
pub(crate) struct Cgroup {
    dir: PathBuf,
    control: PathBuf,
    words: [&'static str; 2],
}

impl Cgroup {
    /// One of each version that this machine has, one at least.
    pub(crate) fn each(name: &str) -> Vec<Self> {
        let found = hierarchies().into_iter().filter_map(|(hierarchy, place)| {
            let (control, words) = match hierarchy.as_str() {
                "" => ("cgroup.freeze", ["0", "1"]),
                "freezer" => ("freezer.state", ["THAWED", "FROZEN"]),
                _ => return None,
            };
            let dir = place.join(format!("dedump-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            Some(Self {
                control: dir.join(control),
                dir,
                words,
            })
        });
        let found: Vec<Self> = found.collect();
        assert!(!found.is_empty(), "no cgroup freezer is mounted here");
        found
    }

    pub(crate) fn add(&self, pid: i32) {
        std::fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    pub(crate) fn set(&self, frozen: bool) {
        std::fs::write(&self.control, self.words[usize::from(frozen)]).unwrap();
        if frozen {
            while !self.is_frozen() {
                std::thread::yield_now();
            }
        }
    }

    /// What the control file says.
    fn state(&self) -> String {
        std::fs::read_to_string(&self.control)
            .unwrap()
            .trim()
            .to_owned()
    }

    fn is_frozen(&self) -> bool {
        let events = std::fs::read_to_string(self.dir.join("cgroup.events"));
        self.state() == "FROZEN" || events.is_ok_and(|text| text.contains("frozen 1"))
    }

    fn argument(&self) -> String {
        format!("--freeze-cgroup={}", self.dir.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.control, self.words[0]);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Forks without end, each child ending at once.
fn forking() -> Guest {
    // Not vfork, in which nobody can be stopped.
    let script = "echo ready; while :; do (:); echo at; done";
    Guest::start(Command::new("sh").args(["-c", script]), "ready")
}

#[test]
fn a_cgroup_is_frozen_and_put_back_as_it_was() {
    for cgroup in Cgroup::each("back") {
        let mut guest = forking();
        let bystander = talker();
        cgroup.add(guest.pid());
        cgroup.add(bystander.pid());
        let argument = cgroup.argument();
        for _ in 0..5 {
            let (_dir, images) = images();
            let output = run(&mut dedump(guest.pid(), &images, &[&argument, "-R"]));
            assert!(output.status.success());
            assert_eq!(cgroup.state(), cgroup.words[0]);
        }
        guest.goes_on();
        bystander.goes_on();

        // Found frozen: left frozen, and what is in it goes on only when it is thawed.
        cgroup.set(true);
        let lines = guest.output().lines().count();
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &[&argument, "-R"]));
        assert!(output.status.success());
        assert!(cgroup.is_frozen(), "{}", cgroup.state());
        assert_eq!(guest.output().lines().count(), lines);
        cgroup.set(false);
        guest.goes_on();
        bystander.goes_on();

        // Killed, and the bystander is not.
        let (_dir, images) = crate::guest::images();
        assert!(
            run(&mut dedump(guest.pid(), &images, &[&argument]))
                .status
                .success()
        );
        assert_eq!(cgroup.state(), cgroup.words[0]);
        bystander.goes_on();
        let others = guest.other_sessions();
        guest.reap(&others);
        restore(Release::Criu42, &images);
        guest.goes_on();
    }
}

#[test]
fn a_cgroup_is_put_back_after_a_refusal_and_a_killed_dumper() {
    for cgroup in Cgroup::each("failed") {
        let refused = Guest::of_ours_with("scenarios", &["io_uring"]);
        let guest = talker();
        cgroup.add(refused.pid());
        cgroup.add(guest.pid());
        let argument = cgroup.argument();
        let before = Outside::settled(refused.pid());
        for frozen in [false, true] {
            cgroup.set(frozen);
            let (_dir, images) = images();
            let output = run(&mut dedump(refused.pid(), &images, &[&argument]));
            assert_eq!(output.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&output.stderr).contains("io_uring"));
            assert_eq!(cgroup.is_frozen(), frozen, "{}", cgroup.state());
            cgroup.set(false);
            before.assert_still(refused.pid());
        }
        // A script holds the dump up while everything stands still.
        for frozen in [false, true] {
            cgroup.set(frozen);
            let (dir, images) = images();
            let script = dir.path().join("script");
            let text = "#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION = pre-dump ] || kill -9 $PPID\n";
            std::fs::write(&script, text).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            let script = format!("--action-script={}", script.display());
            let output = run(&mut dedump(guest.pid(), &images, &[&argument, &script]));
            assert_eq!(output.status.code(), None, "killed by its own script");
            let end = std::time::Instant::now() + crate::guest::PATIENCE;
            while cgroup.is_frozen() != frozen {
                assert!(std::time::Instant::now() < end, "{}", cgroup.state());
                std::thread::yield_now();
            }
            cgroup.set(false);
            guest.goes_on();
            before.assert_still(refused.pid());
        }
    }
}

#[test]
fn what_is_no_freezer_is_refused() {
    let guest = talker();
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    let output = run(&mut dedump(
        guest.pid(),
        &images,
        &["--freeze-cgroup", "/tmp"],
    ));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--freeze-cgroup"));
    for cgroup in Cgroup::each("own") {
        // The dumper is where the shell is that starts it.
        let script = "echo $$ >$0/cgroup.procs && exec \"$@\"";
        let dump = dedump(guest.pid(), &images, &[&cgroup.argument()]);
        let output = run(Command::new("sh")
            .args(["-c", script])
            .arg(&cgroup.dir)
            .arg(dump.get_program())
            .args(dump.get_args()));
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("dedump itself"));
    }
    before.assert_still(guest.pid());
}
