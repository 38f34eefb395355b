//! Sockets of every kind: dumped, killed, restored, and still connected.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::Release;
use crate::outside::Outside;
use crate::restores::check_restored;

const BOTH: [Release; 2] = [Release::Criu42, Release::Criu41];

fn python(script: &str) -> Guest {
    Guest::of_python(script, "ready\n")
}

#[test]
fn unix_sockets_with_files_and_names() {
    for release in BOTH {
        check_restored(python(include_str!("../guests/unix.py")), release, &[], &[]);
    }
}

#[test]
fn peeking_leaves_unix_queues_as_they_are() {
    let guest = python(include_str!("../guests/unix.py"));
    let before = Outside::settled(guest.pid());
    for _ in 0..2 {
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["-R"]));
        assert!(output.status.success());
    }
    before.assert_still(guest.pid());
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    guest.wait_for("done\n");
}

const LOGGER: &str = "
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['INBOX'])
s.send(b'before')
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
s.send(b'after')
print('done', flush=True)
time.sleep(1000)
";

#[test]
fn a_datagram_socket_connected_to_the_outside() {
    for release in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inbox");
        let inbox = UnixDatagram::bind(&path).unwrap();
        let received = || {
            let mut buffer = [0; 99];
            let count = inbox.recv(&mut buffer).unwrap();
            buffer[..count].to_vec()
        };
        let mut command = Command::new("/usr/bin/python3");
        let guest = Guest::start(command.args(["-c", LOGGER]).env("INBOX", &path), "ready\n");
        assert_eq!(received(), b"before");
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &[]));
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("--ext-unix-sk"), "{errors}");
        check_restored(guest, release, &["--ext-unix-sk"], &["--ext-unix-sk"]);
        assert_eq!(received(), b"after");
    }
}

#[test]
fn credentials_in_a_queue_are_refused() {
    let guest = python(
        "
import socket, time
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
a.send(b'x')
print('ready', flush=True)
time.sleep(1000)
",
    );
    let before = Outside::settled(guest.pid());
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &[]));
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("SO_PASSCRED"), "{errors}");
    before.assert_still(guest.pid());
}

/// Held by tests that look at the packet filters of the machine.
static NETWORK: Mutex<()> = Mutex::new(());

fn network() -> MutexGuard<'static, ()> {
    NETWORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rules that lock connections, as every packet filter of the machine shows them.
fn locks() -> String {
    let output = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text
        .lines()
        .filter(|line| line.contains("c114") || line.contains("CRIU-"));
    lines.collect()
}

#[test]
fn tcp_connections_within_the_tree() {
    let _network = network();
    for release in BOTH {
        for lock in ["iptables", "nftables"] {
            let arguments = ["--tcp-established", "--network-lock", lock];
            let guest = python(include_str!("../guests/tcp.py"));
            check_restored(guest, release, &arguments, &["--tcp-established"]);
            assert_eq!(locks(), "", "{lock}");
        }
    }
}

#[test]
fn tcp_connections_of_a_tree_that_runs_on() {
    let _network = network();
    for arguments in [
        &["-R", "--tcp-established"][..],
        &["-R", "--tcp-established", "--network-lock", "nftables"],
        &["-R", "--tcp-established", "--network-lock", "skip"],
        &["-R", "--tcp-close"],
    ] {
        let guest = python(include_str!("../guests/tcp.py"));
        let before = Outside::settled(guest.pid());
        for _ in 0..2 {
            let (_dir, images) = images();
            let output = run(&mut dedump(guest.pid(), &images, arguments));
            assert!(output.status.success());
            assert_eq!(locks(), "", "{arguments:?}");
        }
        before.assert_still(guest.pid());
        std::fs::write(guest.dir.path().join("go"), "").unwrap();
        guest.wait_for("done\n");
    }
}

/// Answers every line from outside with the same line.
const ECHO: &str = "
import os, socket
s = socket.create_connection((os.environ['HOST'], int(os.environ['PORT'])))
s.send(b'hello\\n')
print('ready', flush=True)
for line in s.makefile('rb'):
    s.send(line)
    print('at', line, flush=True)
";

#[test]
fn a_tcp_connection_to_the_outside() {
    let _network = network();
    for (release, host, lock) in [
        (Release::Criu42, "127.0.0.1", "iptables"),
        (Release::Criu42, "::1", "nftables"),
        (Release::Criu41, "::1", "iptables"),
        (Release::Criu41, "127.0.0.1", "nftables"),
    ] {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let mut command = Command::new("/usr/bin/python3");
        command
            .args(["-c", ECHO])
            .env("HOST", host)
            .env("PORT", port);
        let mut guest = Guest::start(&mut command, "ready\n");
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let talk = |stream: &mut TcpStream, line: &[u8], sent: bool| {
            if !sent {
                stream.write_all(line).unwrap();
            }
            let mut back = vec![0; line.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, line);
        };
        talk(&mut stream, b"hello\n", true);
        talk(&mut stream, b"one\n", false);

        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &[]));
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("--tcp-established"), "{errors}");
        talk(&mut stream, b"still there\n", false);

        let arguments = ["--tcp-established", "--network-lock", lock];
        crate::restores::dump_with(&mut guest, &images, &arguments);
        // Nobody is there, and nobody says so.
        stream.write_all(b"while away\n").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_ne!(locks(), "");
        crate::oracle::restore_with(release, &images, &["--tcp-established"]);
        talk(&mut stream, b"while away\n", true);
        talk(&mut stream, b"two\n", false);
        assert_eq!(locks(), "");
    }
}

#[test]
fn connections_are_as_before_when_the_dumper_is_killed() {
    let _network = network();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", ECHO])
        .env("HOST", "127.0.0.1")
        .env("PORT", port);
    let guest = Guest::start(&mut command, "ready\n");
    let (mut stream, _) = listener.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut buffer = [0; 6];
    stream.read_exact(&mut buffer).unwrap();
    let before = Outside::settled(guest.pid());
    for delay in 0..30 {
        let (_dir, images) = images();
        let mut dumper = dedump(guest.pid(), &images, &["-R", "--tcp-established"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        dumper.kill().unwrap();
        dumper.wait().unwrap();
        stream.write_all(b"ping!\n").unwrap();
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping!\n");
    }
    // What stands by has at most this to do.
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(locks(), "");
    // On a busy machine the last of them may have left what the next dump removes.
    let (_dir, images) = images();
    let output = run(&mut dedump(
        guest.pid(),
        &images,
        &["-R", "--tcp-established"],
    ));
    assert!(output.status.success());
    before.assert_still(guest.pid());
}

const CLOSING: &str = "
import os, socket, time
l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('127.0.0.1', 0))
l.listen(5)
c = socket.create_connection(l.getsockname())
s, _ = l.accept()
w = socket.create_connection(l.getsockname())
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.02)
for one in (c, s):
    try:
        print('BAD' if one.recv(9) else 'ok', flush=True)
    except OSError as error:
        print('ok', error, flush=True)
new = socket.create_connection(l.getsockname())
l.accept()[0].send(b'new')
print('done' if new.recv(9) == b'new' else 'BAD new', flush=True)
time.sleep(1000)
";

#[test]
fn connections_dumped_as_closed_and_left_in_flight() {
    for release in BOTH {
        let guest = python(CLOSING);
        let (_dir, images) = images();
        let output = run(&mut dedump(guest.pid(), &images, &["--tcp-close"]));
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("--skip-in-flight"), "{errors}");
        let arguments = ["--tcp-close", "--skip-in-flight"];
        check_restored(guest, release, &arguments, &["--tcp-close"]);
    }
}
