//! What `/proc` tells of the tasks of a frozen tree, read on all processors at once.
//!
//! Read before anything is run inside a task. A complaint about one task waits until that
//! task's turn.

use nix::errno::Errno;

use super::files::count_descriptors;
use super::namespaces::OwnNamespaces;
use crate::ahead::LookAhead;
use crate::error::{Error, Result};
use crate::freeze::Process;
use crate::ids::{Pid, Tid};
use crate::kcmp::FsFingerprint;
use crate::parallel;
use crate::proc::ProcDir;
use crate::proc::auxv::parse_auxv;
use crate::proc::maps::{Mapping, parse_maps};
use crate::proc::memory::TaskMemory;
use crate::proc::smaps::{self, parse_smaps};
use crate::proc::status::{Status, parse_status};

/// What is told of a process.
#[derive(Debug)]
pub(super) struct Reading {
    /// Its time namespace, where there are such.
    pub(super) time_namespace: Option<u64>,
    pub(super) memory: TaskMemory,
    pub(super) mappings: Vec<Mapping>,
    pub(super) flags: MappingFlags,
    pub(super) auxv: Vec<u64>,
    /// How many descriptors it has, where the kernel tells.
    pub(super) descriptors: Option<usize>,
    /// Its threads, leader first.
    pub(super) threads: Vec<ThreadReading>,
}

/// Where the flags of a process's mappings are known from.
#[derive(Debug)]
pub(super) enum MappingFlags {
    /// Read in the freeze, with the mappings.
    Read(Vec<smaps::Vma>),
    /// Read before the freeze: reading them takes long.
    Ahead,
    /// To be read when something is gone that does not belong to the process.
    Later,
}

/// What is told of a thread.
#[derive(Debug)]
pub(super) struct ThreadReading {
    pub(super) status: Status,
    /// In which cgroups it is; nothing where there are none.
    pub(super) cgroups: Vec<u8>,
}

/// What is told of each process; `None` for zombies.
pub(super) type Readings = Vec<Option<Result<Reading>>>;

/// Reads all living processes. While their threads are read, `meanwhile` is done in this thread,
/// with what is told of the processes; what it yields is returned, too.
pub(super) fn read_all<T>(
    processes: &[Process],
    own: &OwnNamespaces,
    ahead: &LookAhead,
    meanwhile: impl FnOnce(&Readings) -> T,
) -> (Readings, T) {
    let living: Vec<(Pid, &ProcDir)> = processes
        .iter()
        .filter(|process| !process.is_zombie())
        .map(|process| (process.pid, &process.proc_dir))
        .collect();
    let threads: Vec<(&ProcDir, Tid)> = processes
        .iter()
        .flat_map(|process| {
            let threads = process.threads.iter();
            threads.map(|thread| (&process.proc_dir, thread.tid()))
        })
        .collect();
    let read_processes = || {
        let readings = parallel::chunks(&living, |_, some| {
            let each = some.iter().map(|(pid, dir)| read(*pid, dir, own, ahead));
            each.collect::<Vec<_>>()
        });
        let mut readings = readings.into_iter().flatten();
        let mut next = |process: &Process| (!process.is_zombie()).then(|| readings.next());
        let all = processes.iter().map(|process| next(process).flatten());
        all.collect::<Readings>()
    };
    let (told, (mut all, done)) = parallel::beside(
        &threads,
        |some| {
            let mut text = Vec::new();
            let each = some.iter();
            each.map(|(dir, tid)| read_thread(dir, *tid, &mut text))
                .collect()
        },
        || {
            let all = read_processes();
            let done = meanwhile(&all);
            (all, done)
        },
    );
    let mut told = told.into_iter();
    for (process, reading) in processes.iter().zip(&mut all) {
        let mut mine = told.by_ref().take(process.threads.len());
        let threads: Result<Vec<_>> = mine.by_ref().collect();
        mine.for_each(drop);
        match (reading, threads) {
            (Some(Ok(reading)), Ok(threads)) => reading.threads = threads,
            (Some(reading @ Ok(_)), Err(error)) => *reading = Err(error),
            _ => {}
        }
    }
    (all, done)
}

/// Reads one process again.
pub(super) fn read_one(
    process: &Process,
    own: &OwnNamespaces,
    ahead: &LookAhead,
) -> Result<Reading> {
    let mut reading = read(process.pid, &process.proc_dir, own, ahead)?;
    let mut text = Vec::new();
    for thread in &process.threads {
        let told = read_thread(&process.proc_dir, thread.tid(), &mut text)?;
        reading.threads.push(told);
    }
    Ok(reading)
}

fn read(pid: Pid, proc_dir: &ProcDir, own: &OwnNamespaces, ahead: &LookAhead) -> Result<Reading> {
    let time_namespace = own.check(pid, proc_dir)?;
    let memory = TaskMemory::open(proc_dir, pid.leader())?;
    let (mappings, flags) = if ahead.space(pid).is_some() {
        let text = proc_dir.read("maps")?;
        let mappings = parse_maps(&text).map_err(|e| e.at(proc_dir.path_of("maps")))?;
        (mappings, MappingFlags::Ahead)
    } else {
        let vmas = read_smaps(proc_dir)?;
        let mappings = vmas.iter().map(|vma| vma.mapping.clone()).collect();
        (mappings, MappingFlags::Read(vmas))
    };
    let auxv = proc_dir.read("auxv")?;
    Ok(Reading {
        time_namespace,
        memory,
        mappings,
        flags,
        auxv: parse_auxv(&auxv).map_err(|e| e.at(proc_dir.path_of("auxv")))?,
        descriptors: count_descriptors(proc_dir)?,
        threads: Vec::new(),
    })
}

fn read_thread(proc_dir: &ProcDir, tid: Tid, text: &mut Vec<u8>) -> Result<ThreadReading> {
    let name = format!("task/{tid}/status");
    let filled = proc_dir.read_into(&name, text)?;
    let status = parse_status(&text[..filled]).map_err(|e| e.at(proc_dir.path_of(&name)))?;
    let cgroups = match proc_dir.read_into(&format!("task/{tid}/cgroup"), text) {
        // A kernel without cgroups.
        Err(Error::Syscall {
            errno: Errno::ENOENT,
            ..
        }) => Vec::new(),
        answer => text[..answer?].to_vec(),
    };
    Ok(ThreadReading { status, cgroups })
}

/// Reads the mappings with their flags.
pub(super) fn read_smaps(proc_dir: &ProcDir) -> Result<Vec<smaps::Vma>> {
    let text = proc_dir.read("smaps")?;
    parse_smaps(&text).map_err(|e| e.at(proc_dir.path_of("smaps")))
}

/// What working folder, root and umask of a task look like.
pub(super) fn fs_looks(proc_dir: &ProcDir, status: &Status) -> Result<FsFingerprint> {
    let inode = |name: &str| proc_dir.stat(name).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(FsFingerprint {
        cwd: inode("cwd")?,
        root: inode("root")?,
        umask: status.umask,
    })
}
