//! The `dedump` command: parse, run, say what went wrong and what to do, exit code.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod cli;

use std::env;
use std::io::{BufWriter, ErrorKind, Write as _, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use tracing::{error, info};

use cli::log::{Log, one_line};
use cli::show::ShowArgs;
use cli::{Check, Dump, Look, Places, Request};
use dedump::check::system::Feature;
use dedump::error::{Error, IoResultExt, Result, Target};
use dedump::image::opened::OpenedFolder;
use dedump::inspect::compare::compare;
use dedump::inspect::memory::Memory;
use dedump::inspect::paint::Paint;
use dedump::inspect::show::{Style, show_path};
use dedump::inspect::size::size;
use dedump::inspect::tree::{Details, tree};
use dedump::inspect::verify::verify;
use dedump::sys::heap;

fn main() -> ExitCode {
    if dedump::sys::auxv::secure_execution() {
        return complain(&Error::Usage(
            "dedump was started with the rights of its file (set-user-ID, set-group-ID or \
             capabilities), which would lend them to every user: run it as root instead"
                .to_owned(),
        ));
    }
    match cli::parse(env::args_os(), &Places::of_this_user()) {
        Ok(Request::Dump(request)) => dump(&request),
        Ok(Request::Show(request)) => finish(show(&request)),
        Ok(Request::Look(request)) => match look(&request) {
            // One line each has been said of what is wrong.
            Ok(false) => ExitCode::FAILURE,
            // 1 says that they differ.
            Err(failure)
                if matches!(request, Look::Compare { .. }) && !is_read_enough(&failure) =>
            {
                complain(&failure);
                ExitCode::from(2)
            }
            told => finish(told.map(drop)),
        },
        Ok(Request::Completions(request)) => {
            let mut text = Vec::new();
            clap_complete::generate(request.shell, &mut cli::command(), "dedump", &mut text);
            finish(stdout().write_all(&text).at("write", "standard output"))
        }
        Ok(Request::Man(request)) => finish(man(request.dir.as_deref())),
        Ok(Request::Check(request)) => match check(&request) {
            Ok(is_free) if is_free => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(failure) => complain(&failure),
        },
        Ok(Request::Text(text)) => match text.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(mistake) => complain(&mistake),
    }
}

/// Looks at folders. Whether nothing was found to complain of.
fn look(request: &Look) -> Result<bool> {
    let mut out = BufWriter::new(stdout().lock());
    let mut tell = |text: &str| {
        out.write_all(text.as_bytes())
            .at("write", "standard output")
    };
    let mut is_fine = true;
    match request {
        Look::Verify { dir, json } => {
            let verdict = verify(dir)?;
            is_fine = verdict.is_sound();
            if *json {
                tell(&format!("{:#}\n", verdict.json()))?;
            } else {
                tell(&verdict.to_string())?;
            }
        }
        Look::Tree {
            dir,
            fds,
            maps,
            dot,
            json,
        } => {
            let tree = tree(dir)?;
            let details = Details {
                fds: *fds,
                maps: *maps,
            };
            match (dot, json) {
                (true, _) => tell(&tree.dot())?,
                (_, true) => tell(&format!("{:#}\n", tree.json(details)))?,
                _ => tell(&tree.text(details))?,
            }
            is_fine = all_read(tree.defects());
        }
        Look::Size {
            dirs,
            json,
            csv,
            svg,
        } => {
            if svg.is_some() && dirs.len() > 1 {
                return Err(Error::Usage("--svg draws one folder only".to_owned()));
            }
            for (number, dir) in dirs.iter().enumerate() {
                let size = size(dir)?;
                match (json, csv) {
                    (true, _) => tell(&format!("{:#}\n", size.json()))?,
                    (_, true) => tell(&size.csv(number == 0))?,
                    _ if number > 0 => tell(&format!("\n{}", size.text()))?,
                    _ => tell(&size.text())?,
                }
                if let Some(svg) = svg {
                    std::fs::write(svg, size.svg()).at("write", svg.as_path())?;
                }
                is_fine &= all_read(size.defects.found().iter().map(ToString::to_string));
            }
        }
        Look::Compare {
            before,
            after,
            json,
        } => {
            let comparison = compare(before, after)?;
            if *json {
                tell(&format!("{:#}\n", comparison.json()))?;
            } else {
                tell(&comparison.text())?;
            }
            is_fine = comparison.is_same();
            for (path, defects) in comparison.paths.iter().zip(&comparison.defects) {
                let told = defects.found().iter();
                is_fine &= all_read(told.map(|one| format!("{}: {one}", path.display())));
            }
        }
    }
    out.flush().at("write", "standard output")?;
    Ok(is_fine)
}

/// Says what could not be read; whether that is nothing.
fn all_read(damage: impl Iterator<Item = String>) -> bool {
    let mut is_whole = true;
    for line in damage {
        is_whole = false;
        let _ = writeln!(stderr(), "dedump: warning: {}", one_line(&line));
    }
    is_whole
}

/// Answers on standard output; whether nothing stands in the way.
fn check(request: &Check) -> Result<bool> {
    let (lines, json, is_free) = if let Some(dump) = &request.dump {
        dump.log.start(dump.verbosity)?;
        let findings = dedump::check::tree::check(&dump.options)?;
        let blockers = findings.blockers.iter();
        let mut lines: Vec<String> = blockers.map(|one| advised(&one.error)).collect();
        lines.push(findings.summary());
        (lines, findings.json(), findings.blockers.is_empty())
    } else {
        let features = dedump::check::system::features()?;
        let lines = features.iter().map(Feature::line).collect();
        let json = features.iter().map(Feature::json).collect();
        (lines, json, !features.iter().any(Feature::is_fatal))
    };
    let text = if request.json {
        format!("{json:#}\n")
    } else {
        lines
            .iter()
            .map(|line| format!("{}\n", one_line(line)))
            .collect()
    };
    stdout()
        .write_all(text.as_bytes())
        .at("write", "standard output")?;
    Ok(is_free)
}

fn dump(request: &Dump) -> ExitCode {
    heap::keep();
    let Err(failure) = logged_dump(request) else {
        return ExitCode::SUCCESS;
    };
    if request.log != Log::Stderr {
        for failure in single(&failure) {
            error!("{}", advised(failure));
        }
    }
    let quiet = request.verbosity == 0 && !matches!(failure, Error::NotReleased { .. });
    if quiet {
        ExitCode::from(failure.exit_code())
    } else {
        complain(&failure)
    }
}

fn logged_dump(request: &Dump) -> Result<()> {
    request.log.start(request.verbosity)?;
    info!("dedump {}", env!("CARGO_PKG_VERSION"));
    if let Ok(system) = nix::sys::utsname::uname() {
        info!(
            "running on {} {} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy(),
            system.machine().to_string_lossy()
        );
    }
    dedump::dump::run(&request.options)?;
    info!("the dump is complete");
    Ok(())
}

/// The exit code of a command that only prints.
fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if is_read_enough(&failure) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure),
    }
}

