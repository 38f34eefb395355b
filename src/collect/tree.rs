//! The collect stage as a whole: from a frozen tree to everything the images hold.
//!
//! Three passes. The first reads what must be read before anything runs inside a task; the
//! second lets the tasks answer what only they know; the third reads mappings, descriptors
//! and paths. Everything that stands in the way of a dump is gathered and reported at once.

use std::time::Instant;

use super::files::Files;
use super::memory::{self, AddressSpace};
use super::namespaces::OwnNamespaces;
use super::task::{self, Living, Task};
use super::thread::{self, Capture, Thread};
use crate::error::{Error, Result};
use crate::freeze::{FrozenTree, Process};
use crate::ids::{ObjectId, Pid};
use crate::inject::{self, Batch, Host, Results, Site};
use crate::proc::auxv::parse_auxv;
use crate::proc::maps::{Mapping, parse_maps};
use crate::proc::memory::TaskMemory;
use crate::proc::smaps::parse_smaps;
use crate::proc::status::{Seccomp, Status, parse_status};

/// Working folder, root and umask of a process.
#[derive(Clone, Copy, Debug)]
pub struct Filesystem {
    /// The entry of its working folder.
    pub cwd: ObjectId,
    /// The entry of its root.
    pub root: ObjectId,
    /// Its umask.
    pub umask: u32,
}

/// A process and what it holds.
#[derive(Debug)]
pub struct CollectedTask {
    /// The process itself.
    pub task: Task,
    /// Its parent in the tree.
    pub parent: Option<Pid>,
    /// What a zombie no longer has.
    pub holdings: Option<Holdings>,
}

/// What a living process holds.
#[derive(Debug)]
pub struct Holdings {
    /// Its address space.
    pub space: AddressSpace,
    /// Access to the pages.
    pub memory: TaskMemory,
    /// Working folder, root, umask.
    pub filesystem: Filesystem,
}

/// A process in the middle of being collected.
struct Visited<'a> {
    process: &'a Process,
    memory: TaskMemory,
    mappings: Vec<Mapping>,
    site: Site,
}

/// Collects a frozen tree.
///
/// # Errors
/// [`Error::Blocked`] with everything that stands in the way; the tree is untouched.
pub fn collect(
    tree: &FrozenTree,
    files: &mut Files,
    deadline: Instant,
) -> Result<Vec<CollectedTask>> {
    let own = OwnNamespaces::read()?;
    let mut blockers = Vec::new();
    let mut collected = Vec::with_capacity(tree.processes.len());
    for process in &tree.processes {
        match collect_process(process, &own, files, deadline) {
            Ok(task) => collected.push(task),
            Err(Error::Blocked(several)) => blockers.extend(several),
            Err(error @ Error::Unsupported { .. }) => blockers.push(error),
            Err(error) => return Err(error),
        }
    }
    if blockers.is_empty() {
        Ok(collected)
    } else {
        Err(Error::Blocked(blockers))
    }
}

fn collect_process(
    process: &Process,
    own: &OwnNamespaces,
    files: &mut Files,
    deadline: Instant,
) -> Result<CollectedTask> {
    let task = Task {
        pid: process.pid,
        stat: process.stat.clone(),
        living: None,
    };
    if process.is_zombie() {
        return Ok(CollectedTask {
            task,
            parent: process.parent,
            holdings: None,
        });
    }
    own.check(process)?;
    let visited = Visited::arrive(process, deadline)?;
    let living = visited.ask(deadline)?;
    let space = visited.address_space(&living, files)?;
    let filesystem = Filesystem {
        cwd: files.path(&process.proc_dir, "cwd", 0, 0)?,
        root: files.path(&process.proc_dir, "root", 0, 0)?,
        umask: living.status.umask.unwrap_or(0),
    };
    Ok(CollectedTask {
        task: Task {
            living: Some(living),
            ..task
        },
        parent: process.parent,
        holdings: Some(Holdings {
            space,
            memory: visited.memory,
            filesystem,
        }),
    })
}

