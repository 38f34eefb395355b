//! Sockets of every kind: dumped, killed, restored, and still connected.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::Release;
use crate::outside::Outside;
use crate::restores::check_restored;

const BOTH: [Release; 2] = [Release::Criu42, Release::Criu41];

fn python(script: &str) -> Guest {
    Guest::start(
        Command::new("/usr/bin/python3").args(["-c", script]),
        "ready\n",
    )
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
