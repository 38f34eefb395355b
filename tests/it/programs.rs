//! Programs of the real world: dumped while they work for a client that stays connected, brought
//! back by CRIU, and still at work for the same client.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PATIENCE, TERMINALS, dedump, images, run};
use crate::oracle::{Release, restore_with};
use crate::pages::pages_bytes;
use crate::restores::{dump_with, dumped_tasks};
use crate::scenarios::check;
use crate::user::{self, as_user};

/// A connection on which requests are answered by lines.
struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects as soon as somebody listens.
    fn to(port: u16) -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    return Self(BufReader::new(stream));
                }
                Err(error) => assert!(Instant::now() < end, "port {port}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "connection closed: {line:?}");
        line.trim_end().to_owned()
    }

    /// A request whose answer is one line.
    fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.line()
    }

    /// An HTTP request on a connection that stays open, whose answer is one line.
    fn get(&mut self) -> String {
        self.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 200"), "{status}");
        while !self.line().is_empty() {}
        self.line()
    }
}

/// A client that works all the time; joined on drop.
struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Does one piece of work after the other.
    fn start(mut work: impl FnMut(u64) + Send + 'static) -> Self {
        let (done, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counter, stopped) = (Arc::clone(&done), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                work(counter.load(Ordering::Relaxed));
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            done,
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until more was done.
    fn goes_on(&self) {
        const MORE: u64 = 20;
        let end = Instant::now() + PATIENCE;
        let before = self.done.load(Ordering::Relaxed);
        while self.done.load(Ordering::Relaxed) < before + MORE {
            let thread = self.thread.as_ref().unwrap();
            assert!(
                !thread.is_finished() && Instant::now() < end,
                "no work is done"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Dumps a guest twice while it runs on, then twice dumps, kills and restores it; all the time
/// somebody works with it.
fn dump_under_load(guest: &mut Guest, load: &Load, arguments: &[&str]) {
    let for_dump = [&["--tcp-established"], arguments].concat();
    dump_again_and_again(guest, &for_dump, &["--tcp-established"], || load.goes_on());
}

/// Dumps a guest twice while it runs on, then twice dumps, kills and restores it; it works before
/// and after each of them.
fn dump_again_and_again(
    guest: &mut Guest,
    for_dump: &[&str],
    for_restore: &[&str],
    works: impl Fn(),
) {
    works();
    for _ in 0..2 {
        let (_dir, images) = images();
        let output = run(dedump(guest.pid(), &images, for_dump).arg("-R"));
        assert!(output.status.success());
        works();
    }
    for _ in 0..2 {
        let (_dir, images) = images();
        dump_with(guest, &images, for_dump);
        restore_with(Release::Criu42, &images, for_restore);
        works();
    }
    assert!(guest.is_alive());
}

/// A server whose every answer is a number one higher than that of the one before.
fn counts_under_load(mut guest: Guest, port: u16) {
    let mut connection = Connection::to(port);
    let load = Load::start(move |number| {
        assert_eq!(connection.get(), (number + 1).to_string());
    });
    dump_under_load(&mut guest, &load, &[]);
    load.end();
    // And for somebody new.
    Connection::to(port).get();
    assert!(!guest.output().contains("BAD"), "{}", guest.output());
}

fn guest_source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/guests")
        .join(name)
}

#[test]
fn nginx_with_workers_and_a_reload_after_the_restore() {
    const PORT: u16 = 17401;
    let dir = tempfile::tempdir().unwrap();
    let configure = |word: &str| {
        let text = format!(
            "daemon off; user root; worker_processes 2; pid nginx.pid; error_log error.log;
            events {{ worker_connections 64; }}
            http {{
                access_log access.log; client_body_temp_path body; proxy_temp_path proxy;
                fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                keepalive_requests 1000000;
                server {{ listen 127.0.0.1:{PORT}; location / {{ return 200 \"{word}\\n\"; }} }}
            }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
    };
    configure("one");
    let mut guest = Guest::start(
        Command::new("sh")
            .args(["-c", "echo ready; exec nginx -p \"$0\" -c nginx.conf"])
            .arg(dir.path()),
        "ready",
    );
    let mut connection = Connection::to(PORT);
    let load = Load::start(move |_| assert_eq!(connection.get(), "one"));
    dump_under_load(&mut guest, &load, &[]);
    load.end();
    configure("two");
    let master = nix::unistd::Pid::from_raw(guest.pid());
    nix::sys::signal::kill(master, nix::sys::signal::Signal::SIGHUP).unwrap();
    let end = Instant::now() + PATIENCE;
    while Connection::to(PORT).get() != "two" {
        assert!(Instant::now() < end, "no reload");
    }
    let log = std::fs::read_to_string(dir.path().join("error.log")).unwrap();
    assert!(!log.contains("[alert]") && !log.contains("[crit]"), "{log}");
}

#[test]
fn memcached() {
    const PORT: u16 = 17402;
    let mut command = Command::new("memcached");
    command.args(["-l", "127.0.0.1", "-p", &PORT.to_string(), "-U", "0", "-vv"]);
    let mut guest = Guest::start(&mut as_user(&command, &[]), "server listening");
    let mut connection = Connection::to(PORT);
    let load = Load::start(move |number| {
        let text = number.to_string();
        let set = format!("set key{} 0 0 {}\r\n{text}\r\n", number % 100, text.len());
        assert_eq!(connection.ask(&set), "STORED");
        let value = connection.ask(&format!("get key{}\r\n", number % 100));
        assert!(value.starts_with("VALUE key"), "{value}");
        assert_eq!(
            (connection.line(), connection.line()),
            (text, "END".to_owned())
        );
    });
    dump_under_load(&mut guest, &load, &[]);
    load.end();
    assert!(
        Connection::to(PORT)
            .ask("get key7\r\n")
            .starts_with("VALUE key7")
    );
}

#[test]
fn redis_with_a_client_that_stays_connected() {
    const PORT: u16 = 17403;
    let mut guest = Guest::start(
        Command::new("redis-server").args(["--port", &PORT.to_string(), "--save", ""]),
        "Ready to accept",
    );
    let mut connection = Connection::to(PORT);
    let load = Load::start(move |number| {
        assert_eq!(
            connection.ask("INCR counter\r\n"),
            format!(":{}", number + 1)
        );
    });
    dump_under_load(&mut guest, &load, &[]);
    load.end();
    assert!(
        Connection::to(PORT)
            .ask("INCR counter\r\n")
            .starts_with(':')
    );
}

#[test]
fn node_with_a_worker_thread() {
    const PORT: u16 = 17404;
    let mut command = Command::new("node");
    command.arg(guest_source("server.js")).arg(PORT.to_string());
    counts_under_load(Guest::start(&mut command, "ready"), PORT);
}

#[test]
fn a_go_program_with_fifty_goroutines() {
    const PORT: u16 = 17406;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests/server-go");
    let mut command = Command::new(program);
    counts_under_load(Guest::start(command.arg(PORT.to_string()), "ready"), PORT);
}

/// psql, with one connection for all its life.
struct Psql {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Psql {
    fn connect(port: u16) -> Self {
        let mut command = Command::new("psql");
        command.args([
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-d",
            "postgres",
        ]);
        command.args(["-p", &port.to_string(), "-U", user::NAME]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            _child: child,
        }
    }

    /// A statement that yields one line.
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.input, "{statement};").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self._child.kill();
        let _ = self._child.wait();
    }
}

#[test]
fn postgresql_of_an_ordinary_user_with_100_000_rows() {
    const PORT: u16 = 17407;
    let programs = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let programs = programs
        .map(|entry| entry.unwrap().path().join("bin"))
        .max()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), everybodys).unwrap();
    let data = dir.path().join("data");
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args(["-N", "-A", "trust", "-D"]).arg(&data);
    assert!(run(as_user(&initdb, &[]).current_dir("/")).status.success());
    let mut server = Command::new(programs.join("postgres"));
    server.arg("-D").arg(&data).args(["-p", &PORT.to_string()]);
    server.args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
    ]);
    let mut guest = Guest::start(&mut as_user(&server, &[]), "ready to accept connections");

    let mut client = Psql::connect(PORT);
    let fill = "create table t (n bigint); insert into t select generate_series(1, 100000); \
        select count(*) from t";
    assert_eq!(client.ask(fill), "100000");
    let load = Load::start(move |number| {
        let count = 100_000 + number + 1;
        let add = format!("insert into t values ({count}); select count(*) from t");
        assert_eq!(client.ask(&add), count.to_string());
    });
    // Its block of System V memory comes back as memory of the tree alone.
    dump_under_load(&mut guest, &load, &["--allow-unrestorable"]);
    load.end();
    let mut client = Psql::connect(PORT);
    let whole = "select count(*) = max(n) and sum(n) = max(n) * (max(n) + 1) / 2 from t";
    assert_eq!(client.ask(whole), "t");
    let ended = run(as_user(
        Command::new(programs.join("pg_ctl"))
            .args(["stop", "-m", "fast", "-D"])
            .arg(&data),
        &[],
    )
    .current_dir("/"));
    assert!(ended.status.success(), "{}", guest.output());
}

#[test]
fn a_java_virtual_machine() {
    const PORT: u16 = 17405;
    let classes = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests");
    let mut command = Command::new("java");
    command
        .args(["-Xmx64m", "-Dsun.net.httpserver.nodelay=true", "-cp"])
        .arg(classes)
        .args(["Server", &PORT.to_string()]);
    counts_under_load(Guest::start(&mut command, "ready"), PORT);
}

/// Runs SQL on the database of a guest as somebody else: what comes back, or what went wrong.
fn as_another(guest: &Guest, statement: &str) -> String {
    const PROGRAM: &str = "
import sqlite3, sys
db = sqlite3.connect('data.db', isolation_level=None, timeout=0)
try:
    print(db.execute(sys.argv[1]).fetchall())
except sqlite3.OperationalError as error:
    print(error)
";
    let output = run(Command::new("/usr/bin/python3")
        .args(["-c", PROGRAM, statement])
        .current_dir(guest.dir.path()));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn sqlite_in_the_middle_of_a_transaction() {
    const ROWS: &str = "select count(*) from t";
    let mut guest = Guest::start(
        Command::new("/usr/bin/python3").arg(guest_source("sqlite.py")),
        "ready\n",
    );
    for _ in 0..2 {
        let (_dir, images) = images();
        let output = run(dedump(guest.pid(), &images, &["--file-locks"]).arg("-R"));
        assert!(output.status.success());
        // criu does not keep locks on files that are mapped; the transaction needs none.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("data.db-shm, which the process has mapped"));
        // The transaction is still under way: nobody else may write, or sees anything of it.
        assert_eq!(as_another(&guest, "begin immediate"), "database is locked");
        assert_eq!(as_another(&guest, ROWS), "[(1000,)]");
        guest.goes_on();
    }
    dump_again_and_again(&mut guest, &["--file-locks"], &["--file-locks"], || {});
    guest.goes_on();
    assert_eq!(as_another(&guest, ROWS), "[(1000,)]");
    check(&guest);
    let rows = std::fs::read_to_string(guest.dir.path().join("rows")).unwrap();
    assert_eq!(as_another(&guest, ROWS), format!("[({rows},)]"));
    assert_eq!(as_another(&guest, "pragma integrity_check"), "[('ok',)]");
    assert_eq!(as_another(&guest, "begin immediate"), "[]");
}

/// A server of tmux, with clients that come and go.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    fn try_ask(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("tmux");
        // Not to start a server of its own.
        command.arg("-N").arg("-S").arg(&self.socket);
        let output = run(command.args(arguments));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn types(&self, line: &str) {
        self.try_ask(&["send-keys", "-t", "main", line, "Enter"])
            .unwrap();
    }

    fn shows(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.try_ask(&["capture-pane", "-p", "-t", "main"]).unwrap();
            if screen.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "no {text:?} in {screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn tmux_with_a_shell_and_its_job() {
    let _terminals = TERMINALS.lock();
    let dir = tempfile::tempdir().unwrap();
    let tmux = Tmux {
        socket: dir.path().join("socket"),
    };
    let script = "echo ready; exec tmux -S \"$0\" -f /dev/null -D";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&tmux.socket);
    command.env("SHELL", "/bin/bash").env("LC_ALL", "C.UTF-8");
    let mut guest = Guest::start(&mut command, "ready");
    let shell = "exec bash --norc --noprofile";
    let session = [
        "new-session",
        "-d",
        "-s",
        "main",
        "-x",
        "80",
        "-y",
        "24",
        shell,
    ];
    let end = Instant::now() + PATIENCE;
    while tmux.try_ask(&session).is_none() {
        assert!(Instant::now() < end, "{}", guest.output());
        std::thread::sleep(Duration::from_millis(20));
    }
    // A job beside the shell, which tells the test that it works.
    let output = guest.dir.path().join("output");
    tmux.types(&format!(
        "(n=0; while sleep 0.02; do n=$((n+1)); echo at $n; done) >>{} &",
        output.display()
    ));
    guest.wait_for("at 3");
    tmux.types("variable=kept; echo first $((20+1))");
    tmux.shows("first 21");
    for generation in 0..3 {
        let (_dir, images) = images();
        let runs_on = ["--leave-running"];
        let arguments: &[&str] = if generation == 0 { &runs_on } else { &[] };
        // The server may not have noticed yet that the last client is gone: a connection is
        // refused, and a refusal leaves the server as it was.
        let end = Instant::now() + PATIENCE;
        while !run(&mut dedump(guest.pid(), &images, arguments))
            .status
            .success()
        {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(100));
        }
        if generation > 0 {
            guest.reap(&dumped_tasks(&images));
            restore_with(Release::Criu42, &images, &[]);
        }
        guest.goes_on();
        // The screen is as it was, and so is the shell.
        tmux.shows("first 21");
        tmux.types(&format!("echo $variable $(({generation}+10)); jobs"));
        tmux.shows(&format!("kept {}", generation + 10));
        tmux.shows("Running");
    }
    tmux.types("kill %1; wait; jobs; echo ended $((6*7))");
    tmux.shows("ended 42");
    tmux.try_ask(&["kill-server"]).unwrap();
    let end = Instant::now() + PATIENCE;
    while guest.is_alive() {
        assert!(Instant::now() < end, "the server does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn redis_on_top_of_an_earlier_dump() {
    const PORT: u16 = 17408;
    let mut guest = Guest::start(
        Command::new("redis-server").args([
            "--port",
            &PORT.to_string(),
            "--save",
            "",
            "--enable-debug-command",
            "yes",
        ]),
        "Ready to accept",
    );
    let mut connection = Connection::to(PORT);
    assert_eq!(connection.ask("DEBUG POPULATE 100000 key 64\r\n"), "+OK");
    let digest = connection.ask("DEBUG DIGEST\r\n");
    let load = Load::start(move |number| {
        assert_eq!(
            connection.ask("INCR counter\r\n"),
            format!(":{}", number + 1)
        );
    });
    let (dir, _) = images();
    let folder = |number: u32| dir.path().join(number.to_string());
    for number in 1..=3 {
        load.goes_on();
        let previous = format!("../{}", number - 1);
        let mut arguments = vec!["--tcp-established"];
        if number > 1 {
            arguments.extend(["--prev-images-dir", &previous]);
        }
        if number < 3 {
            let output = run(dedump(guest.pid(), &folder(number), &arguments).arg("-R"));
            assert!(output.status.success());
        } else {
            dump_with(&mut guest, &folder(number), &arguments);
        }
    }
    let (whole, rest) = (pages_bytes(&folder(1)), pages_bytes(&folder(3)));
    assert!(rest * 4 < whole, "{rest} of {whole} bytes");
    restore_with(Release::Criu42, &folder(3), &["--tcp-established"]);
    load.goes_on();
    load.end();
    let mut connection = Connection::to(PORT);
    assert_eq!(connection.ask("DEL counter\r\n"), ":1");
    assert_eq!(connection.ask("DEBUG DIGEST\r\n"), digest);
}