impl<'a> Visited<'a> {
    fn arrive(process: &'a Process, deadline: Instant) -> Result<Self> {
        let memory = TaskMemory::open(&process.proc_dir, process.pid.leader())?;
        let text = process.proc_dir.read("maps")?;
        let mappings = parse_maps(&text).map_err(|e| e.at(process.proc_dir.path_of("maps")))?;
        let site = Site::find(&memory, &mappings, &process.threads, deadline)?;
        Ok(Self {
            process,
            memory,
            mappings,
            site,
        })
    }

    /// Captures every thread, then lets all of them answer.
    fn ask(&self, deadline: Instant) -> Result<Living> {
        let mut captures = Vec::with_capacity(self.process.threads.len());
        let mut statuses = Vec::with_capacity(self.process.threads.len());
        let mut batches = Vec::with_capacity(self.process.threads.len());
        let mut thread_questions = Vec::with_capacity(self.process.threads.len());
        let mut task_questions = None;
        for stopped in &self.process.threads {
            let status = self.status(stopped.tid().0)?;
            let mut capture = Capture::of(stopped, &self.memory)?;
            capture.settle_temporary_mask(status.signals_blocked);
            let mut batch = Batch::default();
            thread_questions.push(thread::questions(&mut batch));
            if task_questions.is_none() {
                task_questions = Some(task::questions(self.process, &status, &mut batch)?);
            }
            captures.push(capture);
            statuses.push(status);
            batches.push(batch);
        }
        let hosts: Vec<Host<'_>> = self
            .process
            .threads
            .iter()
            .zip(&captures)
            .map(|(thread, capture)| Host {
                thread,
                registers: capture.registers,
                blocked: capture.blocked,
            })
            .collect();
        let answers = inject::visit(
            &self.memory,
            &self.mappings,
            self.site,
            &hosts,
            &batches,
            deadline,
        )?;
        let leader_status = statuses[0].clone();
        let threads = captures
            .into_iter()
            .zip(statuses)
            .zip(thread_questions)
            .zip(&answers)
            .map(|(((capture, status), questions), answers)| {
                self.thread(capture, status, questions, answers)
            })
            .collect::<Result<Vec<_>>>()?;
        match task_questions {
            Some(questions) => {
                Living::collect(self.process, leader_status, threads, questions, &answers[0])
            }
            None => Err(Error::Vanished {
                tid: self.process.pid.leader(),
            }),
        }
    }

    fn thread(
        &self,
        capture: Capture,
        status: Status,
        questions: thread::Questions,
        answers: &Results,
    ) -> Result<Thread> {
        let mut comm = self
            .process
            .proc_dir
            .read(&format!("task/{}/comm", capture.tid))?;
        // The kernel adds one newline; the name itself may end in another.
        comm.pop();
        Thread::collect(capture, comm, status, questions, answers)
    }

    fn status(&self, tid: i32) -> Result<Status> {
        let name = format!("task/{tid}/status");
        let text = self.process.proc_dir.read(&name)?;
        let status = parse_status(&text).map_err(|e| e.at(self.process.proc_dir.path_of(&name)))?;
        if status.seccomp != Seccomp::Disabled {
            return Err(Error::unsupported(
                crate::ids::Tid(tid),
                "a thread under seccomp",
                "start the program without its sandbox",
            ));
        }
        Ok(status)
    }

    fn address_space(&self, living: &Living, files: &mut Files) -> Result<AddressSpace> {
        let proc_dir = &self.process.proc_dir;
        let tid = self.process.pid.leader();
        let text = proc_dir.read("smaps")?;
        let smaps = parse_smaps(&text).map_err(|e| e.at(proc_dir.path_of("smaps")))?;
        let vmas = memory::classify(
            tid,
            proc_dir,
            smaps,
            &self.process.stat.layout,
            living.brk,
            files,
        )?;
        let stack_pointer = living.threads[0].capture.registers.rsp;
        let pages = memory::list_pages(tid, proc_dir, &vmas, stack_pointer)?;
        let auxv = proc_dir.read("auxv")?;
        Ok(AddressSpace {
            pages_scanned: pages.iter().map(memory::PageRun::pages).sum(),
            vmas,
            exe: files.path(proc_dir, "exe", 0, 0)?,
            auxv: parse_auxv(&auxv).map_err(|e| e.at(proc_dir.path_of("auxv")))?,
            pages,
        })
    }
}
