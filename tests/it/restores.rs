//! Programs that are dumped, killed, and brought back by CRIU.

use std::path::Path;
use std::process::Command;

use crate::guest::{Guest, TERMINALS, dedump, images, run};
use crate::oracle::{Release, decode, folder, restore, restore_with, restore_with_foreign_vdso};
use crate::pages::pages_bytes;

/// Dumps and kills a tree, restores it, and checks that it goes on under the same pids.
fn round_trip(guest: &mut Guest, release: Release) {
    let (_dir, images) = images();
    let pid = guest.pid();
    dump(guest, &images);
    restore(release, &images);
    assert!(guest.is_alive(), "{pid} is not back");
    guest.goes_on();
}

fn dump(guest: &mut Guest, images: &Path) {
    dump_with(guest, images, &[]);
}

pub(crate) fn dump_with(guest: &mut Guest, images: &Path, arguments: &[&str]) {
    dump_unread(guest, images, arguments);
    decode(images);
}

/// The same, without a look into the images.
fn dump_unread(guest: &mut Guest, images: &Path, arguments: &[&str]) {
    let output = run(&mut dedump(guest.pid(), images, arguments));
    assert!(output.status.success());
    guest.reap(&dumped_tasks(images));
}

/// The pids and tids of a dump, by the names of its images.
pub(crate) fn dumped_tasks(images: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir(images).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let number = |name: String| {
        let number = name.strip_prefix("core-")?.strip_suffix(".img")?;
        number.parse().ok()
    };
    names.filter_map(number).collect()
}

fn on_both_releases(start: impl Fn() -> Guest) {
    for release in [Release::Criu42, Release::Criu41] {
        round_trip(&mut start(), release);
    }
}

#[test]
fn a_shell_pipeline_that_counts() {
    on_both_releases(|| {
        let script = "seq 1 100000000 | while read n; do echo $n; sleep 0.001; done | \
            (last=0; while read n; do [ $n = $((last+1)) ] || echo BAD $last $n; last=$n; \
            [ $((n % 20)) != 0 ] || echo at $n; done)";
        Guest::start(Command::new("bash").args(["-c", script]), "at 40")
    });
}

#[test]
fn a_python_pool_with_a_large_heap() {
    let script = "
import multiprocessing, os
heap = bytearray(os.urandom(1 << 20)) * 64
digest = hash(bytes(heap))
def work(n):
    return n * n
def main():
    context = multiprocessing.get_context('fork')
    n = 0
    queue = context.Queue()
    with context.Pool(4) as pool:
        while True:
            if pool.map(work, range(n, n + 40)) != [i * i for i in range(n, n + 40)]:
                print('BAD result', n, flush=True)
            queue.put(n)
            if queue.get() != n or hash(bytes(heap)) != digest:
                print('BAD queue or heap', n, flush=True)
            n += 40
            print('at', n, flush=True)
main()
";
    on_both_releases(|| Guest::of_python(script, "at 80\n"));
}

#[test]
fn fifty_threads_with_their_registers() {
    on_both_releases(|| Guest::of_ours("threads"));
}

#[test]
fn redis_with_two_hundred_thousand_keys() {
    for (release, port) in [(Release::Criu42, "17391"), (Release::Criu41, "17392")] {
        let cli = |arguments: &[&str]| {
            let output = run(Command::new("redis-cli").args(["-p", port]).args(arguments));
            String::from_utf8(output.stdout).unwrap()
        };
        let server = [
            "--port",
            port,
            "--save",
            "",
            "--enable-debug-command",
            "yes",
        ];
        let mut guest = Guest::start(Command::new("redis-server").args(server), "Ready to accept");
        cli(&["debug", "populate", "200000", "key", "64"]);
        let digest = cli(&["debug", "digest"]);
        let (_dir, images) = images();
        // The server may not have noticed yet that the last client is gone: a connection is
        // refused, and a refusal leaves the server as it was.
        while !run(&mut dedump(guest.pid(), &images, &["-R"]))
            .status
            .success()
        {
            std::thread::sleep(std::time::Duration::from_millis(100));
            guest.wait_for("Ready to accept");
            assert!(guest.is_alive());
        }
        std::fs::remove_dir_all(&images).unwrap();
        dump(&mut guest, &images);
        restore(release, &images);
        assert_eq!(cli(&["dbsize"]).trim(), "200000");
        assert_eq!(cli(&["debug", "digest"]), digest);
        assert_eq!(cli(&["set", "after", "restore"]).trim(), "OK");
        assert_eq!(cli(&["get", "after"]).trim(), "restore");
    }
}

#[test]
fn every_kind_of_file_and_socket() {
    checks_itself(include_str!("../guests/files.py"));
}

#[test]
fn every_attribute_of_a_task() {
    checks_itself(include_str!("../guests/tasks.py"));
}

/// A script that says "ready", and after the restore finds everything as it was.
fn checks_itself(script: &str) {
    for release in [Release::Criu42, Release::Criu41] {
        let guest = Guest::of_python(script, "ready\n");
        check_restored(guest, release, &[], &[]);
    }
}

