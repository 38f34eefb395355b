use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use proptest::prelude::*;

use dedump::error::Error;
use dedump::freeze::After;
use dedump::ids::Pid;
use dedump::options::{External, FileChoices, NetworkLock};

use super::criu::{Fate, OPTIONS, Value};
use super::log::{Log, one_line};
use super::{Arguments, Dump, Look, Places, Request, parse};

fn arguments(line: &str) -> impl Iterator<Item = OsString> {
    std::iter::once("dedump")
        .chain(line.split_whitespace())
        .map(OsString::from)
}

fn dump(line: &str) -> Dump {
    match parse(arguments(line), &Places::default()) {
        Ok(Request::Dump(dump)) => *dump,
        other => panic!("{line}: {other:?}"),
    }
}

fn mistake(line: &str) -> String {
    match parse(arguments(line), &Places::default()) {
        Err(error @ Error::Usage(_)) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
        other => panic!("{line}: {other:?}"),
    }
}

fn text(line: &str) -> String {
    match parse(arguments(line), &Places::default()) {
        Ok(Request::Text(text)) => text.to_string(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn defaults_are_those_of_criu() {
    let dump = dump("dump -t 4120");
    let options = &dump.options;
    assert_eq!(options.tree, Pid(4120));
    assert_eq!(options.images_dir, Path::new("."));
    assert_eq!(options.work_dir, Path::new("."));
    assert_eq!(options.after, After::Kill);
    assert_eq!(options.timeout, Some(Duration::from_secs(10)));
    assert!(!options.shell_job && !options.overwrite && !options.sync && !options.display_stats);
    assert!(options.progress && options.space_check);
    assert_eq!((dump.log, dump.verbosity), (Log::Stderr, 2));
}

#[test]
fn one_request_many_spellings() {
    let wanted = dump("dump --tree=7 --images-dir=i --leave-running --shell-job --verbosity=4");
    for line in [
        "dump -t 7 -D i -R -j -v4",
        "dump -t7 -Di -Rjv4",
        "dump -jRt 7 -D i --verbosity=4",
        "-t 7 dump -D i -R -j -v4",
        "-D i -R -j -v4 -t 7 dump",
        "-D i -R -j -v4 -t 7 -- dump",
        "dump -t 7 -D i -R -j -v4 --",
        "dump --tree 7 --images-dir i --leave-running --shell-job -vv",
        "dump --tree 7 --images-dir i --leave-running --shell-job -v -v",
        "dump --tre 7 --im i --leave-r --shell --verb=4",
        "dump -t 8 -t 7 -D x -D i -s -R -j -v0 -v4",
        "dump -t 7 -D i -R --no-shell-job -j -v4",
        "dump -t 7 -D i -R -j -v4 --tcp-established --no-tcp-established",
        "dump -t 7 -D i -R -j -v4 --unprivileged --log-pid --deprecated",
        "dump -t 7 -D i -R -j -v4 --timeout 10",
    ] {
        assert_eq!(dump(line), wanted, "{line}");
    }
}

#[test]
fn every_option_reaches_its_field() {
    for (line, after) in [
        ("-R", After::LeaveRunning),
        ("--leave-running", After::LeaveRunning),
        ("-s", After::LeaveStopped),
        ("--leave-stopped", After::LeaveStopped),
        ("-s -R", After::LeaveRunning),
        ("-R -s", After::LeaveStopped),
    ] {
        assert_eq!(
            dump(&format!("dump -t 1 {line}")).options.after,
            after,
            "{line}"
        );
    }
    for (line, seconds) in [("--timeout 3", Some(3)), ("--timeout=0", None)] {
        let timeout = dump(&format!("dump -t 1 {line}")).options.timeout;
        assert_eq!(timeout, seconds.map(Duration::from_secs), "{line}");
    }
    assert!(dump("dump -t 1 -j").options.shell_job);
    let sockets = |line: &str| dump(&format!("dump -t 1 {line}")).options.sockets;
    assert!(!sockets("").external_unix && !sockets("").dumps_connections());
    assert!(sockets("--tcp-established").tcp_established);
    assert!(sockets("--tcp-close").tcp_close);
    assert!(sockets("--skip-in-flight").skip_in_flight);
    assert_eq!(sockets("").network_lock, None);
    for (word, lock) in [
        ("iptables", NetworkLock::Iptables),
        ("nftables", NetworkLock::Nftables),
        ("skip", NetworkLock::Skip),
    ] {
        let found = sockets(&format!("--network-lock {word}")).network_lock;
        assert_eq!(found, Some(lock), "{word}");
    }
    for (line, inodes) in [
        ("-x", vec![]),
        ("--ext-unix-sk", vec![]),
        ("-x12,7", vec![12, 7]),
        ("--ext-unix-sk=12 -x7", vec![12, 7]),
    ] {
        assert!(sockets(line).external_unix, "{line}");
        assert_eq!(sockets(line).external_unix_inodes, inodes, "{line}");
    }
    assert!(dump("dump -t 1 --overwrite").options.overwrite);
    assert!(
        !dump("dump -t 1 --overwrite --no-overwrite")
            .options
            .overwrite
    );
    assert!(dump("dump -t 1 --sync").options.sync);
    assert!(dump("dump -t 1 --display-stats").options.display_stats);
}

#[test]
fn the_log_lies_in_the_work_folder() {
    for (line, log) in [
        ("-o dump.log", Log::File("./dump.log".into())),
        ("-D i --log-file=dump.log", Log::File("i/dump.log".into())),
        ("-D i -W w -o dump.log", Log::File("w/dump.log".into())),
        ("-D i --work-dir w -o /l", Log::File("/l".into())),
        ("-D i -o -", Log::Stdout),
        ("-D i -W w", Log::Stderr),
    ] {
        assert_eq!(dump(&format!("dump -t 1 {line}")).log, log, "{line}");
    }
    let options = dump("dump -t 1 -D i -W w").options;
    assert_eq!(
        (options.images_dir, options.work_dir),
        ("i".into(), PathBuf::from("w"))
    );
}

#[test]
fn verbosity_counts_as_in_criu() {
    for (line, level) in [
        ("-v", 3),
        ("-vv", 4),
        ("-vvvv", 6),
        ("-v -v", 4),
        ("--verbosity", 3),
        ("-v0", 0),
        ("-v4 -v", 5),
        ("-v -v1", 1),
        ("--verbosity=0", 0),
        ("--verbosity=3", 3),
        ("-jv3", 3),
    ] {
        assert_eq!(
            dump(&format!("dump -t 1 {line}")).verbosity,
            level,
            "{line}"
        );
    }
    assert!(!dump("dump -t 1 -v4").options.progress);
    assert!(!dump("dump -t 1 -v0 -o l").options.progress);
    assert!(dump("dump -t 1 -v4 -o l").options.progress);
}

#[test]
fn mistakes_are_named() {
    for (line, part) in [
        ("", "no command"),
        ("-t 1", "no command"),
        ("dump", "-t PID"),
        ("dump -D i", "-t PID"),
        ("dump -t", "--tree needs a value"),
        ("dump --images-dir", "--images-dir needs a value"),
        ("dump -t 0", "'0' for '--tree"),
        ("dump -t -5", "'-5' for '--tree"),
        ("dump -t 12x", "'12x' for '--tree"),
        ("dump -t 99999999999", "for '--tree"),
        ("dump -t 1 --timeout soon", "'soon' for '--timeout"),
        ("dump -t 1 --network-lock x", "iptables, nftables and skip"),
        ("dump -t 1 -xa", "inode numbers"),
        ("dump -t 1 --timeout -1", "'-1' for '--timeout"),
        ("dump -t 1 -vj", "'j' for '--verbosity"),
        ("dump -t 1 -v 4", "not the word 4"),
        ("dump -t 1 extra", "not the word extra"),
        ("dump -t 1 -- -R", "not the word -R"),
        ("dump -t 1 --shell-job=yes", "--shell-job takes no value"),
        (
            "dump -t 1 --no-shell-job=yes",
            "--no-shell-job takes no value",
        ),
        (
            "dump -t 1 --leave",
            "--leave may mean --leave-running, --leave-stopped",
        ),
        ("dump -t 1 --frobnicate", "unknown option --frobnicate"),
        ("dump -t 1 --no-tree", "unknown option --no-tree"),
        ("dump -t 1 -Z", "unknown option -Z"),
        ("frobnicate -t 1", "unknown command frobnicate"),
        ("restore -D i -d", "criu restore -D DIR"),
        ("-D i restore", "criu restore -D DIR"),
        ("pre-dump -t 1", "pre-dump of criu is not supported"),
        ("swrk 3", "swrk of criu is not supported"),
    ] {
        let text = mistake(line);
        assert!(text.contains(part), "{line}: {text}");
        assert!(!text.contains('\n'), "{line}: {text}");
    }
}

#[test]
fn every_option_of_criu_is_taken_or_refused_by_name() {
    let mut names = BTreeSet::new();
    let mut letters = BTreeSet::new();
    for option in OPTIONS {
        assert!(names.insert(option.long), "{} twice", option.long);
        assert!(
            option.short.is_none_or(|letter| letters.insert(letter)),
            "{}",
            option.long
        );
        let value = match option.long {
            "tree" | "timeout" | "verbosity" | "ghost-limit" => "=3",
            "external" => "=unix[3]",
            "network-lock" => "=skip",
            "config" => "=/dev/null",
            _ if matches!(option.value, Value::Required) => "=x",
            _ => "",
        };
        let mut spellings = vec![format!("--{}{value}", option.long)];
        if let Some(letter) = option.short {
            let value = value.trim_start_matches('=');
            spellings.push(format!("-{}{value}", char::from(letter)));
        }
        for spelling in spellings {
            let line = format!("dump -t 1 {spelling}");
            match option.fate {
                Fate::Taken if ["help", "version"].contains(&option.long) => drop(text(&line)),
                Fate::Taken | Fate::Idle(_) => drop(dump(&line)),
                Fate::Later(_) => assert!(
                    mistake(&line).starts_with(&format!(
                        "option --{} of criu is not supported yet by dedump: ",
                        option.long
                    )),
                    "{line}"
                ),
                Fate::Other(_) => assert!(
                    mistake(&line)
                        .starts_with(&format!("option --{} is unknown to dump", option.long)),
                    "{line}"
                ),
            }
        }
        // Taking back what was never given changes nothing.
        if option.value == Value::Switch {
            dump(&format!("dump -t 1 --no-{}", option.long));
        }
    }
}

#[test]
fn files_that_restore_needs_help_with() {
    let files = |line: &str| dump(&format!("dump -t 1 {line}")).options.files;
    assert_eq!(files(""), FileChoices::default());
    assert!(files("-l").file_locks && files("--link-remap").link_remap);
    for (line, bytes) in [("7", 7), ("3K", 3 << 10), ("2m", 2 << 20), ("1G", 1 << 30)] {
        let choice = files(&format!("--ghost-limit {line}"));
        assert_eq!(choice.ghost_limit_bytes, bytes);
    }
    for wrong in ["", "M", "-1", "1T", "99999999999G"] {
        assert!(mistake(&format!("dump -t 1 --ghost-limit={wrong}")).contains("a size is"));
    }
    let choice = files("--external file[1f:2A] --external tty[8800:18] --external mnt[/x]:y");
    let file = External::File {
        mount: 0x1f,
        inode: 0x2a,
    };
    let terminal = External::Terminal {
        rdev: 0x8800,
        dev: 0x18,
    };
    assert_eq!(choice.external, [file, terminal]);
    let sockets = dump("dump -t 1 --external unix[77]").options.sockets;
    assert_eq!(sockets.external_unix_inodes, [77]);
    for wrong in [
        "file",
        "file[1]",
        "file[x:1]",
        "unix[x]",
        "disk[1]",
        "net[1]:x",
    ] {
        mistake(&format!("dump -t 1 --external {wrong}"));
    }
}

#[test]
fn the_table_and_clap_agree() {
    let mut root = Arguments::command();
    root.build();
    let dump = root.find_subcommand("dump").unwrap();
    let clap: BTreeSet<_> = dump
        .get_arguments()
        .map(|argument| (argument.get_long().unwrap(), argument.get_short()))
        .collect();
    let table: BTreeSet<_> = OPTIONS
        .iter()
        .filter(|option| option.fate == Fate::Taken && option.long != "version")
        .map(|option| (option.long, option.short.map(char::from)))
        .collect();
    assert_eq!(clap, table);
}

#[test]
fn help_begins_with_examples_and_names_everything() {
    for line in [
        "--help",
        "-h",
        "dump --help",
        "dump -h",
        "-h dump",
        "dump -t 1 --ext -h",
    ] {
        assert!(text(line).starts_with("Examples:\n  dedump dump"), "{line}");
    }
    let help = text("dump --help");
    for option in OPTIONS {
        let told = help.contains(&format!("--{}", option.long));
        let ours = !matches!(option.fate, Fate::Other(_)) && option.long != "version";
        assert!(told || !ours, "{}", option.long);
    }
    assert!(help.lines().all(|line| line.len() <= 110), "{help}");
    assert!(text("--version").starts_with("dedump "));
    assert_eq!(text("dump -V"), text("--version"));
}

#[test]
fn commands_that_criu_does_not_have_follow_the_rules_of_clap() {
    for command in [
        "show",
        "verify",
        "tree",
        "size",
        "compare",
        "completions",
        "man",
    ] {
        let help = text(&format!("{command} --help"));
        let start = format!("Examples:\n  dedump {command}");
        assert!(help.starts_with(&start), "{help}");
    }
    let line = "show a --pid 7 --addr 0x1000 b";
    let Ok(Request::Show(show)) = parse(arguments(line), &Places::default()) else {
        panic!("{line}");
    };
    assert_eq!(show.paths, [Path::new("a"), Path::new("b")]);
    assert_eq!((show.pid, show.addr, show.len), (Some(7), Some(4096), 256));
    for (line, part) in [
        ("show", "<FILE|DIR>..."),
        ("show x --json --pretty", "'--pretty'"),
        ("show x --pid 7", "--addr <A>"),
        ("show x --pid 7 --addr 10x", "not a number"),
        ("show x --json --pid 7 --addr 1", "cannot be used with"),
        ("completions tcsh", "invalid value 'tcsh'"),
    ] {
        let mistake = mistake(line);
        assert!(mistake.contains(part), "{line}: {mistake}");
        let command = line.split(' ').next().unwrap();
        let end = format!(": see dedump {command} --help");
        assert!(mistake.ends_with(&end), "{mistake}");
    }
}

#[test]
fn check_takes_the_options_of_a_dump() {
    let check = |line: &str| match parse(arguments(line), &Places::default()) {
        Ok(Request::Check(check)) => *check,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(check("check").dump, None);
    assert!(!check("check --all --extra").json && check("check --json").json);
    let asked = check("check --json -jt7 --tcp-established");
    let meant = dump("dump -t7 -j --tcp-established");
    assert_eq!(asked.dump.unwrap(), meant);
    for (line, part) in [
        ("check --feature x", "--feature"),
        ("check --lazy-pages", "--lazy-pages"),
        ("check 7", "check takes options only"),
        ("dump -t 1 --json", "--json is unknown to dump"),
    ] {
        assert!(mistake(line).contains(part), "{line}");
    }
}

#[test]
fn manual_pages_begin_with_examples() {
    let mut command = super::command();
    command.build();
    let page = super::texts::page(command.find_subcommand("show").unwrap()).unwrap();
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains(".SH EXAMPLES\n.nf\n\\&  dedump show images "),
        "{page}"
    );
}

#[test]
fn the_readme_names_every_option_taken() {
    let readme = include_str!("../../README.md");
    for option in OPTIONS.iter().filter(|option| option.fate == Fate::Taken) {
        assert!(
            readme.contains(&format!("--{}", option.long)),
            "{}",
            option.long
        );
    }
}

#[test]
fn a_line_of_the_log_stays_one_line() {
    assert_eq!(one_line("plain ü"), "plain ü");
    assert_eq!(one_line("a\nb\x1b[2J\t"), "a\\nb\\u{1b}[2J\\t");
}

proptest! {
    #[test]
    fn no_arguments_make_it_panic(
        arguments in prop::collection::vec("(dump|--|-)?(-{0,2}[a-z=]{0,12})?|.{0,8}", 0..8)
    ) {
        let _ = parse(std::iter::once("dedump".into()).chain(arguments.into_iter().map(OsString::from)), &Places::default());
    }

    #[test]
    fn words_come_in_any_order(seed in Just(["-R", "-j", "-v4", "-t7", "-Di", "dump"]).prop_shuffle()) {
        prop_assert_eq!(dump(&seed.join(" ")), dump("dump -R -j -v4 -t7 -Di"));
    }
}

#[test]
fn commands_that_look_have_words_of_their_own() {
    assert!(matches!(
        parse(arguments("verify images --json"), &Places::default()),
        Ok(Request::Look(Look::Verify { json: true, .. }))
    ));
    for line in ["verify", "verify a b", "verify --frob a"] {
        assert!(mistake(line).contains("dedump verify --help"), "{line}");
    }
}