/// Whether who reads has seen enough.
fn is_read_enough(failure: &Error) -> bool {
    match failure {
        Error::Image { op, source, .. } => *op == "write" && source.kind() == ErrorKind::BrokenPipe,
        _ => false,
    }
}

fn show(request: &ShowArgs) -> Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    let paint = Paint::of_stdout();
    let style = match (request.json, request.pretty) {
        (true, _) => Style::Json,
        (_, true) => Style::Pretty,
        _ => Style::Readable(paint),
    };
    let mut failures = Vec::new();
    for path in &request.paths {
        let shown = match (request.pid, request.addr) {
            (Some(pid), Some(address)) => OpenedFolder::open(path)
                .and_then(|folder| Memory::open(&folder, pid))
                .and_then(|memory| memory.hexdump(address, request.len, paint, &mut out)),
            _ => show_path(path, style, &mut out),
        };
        match shown {
            Err(failure @ Error::Image { op: "write", .. }) => return Err(failure),
            Err(failure) => failures.push(failure),
            Ok(()) => {}
        }
    }
    out.flush().at("write", "standard output")?;
    match failures.pop() {
        None => Ok(()),
        Some(only) if failures.is_empty() => Err(only),
        Some(last) => {
            failures.push(last);
            Err(Error::Blocked(failures))
        }
    }
}

fn man(folder: Option<&Path>) -> Result<()> {
    let mut command = cli::command();
    command.build();
    let Some(folder) = folder else {
        let page = cli::texts::page(&command).at("write", "the manual page")?;
        return stdout().write_all(&page).at("write", "standard output");
    };
    let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
    for command in std::iter::once(command).chain(subcommands) {
        let page = cli::texts::page(&command).at("write", "the manual page")?;
        let path = folder.join(cli::texts::page_name(&command));
        std::fs::write(&path, page).at("write", path)?;
    }
    Ok(())
}

/// Tells the user, one line for each failure; a closed standard error is no reason to panic.
fn complain(failure: &Error) -> ExitCode {
    for failure in single(failure) {
        let line = format!("dedump: error: {}\n", one_line(&advised(failure)));
        let _ = stderr().write_all(line.as_bytes());
    }
    ExitCode::from(failure.exit_code())
}

/// The failures that one error stands for.
fn single(failure: &Error) -> Vec<&Error> {
    match failure {
        Error::Blocked(several) => several.iter().flat_map(single).collect(),
        one => vec![one],
    }
}

/// The text of a failure, with what to do about it where the error does not say so itself.
fn advised(failure: &Error) -> String {
    match remedy(failure) {
        Some(remedy) => format!("{failure}: {remedy}"),
        None => failure.to_string(),
    }
}

fn remedy(failure: &Error) -> Option<&'static str> {
    match failure {
        Error::Syscall {
            errno: Errno::EPERM | Errno::EACCES,
            ..
        } => Some(
            "run dedump as root, or with CAP_SYS_PTRACE, CAP_DAC_OVERRIDE and CAP_CHECKPOINT_RESTORE",
        ),
        Error::Syscall {
            errno: Errno::ESRCH,
            target: Target::Process(_),
            ..
        } => Some("give the number of a process that runs"),
        Error::Syscall {
            errno: Errno::EMFILE | Errno::ENFILE,
            ..
        } => Some("raise the limit of open files (ulimit -n) and run the dump again"),
        Error::Image { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Some("choose a folder that you may write to (-D, -W)")
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Some("make room, or choose a folder on another disk (-D)")
            }
            ErrorKind::NotADirectory => Some("choose another folder (-D, -W)"),
            _ => None,
        },
        _ => None,
    }
}