/// Dumps, kills and restores a guest, with further arguments for each, and lets it check itself.
pub(crate) fn check_restored(
    mut guest: Guest,
    release: Release,
    for_dump: &[&str],
    for_restore: &[&str],
) {
    dump_and_restore(&mut guest, release, for_dump, for_restore);
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    guest.wait_for("done\n");
}

/// Dumps, kills and restores a guest, with further arguments for each.
pub(crate) fn dump_and_restore(
    guest: &mut Guest,
    release: Release,
    for_dump: &[&str],
    for_restore: &[&str],
) {
    let (_dir, images) = images();
    dump_with(guest, &images, for_dump);
    restore_with(release, &images, for_restore);
}

/// The same again: what its images are like is known from the first time.
pub(crate) fn dump_and_restore_again(guest: &mut Guest, for_dump: &[&str], for_restore: &[&str]) {
    let (_dir, images) = images();
    dump_unread(guest, &images, for_dump);
    restore_with(Release::Criu42, &images, for_restore);
}

/// A job of a shell goes on in the terminal of the shell that restores it.
#[test]
fn a_job_of_a_shell_in_another_terminal() {
    let Some(criu) = folder(Release::Criu42) else {
        return;
    };
    let _terminals = TERMINALS.lock();
    let (_dir, images) = images();
    let script = include_str!("../guests/job.py");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script, env!("CARGO_BIN_EXE_dedump")]);
    command.arg(criu.join("criu")).arg(&images);
    drop(Guest::start(&mut command, "done\n"));
}

/// Every restore puts a tree into a time namespace in which its clocks have stood still meanwhile.
#[test]
fn a_tree_in_a_time_namespace() {
    const AWAY: std::time::Duration = std::time::Duration::from_secs(1);
    let script = "
import time
last = time.monotonic()
while True:
    time.sleep(0.02)
    now, boot = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    print('at' if last <= now <= boot + 1 else 'BAD clock', now, boot, flush=True)
    last = now
";
    let offsets = |guest: &Guest| -> Vec<f64> {
        let path = format!("/proc/{}/timens_offsets", guest.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let mut number = || words.next().unwrap().parse::<f64>().unwrap();
            number() + number() / 1e9
        });
        lines.collect()
    };
    for release in [Release::Criu42, Release::Criu41] {
        let mut guest = Guest::of_python(script, "at ");
        let mut before = offsets(&guest);
        for _ in 0..2 {
            let (_dir, first) = images();
            let output = run(&mut dedump(guest.pid(), &first, &["--leave-running"]));
            assert!(output.status.success());
            let (_dir, images) = images();
            dump(&mut guest, &images);
            std::thread::sleep(AWAY);
            restore(release, &images);
            guest.goes_on();
            let after = offsets(&guest);
            for (before, after) in before.iter().zip(&after) {
                assert!(before - after >= AWAY.as_secs_f64(), "{before} {after}");
            }
            before = after;
        }
    }
}

/// A tree that was restored where the vdso is another one, and dumped and restored again there,
/// and again where it fits.
#[test]
fn a_vdso_that_another_one_serves() {
    for release in [Release::Criu42, Release::Criu41] {
        let vdsos = |guest: &Guest| {
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", guest.pid())).unwrap();
            let of_vdso = |line: &&str| line.ends_with("[vdso]");
            let lines = maps.lines().filter(of_vdso);
            lines
                .map(|line| line.split(' ').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let mut guest = Guest::of_ours_with("scenarios", &["the_vdso"]);
        let before = vdsos(&guest);
        for _ in 0..2 {
            let (_dir, images) = images();
            dump(&mut guest, &images);
            restore_with_foreign_vdso(release, &images);
            assert!(vdsos(&guest).len() == 1 && vdsos(&guest) != before);
        }
        dump_and_restore(&mut guest, release, &[], &[]);
        assert_eq!(vdsos(&guest), before);
        std::fs::write(guest.dir.path().join("go"), "").unwrap();
        guest.wait_for("done\n");
    }
}

#[test]
fn touched_zeros_are_not_written_and_come_back() {
    let script = "
import mmap, os, time
size = 128 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes(size))
memory[5 << 20] = 7
child = os.fork()
if child == 0:
    # Zeros where the parent has something else.
    memory[5 << 20] = 0
    memory[9 << 20] = 9
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
expected = (9 << 20, 9) if child == 0 else (5 << 20, 7)
found = bytes(memory)
right = found[expected[0]] == expected[1] and found.count(0) == size - 1
print('done' if right else 'BAD memory', os.getpid(), flush=True)
time.sleep(1000)
";
    for release in [Release::Criu42, Release::Criu41] {
        let mut guest = Guest::of_python(script, "ready\n");
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (_dir, images) = images();
        dump(&mut guest, &images);
        assert!(pages_bytes(&images) < 32 << 20);
        restore(release, &images);
        std::fs::write(guest.dir.path().join("go"), "").unwrap();
        guest.wait_until_lines("done", 2);
    }
}
