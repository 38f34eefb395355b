//! The identify and collect stages: from a frozen tree to everything the images hold.
//!
//! Three passes. The first reads what must be read before anything runs inside a task, and
//! identifies what tasks share; the second lets the tasks answer what only they know; the
//! third reads mappings, descriptors and paths of every object that was seen for the first
//! time. Everything that stands in the way of a dump is gathered and reported at once.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use nix::errno::Errno;
use tracing::warn;

use super::cgroups::{CgroupSets, Cgroups};
use super::clocks::Clocks;
use super::files::{
    DescriptorTable, Files, Mapper, Residency, ResidencyQuestion, TableOwner, count_descriptors,
    descriptors,
};
use super::here::Here;
use super::lost::{self, Inheritance};
use super::memory::{self, AddressSpace, Backing};
use super::namespaces::OwnNamespaces;
use super::notes::{self, Note, NoteKind};
use super::reading::{
    MappingFlags, Reading, ThreadReading, fs_looks, read_all, read_one, read_smaps,
};
use super::seccomp;
use super::task::{self, Living, Task};
use super::thread::{self, Capture, Thread};
use super::vdso;
use crate::ahead::LookAhead;
use crate::clock::Clock;
use crate::error::{Blockers, Error, Result, ResultExt, Target};
use crate::freeze::{FrozenTree, Process};
use crate::hold::{Snapshot, SnapshotCalls};
use crate::ids::{Fd, ObjectId, Pid, Tid};
use crate::inject::{self, Batch, CallIndex, Host, Party, Results, Site};
use crate::kcmp::{
    Claim, FilesFingerprint, Handled, Identities, Sighting, TaskIds, TaskLooks, TaskSightings,
    VmFingerprint,
};
use crate::options::DumpOptions;
use crate::proc::ProcDir;
use crate::proc::locks::LockedInodes;
use crate::proc::maps::Mapping;
use crate::proc::memory::TaskMemory;
use crate::proc::status::{Seccomp, Status, parse_status};
use crate::watch::Watch;

/// Working folder, root and umask.
#[derive(Clone, Copy, Debug)]
pub struct Filesystem {
    /// The entry of the working folder.
    pub cwd: ObjectId,
    /// The entry of the root.
    pub root: ObjectId,
    /// The umask.
    pub umask: u32,
}

/// A process and what it was the first to show.
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
    /// Which kernel objects.
    pub ids: TaskIds,
    /// Threads whose descriptors or working folder are not the leader's.
    pub private_threads: Vec<(Tid, TaskIds)>,
    /// Access to its pages.
    pub memory: TaskMemory,
}

/// A kernel object, the right to write it, and the task it was seen at first.
#[derive(Debug)]
pub struct Owned<T> {
    /// The right to write it.
    pub claim: Claim,
    /// Who showed it.
    pub holder: Tid,
    /// What it is.
    pub object: T,
}

/// Everything the images hold.
#[derive(Debug)]
pub struct Collection {
    /// Tasks, root first, parents before their children.
    pub tasks: Vec<CollectedTask>,
    /// Address spaces, each once.
    pub spaces: Vec<Owned<AddressSpace>>,
    /// Descriptor tables, each once.
    pub tables: Vec<Owned<DescriptorTable>>,
    /// Working folders, roots and umasks, each once.
    pub filesystems: Vec<Owned<Filesystem>>,
    /// Open files, each once, and what goes with them.
    pub files: Files,
    /// In which cgroups they are, if not all in the dumper's.
    pub cgroups: Option<Cgroups>,
    /// The clocks that they see; `None` where the kernel has one time for all.
    pub clocks: Option<Clocks>,
    /// What today's restorers cannot bring back as it was.
    pub notes: Vec<Note>,
    /// The trees, for their counters.
    pub identities: Identities,
}

impl Collection {
    /// Access to the memory of each living process, by its leader.
    #[must_use]
    pub fn memory_by_leader(&self) -> HashMap<Tid, &TaskMemory> {
        let tasks = self.tasks.iter();
        tasks
            .filter_map(|one| Some((one.task.pid.leader(), &one.holdings.as_ref()?.memory)))
            .collect()
    }
}

/// What was found out, and settled, before the freeze.
#[derive(Debug)]
pub struct Before<'a> {
    /// What the tree looked like.
    pub ahead: &'a LookAhead,
    /// What the dumper knows of itself.
    pub here: Here,
    /// Whether large private memory is left to snapshots where these can be made.
    pub snapshots: bool,
}

/// Collects a frozen tree, confirming what was seen before.
///
/// What stands in the way of a dump goes to `blockers`; what is collected is not all there is,
/// then.
///
/// # Errors
/// What ends the examination itself, as a task that vanished.
pub fn collect(
    tree: &FrozenTree,
    options: &DumpOptions,
    before: Before<'_>,
    watch: &Watch,
    clock: &mut Clock,
    blockers: &mut Blockers,
) -> Result<Collection> {
    let Before {
        ahead,
        here,
        snapshots,
    } = before;
    let files = Files::new(&options.sockets, &options.files, &here);
    let mut collector = Collector {
        snapshots,
        ahead,
        locked: ahead.uses_duplicates().then(LockedInodes::read).flatten(),
        take_in_orphans: HashSet::new(),
        deadline: watch.deadline(),
        blockers,
        own: here.namespaces,
        inheritance: here.inheritance,
        cgroups: here.cgroups,
        time_namespace: None,
        collection: Collection {
            tasks: Vec::with_capacity(tree.processes.len()),
            spaces: Vec::new(),
            tables: Vec::new(),
            filesystems: Vec::new(),
            files,
            cgroups: None,
            clocks: None,
            notes: Vec::new(),
            identities: Identities::new(),
        },
        table_of: HashMap::new(),
    };
    let mut arrived = Vec::with_capacity(tree.processes.len());
    watch.at("reading what the kernel tells of the tree", tree.root().pid)?;
    let deadline = watch.deadline();
    let (readings, captured) = read_all(&tree.processes, &collector.own, ahead, |readings| {
        let processes = tree.processes.iter().zip(readings);
        let captured = processes.map(|(process, reading)| match reading {
            Some(Ok(reading)) => Some(Captured::of(process, reading, deadline)),
            _ => None,
        });
        captured.collect::<Vec<_>>()
    });
    for ((process, reading), captured) in tree.processes.iter().zip(readings).zip(captured) {
        watch.at("finding out what it shares", process.pid)?;
        arrived.push(match (reading, captured) {
            (Some(reading), Some(captured)) => {
                collector.gather(|this| this.arrive(process, reading?, captured?))?
            }
            (Some(Err(error)), None) => collector.gather(|_| Err(error))?,
            _ => None,
        });
    }
    clock.stage("identify");
    watch.at("running system calls inside the tree", tree.root().pid)?;
    let answered = collector.ask_all(&tree.processes, &arrived)?;
    clock.stage("inject");
    for ((process, arrived), answered) in tree.processes.iter().zip(arrived).zip(answered) {
        match (arrived, answered) {
            (Some(arrived), Some(answered)) => {
                watch.at("reading its mappings and descriptors", process.pid)?;
                collector.gather(|this| this.examine(process, arrived, answered))?;
            }
            _ if process.is_zombie() => collector.zombie(process),
            _ => collector.look_only(process)?,
        }
    }
    for (kind, tids) in lost::sessions(&tree.processes) {
        collector.note(kind, tids);
    }
    collector.gather(|this| {
        let tree = &mut this.collection.identities.file;
        this.collection.files.complete_sockets(tree)
    })?;
    collector.gather(Collector::find_mapped_sockets)?;
    collector.gather(|this| {
        let stats = tree.processes.iter().map(|process| &process.stat);
        this.collection
            .files
            .complete_terminals(stats, options.shell_job)
    })?;
    collector.gather(|this| {
        let in_tree = |pid| tree.processes.iter().any(|process| process.pid == pid);
        this.collection.files.complete_names(in_tree)
    })?;
    let in_tree = |pid| tree.processes.iter().any(|process| process.pid == pid);
    collector.collection.files.warn_of_lost_locks(in_tree);
    let notes = std::mem::take(&mut collector.collection.files.notes);
    for Note { kind, tids } in notes {
        collector.note(kind, tids);
    }
    collector.collection.cgroups = collector.gather(|this| this.cgroups.finish())?.flatten();
    collector.collection.clocks = Clocks::of(&tree.root().proc_dir)?;
    clock.stage("scan");
    Ok(collector.collection)
}

/// Bounds the memory that is mapped in a task for a moment.
const MOST_DESCRIPTOR_QUESTIONS: usize = 20_000;

/// Private memory above this is cheaper to fork than to copy, in KiB (`tests/bench`).
const WORTH_A_SNAPSHOT_KIB: u64 = 1024;

struct Collector<'a> {
    /// What was seen before the freeze.
    ahead: &'a LookAhead,
    /// What is locked, if duplicates are used.
    locked: Option<LockedInodes>,
    /// Whether the tree will run on before its memory is written.
    snapshots: bool,
    /// Processes that become the parents of their descendants' orphans.
    take_in_orphans: HashSet<Pid>,
    own: OwnNamespaces,
    inheritance: Inheritance,
    cgroups: CgroupSets,
    /// That of the root.
    time_namespace: Option<u64>,
    deadline: Instant,
    blockers: &'a mut Blockers,
    collection: Collection,
    /// The descriptor table of each process, by its place in the collection.
    table_of: HashMap<Pid, ObjectId>,
}

/// A process of which everything was read that an injected call may change.
struct Arrived {
    memory: TaskMemory,
    mappings: Vec<Mapping>,
    flags: MappingFlags,
    auxv: Vec<u64>,
    site: Site,
    sightings: TaskSightings,
    threads: Vec<ArrivedThread>,
    /// Its descriptors, ascending: listed, or as many before the freeze.
    fds: Vec<Fd>,
    /// Those of which it is asked whether exec closes them.
    asked_fds: Vec<Fd>,
}

/// What is asked of the threads of a process through ptrace.
struct Captured {
    site: Site,
    /// Leader first.
    threads: Vec<Result<Capture>>,
}

impl Captured {
    fn of(process: &Process, reading: &Reading, deadline: Instant) -> Result<Self> {
        let memory = &reading.memory;
        let site = Site::find(memory, &reading.mappings, &process.threads, deadline)?;
        let threads = process.threads.iter();
        Ok(Self {
            site,
            threads: threads.map(|thread| Capture::of(thread, memory)).collect(),
        })
    }
}

/// The questions put to a process: the keys to its answers.
struct Asked {
    threads: Vec<thread::Questions>,
    task: task::Questions,
    descriptors: Vec<(Fd, CallIndex)>,
    residency: Vec<ResidencyQuestion>,
    snapshot: Option<SnapshotCalls>,
}

/// A process that has answered what only it can.
struct Answered {
    living: Living,
    /// Descriptors, and whether exec closes each.
    close_on_exec: Vec<(Fd, bool)>,
    /// All its descriptors have turned out to be others than before the freeze.
    has_other_fds: bool,
    /// Of shared memory that only its mappings lead to.
    residency: Vec<Residency>,
    snapshot: Option<Snapshot>,
}

/// What is known of a descriptor table before it is looked at.
#[derive(Clone, Copy, Default)]
struct KnownDescriptors<'a> {
    fds: Option<&'a [Fd]>,
    close_on_exec: Option<&'a [(Fd, bool)]>,
}

/// What was read of an address space before anything was run on it.
struct Maps<'a> {
    memory: &'a TaskMemory,
    mappings: Vec<Mapping>,
    flags: MappingFlags,
    auxv: Vec<u64>,
}

struct ArrivedThread {
    capture: Capture,
    cgroup_set: u32,
    status: Status,
    /// What the thread holds, where that is not what its leader holds.
    private: Option<TaskSightings>,
}

impl Collector<'_> {
    /// Finds the sockets whose rings are mapped.
    fn find_mapped_sockets(&mut self) -> Result<()> {
        let mut blockers = Blockers::default();
        for space in &mut self.collection.spaces {
            for vma in &mut space.object.vmas {
                let Backing::Socket { inode, file } = &mut vma.backing else {
                    continue;
                };
                *file = self.collection.files.packet_socket(*inode);
                if file.is_none() {
                    let mapping = &vma.smap.mapping;
                    blockers.gather::<()>(Err(Error::unsupported(
                        Target::Memory(space.holder, mapping.start, mapping.end),
                        "a mapping of a socket that has no descriptor any more",
                        "let the program unmap it first",
                    )))?;
                }
            }
        }
        blockers.none()
    }

    /// Runs a step; what it says against the dump is kept for the end.
    fn gather<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        let outcome = step(self);
        self.blockers.gather(outcome)
    }

    fn zombie(&mut self, process: &Process) {
        let task = Task {
            pid: process.pid,
            stat: process.stat.clone(),
            living: None,
        };
        if let Some((kind, tids)) = lost::lost_by_zombie(&task) {
            self.note(kind, tids);
        }
        self.collection.tasks.push(CollectedTask {
            task,
            parent: process.parent,
            holdings: None,
        });
    }

    /// First pass: captures the threads and identifies what they hold.
    fn arrive(
        &mut self,
        process: &Process,
        mut reading: Reading,
        captured: Captured,
    ) -> Result<Arrived> {
        let leader = process.pid.leader();
        let proc_dir = &process.proc_dir;
        let Captured {
            site,
            threads: captures,
        } = captured;
        if site.has_left_behind() {
            // Its threads may have run on a little, to leave what a killed dumper left, which
            // goes away before its memory is looked at.
            reading = read_one(process, &self.own, self.ahead)?;
            reading.flags = MappingFlags::Later;
        }
        let Reading {
            time_namespace,
            memory,
            mappings,
            flags,
            auxv,
            descriptors: count,
            threads: told,
        } = reading;
        if process.parent.is_none() {
            self.time_namespace = time_namespace;
        } else if time_namespace != self.time_namespace {
            return Err(Error::unsupported(
                process.pid,
                "a process in another time namespace than the root of the tree",
                "the image format has no place for it",
            ));
        }
        let Some(leader_status) = told.first().map(|told| &told.status) else {
            return Err(Error::Vanished { tid: leader });
        };
        let seen_ahead = count.and_then(|count| self.ahead.descriptors(process.pid, count));
        let fds = match seen_ahead {
            Some(fds) => fds,
            None => descriptors(proc_dir)?,
        };
        let fs = fs_looks(proc_dir, leader_status)?;
        let looks = TaskLooks {
            vm: VmFingerprint::of(&process.stat),
            files: FilesFingerprint::of(fds.len()),
            fs,
            handled: Handled::of(leader_status),
        };
        let sightings = self
            .collection
            .identities
            .identify_process(leader, &looks)?;
        let ids = sightings.ids();
        self.note_sharing(process, &sightings);
        if has_lost_vdso(&auxv, &mappings) {
            self.note(NoteKind::NoVdso, vec![leader]);
        }
        self.table_of.insert(process.pid, ids.files);

        let mut threads = Vec::with_capacity(process.threads.len());
        for ((stopped, told), capture) in process.threads.iter().zip(told).zip(captures) {
            let tid = stopped.tid();
            let ThreadReading { status, cgroups } = told;
            let captured = self.gather(|_| {
                let mut capture = capture?;
                capture.filters = seccomp::open(stopped, &status)?;
                Ok(capture)
            })?;
            let cgroup_set = self.gather(|this| this.cgroups.set_of(tid, &cgroups))?;
            let (Some(mut capture), Some(cgroup_set)) = (captured, cgroup_set) else {
                continue;
            };
            capture.settle_temporary_mask(status.signals_blocked);
            let private = if tid == leader {
                None
            } else {
                self.private_things(process, tid, &status, ids)?
            };
            threads.push(ArrivedThread {
                cgroup_set,
                capture,
                status,
                private,
            });
        }
        if threads.len() < process.threads.len() {
            // What stands in the way was said already.
            return Err(Error::Blocked(Vec::new()));
        }
        // Asking does not pay where fdinfo has to be read anyway.
        let ahead = self.ahead.table(process.pid);
        let told_elsewhere = |fd: &Fd| match ahead {
            Some(table) => table
                .get(*fd)
                .is_some_and(|known| !known.is_told_by_duplicate()),
            None => process.parent.is_none(),
        };
        let mut asked_fds = Vec::new();
        if matches!(sightings.files, Sighting::First(_)) {
            asked_fds.extend(fds.iter().copied().filter(|fd| !told_elsewhere(fd)));
        }
        if asked_fds.len() > MOST_DESCRIPTOR_QUESTIONS {
            asked_fds.clear();
        }
        Ok(Arrived {
            memory,
            mappings,
            flags,
            auxv,
            site,
            sightings,
            threads,
            fds,
            asked_fds,
        })
    }

    fn private_things(
        &mut self,
        process: &Process,
        tid: Tid,
        status: &Status,
        leader: TaskIds,
    ) -> Result<Option<TaskSightings>> {
        let sightings = self
            .collection
            .identities
            .identify_thread(tid, leader, || {
                let proc_dir = ProcDir::open_thread(process.pid, tid)?;
                Ok((
                    FilesFingerprint::of(match count_descriptors(&proc_dir)? {
                        Some(count) => count,
                        None => descriptors(&proc_dir)?.len(),
                    }),
                    fs_looks(&proc_dir, status)?,
                ))
            })?;
        let ids = sightings.ids();
        if ids == leader {
            return Ok(None);
        }
        let tids = vec![process.pid.leader(), tid];
        if ids.files != leader.files {
            self.note(NoteKind::PrivateFiles, tids.clone());
        }
        if ids.fs != leader.fs {
            self.note(NoteKind::PrivateFs, tids);
        }
        Ok(Some(sightings))
    }

    /// Notes what a process shares in a way that restorers do not know.
    fn note_sharing(&mut self, process: &Process, sightings: &TaskSightings) {
        let identities = &self.collection.identities;
        let holders = [
            (
                NoteKind::SharedVm,
                &sightings.vm,
                identities.vm.first_holder(sightings.vm.id()),
            ),
            (
                NoteKind::SharedFs,
                &sightings.fs,
                identities.fs.first_holder(sightings.fs.id()),
            ),
            (
                NoteKind::SharedSighand,
                &sightings.sighand,
                identities.sighand.first_holder(sightings.sighand.id()),
            ),
            (
                NoteKind::SharedFiles,
                &sightings.files,
                identities.files.first_holder(sightings.files.id()),
            ),
        ];
        let leader = process.pid.leader();
        let inherited = process.parent.and_then(|parent| self.table_of.get(&parent))
            == Some(&sightings.files.id());
        for (kind, sighting, holder) in holders {
            let restorable = kind == NoteKind::SharedFiles && inherited;
            if let (Sighting::Again(_), Some(holder)) = (sighting, holder)
                && !restorable
            {
                self.note(kind, vec![holder, leader]);
            }
        }
    }

    fn note(&mut self, kind: NoteKind, tids: Vec<Tid>) {
        notes::add(&mut self.collection.notes, kind, tids);
    }

    /// Third pass: reads what a process was the first to show.
    fn examine(&mut self, process: &Process, arrived: Arrived, answered: Answered) -> Result<()> {
        let ids = arrived.sightings.ids();
        let Answered {
            living,
            close_on_exec,
            has_other_fds,
            residency,
            snapshot,
        } = answered;
        let Arrived {
            fds,
            mappings,
            flags,
            auxv,
            memory,
            sightings,
            threads,
            ..
        } = arrived;
        let leader = process.pid.leader();
        let proc_dir = &process.proc_dir;

        if let Sighting::First(claim) = sightings.vm {
            let space = self.gather(|this| {
                this.address_space(
                    process,
                    &living,
                    snapshot,
                    Maps {
                        memory: &memory,
                        mappings,
                        flags,
                        auxv,
                    },
                    &residency,
                )
            })?;
            if let Some(object) = space {
                self.collection.spaces.push(Owned {
                    claim,
                    holder: leader,
                    object,
                });
            }
        }
        self.gather(|this| this.filesystem(sightings.fs, leader, proc_dir, &living.status))?;
        for (kind, tids) in self.inheritance.lost_by(process, &living)? {
            self.note(kind, tids);
        }
        let known = KnownDescriptors {
            fds: (!has_other_fds).then_some(fds.as_slice()),
            close_on_exec: Some(close_on_exec.as_slice()),
        };
        self.gather(|this| this.table(process, sightings.files, leader, proc_dir, known))?;
        let mut private_threads = Vec::new();
        for (arrived, thread) in threads.into_iter().zip(&living.threads) {
            let Some(sightings) = arrived.private else {
                continue;
            };
            let tid = thread.capture.tid;
            let proc_dir = ProcDir::open_thread(process.pid, tid)?;
            private_threads.push((tid, sightings.ids()));
            self.gather(|this| this.filesystem(sightings.fs, tid, &proc_dir, &thread.status))?;
            let known = KnownDescriptors::default();
            self.gather(|this| this.table(process, sightings.files, tid, &proc_dir, known))?;
        }
        self.collection.tasks.push(CollectedTask {
            task: Task {
                pid: process.pid,
                stat: process.stat.clone(),
                living: Some(living),
            },
            parent: process.parent,
            holdings: Some(Holdings {
                ids,
                private_threads,
                memory,
            }),
        });
        Ok(())
    }

    /// Lets every thread answer the questions only it can, in as few rounds as may be.
    fn ask_all(
        &mut self,
        processes: &[Process],
        arrived: &[Option<Arrived>],
    ) -> Result<Vec<Option<Answered>>> {
        let rounds = self.rounds(processes, arrived);
        let mut answered: Vec<_> = processes.iter().map(|_| None).collect();
        for round in 0..=rounds.iter().copied().max().unwrap_or(0) {
            let (mut places, mut parties, mut questions) = (Vec::new(), Vec::new(), Vec::new());
            for (place, process) in processes.iter().enumerate() {
                if let Some(arrived) = arrived[place].as_ref().filter(|_| rounds[place] == round)
                    && let Some((party, asked)) =
                        self.gather(|this| this.question(process, arrived))?
                {
                    places.push((place, process, arrived));
                    parties.push(party);
                    questions.push(asked);
                }
            }
            let Some(answers) = self.gather(|this| inject::visit(&parties, this.deadline))? else {
                continue;
            };
            for (((place, process, arrived), asked), answers) in
                places.into_iter().zip(questions).zip(&answers)
            {
                answered[place] =
                    self.gather(|this| this.hear(process, arrived, asked, answers))?;
            }
        }
        Ok(answered)
    }

    /// When each process is visited. All at once, but for two reasons: tasks with one address
    /// space take turns; and a snapshot becomes the child of the nearest ancestor that takes in
    /// orphans, so that all ancestors must have said before that they do not.
    fn rounds(&self, processes: &[Process], arrived: &[Option<Arrived>]) -> Vec<usize> {
        let mut round_of: HashMap<Pid, usize> = HashMap::with_capacity(processes.len());
        let mut turns: HashMap<ObjectId, usize> = HashMap::new();
        let mut rounds = Vec::with_capacity(processes.len());
        for (process, arrived) in processes.iter().zip(arrived) {
            let parent = process
                .parent
                .and_then(|parent| round_of.get(&parent))
                .copied();
            // Behind the parent, and with it behind all that the parent had to wait for.
            let mut round = parent.unwrap_or(0);
            if let Some(arrived) = arrived {
                if parent.is_some() && self.wants_snapshot(arrived) {
                    round += 1;
                }
                let turn = turns.entry(arrived.sightings.ids().vm).or_insert(0);
                round = round.max(*turn);
                *turn = round + 1;
            }
            round_of.insert(process.pid, round);
            rounds.push(round);
        }
        rounds
    }

    /// What a process is to be asked.
    fn question<'a>(
        &mut self,
        process: &'a Process,
        arrived: &'a Arrived,
    ) -> Result<(Party<'a>, Asked)> {
        let mut batches = Vec::with_capacity(arrived.threads.len());
        let mut threads = Vec::with_capacity(arrived.threads.len());
        for _ in &arrived.threads {
            let mut batch = Batch::default();
            threads.push(thread::questions(&mut batch));
            batches.push(batch);
        }
        let leader = &arrived.threads[0];
        let task = task::questions(process, &leader.status, &mut batches[0])?;
        let descriptors = task::descriptor_questions(&arrived.asked_fds, &mut batches[0]);
        let residency = if matches!(arrived.sightings.vm, Sighting::First(_)) {
            let files = &self.collection.files;
            files.residency_questions(&process.proc_dir, &arrived.mappings, &mut batches[0])?
        } else {
            Vec::new()
        };
        if self.is_worth_a_snapshot(arrived) && !self.wants_snapshot(arrived) {
            let pid = process.pid;
            warn!(
                "{pid}: no snapshot of its memory (it has seccomp filters): copied while it is frozen"
            );
        }
        let snapshot = self
            .wants_snapshot(arrived)
            .then(|| SnapshotCalls::add_to(&mut batches[0]));
        let hosts = process.threads.iter().zip(&arrived.threads);
        let hosts = hosts
            .map(|(thread, known)| Host {
                thread,
                registers: known.capture.registers,
                blocked: known.capture.blocked,
            })
            .collect();
        let party = Party {
            memory: &arrived.memory,
            mappings: &arrived.mappings,
            site: arrived.site,
            hosts,
            batches,
        };
        let asked = Asked {
            threads,
            task,
            descriptors,
            residency,
            snapshot,
        };
        Ok((party, asked))
    }

    /// Makes sense of what a process has answered.
    fn hear(
        &mut self,
        process: &Process,
        arrived: &Arrived,
        asked: Asked,
        answers: &[Results],
    ) -> Result<Answered> {
        let snapshot = match asked.snapshot.map(|calls| calls.snapshot(&answers[0])) {
            Some(Ok(snapshot)) => snapshot,
            Some(Err(errno)) => {
                let pid = process.pid;
                warn!("{pid}: no snapshot of its memory ({errno}): copied while it is frozen");
                None
            }
            None => None,
        };
        let mut threads = Vec::with_capacity(answers.len());
        for ((known, questions), answers) in arrived.threads.iter().zip(asked.threads).zip(answers)
        {
            threads.push(Thread::collect(
                known.capture.clone(),
                known.status.clone(),
                known.cgroup_set,
                questions,
                answers,
            )?);
        }
        let leader_status = arrived.threads[0].status.clone();
        let living = Living::collect(process, leader_status, threads, asked.task, &answers[0])?;
        let mut close_on_exec = Vec::with_capacity(asked.descriptors.len());
        let mut has_other_fds = false;
        for (fd, call) in asked.descriptors {
            match answers[0].value(call) {
                Ok(flags) => {
                    close_on_exec.push((fd, flags & i64::from(libc::FD_CLOEXEC) != 0));
                }
                Err(Errno::EBADF) => {
                    // Closed since the look ahead, and another one opened: list them again.
                    has_other_fds = true;
                }
                other => {
                    other.on("fcntl GETFD inside", (process.pid.leader(), fd))?;
                }
            }
        }
        if living.child_subreaper {
            self.take_in_orphans.insert(process.pid);
        }
        let residency = asked.residency.iter();
        let residency = residency.filter_map(|question| question.answer(&answers[0]));
        Ok(Answered {
            living,
            close_on_exec,
            has_other_fds,
            residency: residency.collect(),
            snapshot,
        })
    }

    /// Whether a snapshot of the memory of a process is worth its while, and goes unnoticed: it
    /// becomes the child of the nearest ancestor that takes in orphans. Those come first, and
    /// whether it is one itself the process finds out on the spot.
    fn wants_snapshot(&self, arrived: &Arrived) -> bool {
        self.is_worth_a_snapshot(arrived) && arrived.threads[0].status.seccomp == Seccomp::Disabled
    }

    fn is_worth_a_snapshot(&self, arrived: &Arrived) -> bool {
        self.snapshots
            && matches!(arrived.sightings.vm, Sighting::First(_))
            && arrived.threads[0].status.private_kib >= WORTH_A_SNAPSHOT_KIB
            && self.take_in_orphans.is_empty()
    }

    fn address_space(
        &mut self,
        process: &Process,
        living: &Living,
        snapshot: Option<Snapshot>,
        maps: Maps<'_>,
        residency: &[Residency],
    ) -> Result<AddressSpace> {
        let proc_dir = &process.proc_dir;
        let tid = process.pid.leader();
        let exe = self.gather(|this| this.path(tid, proc_dir, "exe"))?;
        let mut flags_from_before = false;
        let smaps = match maps.flags {
            MappingFlags::Read(vmas) => vmas,
            MappingFlags::Later => read_smaps(proc_dir)?,
            MappingFlags::Ahead => {
                let space = self.ahead.space(process.pid).filter(|_| snapshot.is_some());
                let vmas =
                    space.and_then(|space| space.vmas(&maps.mappings, living.status.locked_kib));
                flags_from_before = vmas.is_some();
                match vmas {
                    Some(vmas) => vmas.to_vec(),
                    None => read_smaps(proc_dir)?,
                }
            }
        };
        let (files, tree) = (
            &mut self.collection.files,
            &mut self.collection.identities.file,
        );
        let mapper = Mapper {
            tid,
            proc_dir,
            owner: (living.status.uids.effective, living.status.gids.effective),
            residency,
        };
        let mut vmas =
            memory::classify(tid, smaps, &process.stat.layout, living.brk, &mut |vma| {
                files.mapped(mapper, vma, tree)
            })?;
        vdso::leave_out_served(&mut vmas, maps.memory)?;
        let stack_pointer = living.threads[0].capture.registers.rsp;
        let listed = memory::list_pages(
            tid,
            proc_dir,
            &vmas,
            |vma| snapshot.is_none() || !vma.is_in_snapshot(),
            stack_pointer,
        )?;
        Ok(AddressSpace {
            stack_pointer,
            snapshot,
            flags_from_before,
            // What stands in the way of it was said already.
            exe: exe.ok_or_else(|| Error::Blocked(Vec::new()))?,
            auxv: maps.auxv,
            pages: listed.pages,
            guards: listed.guards,
            vmas,
        })
    }

    /// The entry of a file that a task holds without a descriptor.
    fn path(&mut self, tid: Tid, proc_dir: &ProcDir, link_name: &str) -> Result<ObjectId> {
        let tree = &mut self.collection.identities.file;
        self.collection.files.path(tid, proc_dir, link_name, tree)
    }

    /// Looks at a process that cannot be dumped for what else stands in the way, from outside
    /// alone.
    fn look_only(&mut self, process: &Process) -> Result<()> {
        let (proc_dir, leader) = (&process.proc_dir, process.pid.leader());
        if self.own.names_differ_in(proc_dir)? {
            return Ok(());
        }
        let vmas = read_smaps(proc_dir)?;
        let status = proc_dir.read("status")?;
        let status = parse_status(&status).map_err(|e| e.at(proc_dir.path_of("status")))?;
        let layout = &process.stat.layout;
        let mapper = Mapper {
            tid: leader,
            proc_dir,
            owner: (status.uids.effective, status.gids.effective),
            residency: &[],
        };
        self.gather(|this| {
            let (files, tree) = (
                &mut this.collection.files,
                &mut this.collection.identities.file,
            );
            memory::classify(leader, vmas, layout, layout.start_brk, &mut |vma| {
                files.mapped(mapper, vma, tree)
            })
        })?;
        for name in ["exe", "cwd", "root"] {
            self.gather(|this| this.path(leader, proc_dir, name))?;
        }
        let owner = TableOwner {
            tid: leader,
            pid: process.pid,
            proc_dir,
            inherited: None,
            fds: None,
            close_on_exec: None,
            locked: None,
            ahead: None,
        };
        self.gather(|this| {
            let tree = &mut this.collection.identities.file;
            this.collection.files.table(owner, tree)
        })?;
        Ok(())
    }

    fn filesystem(
        &mut self,
        sighting: Sighting,
        holder: Tid,
        proc_dir: &ProcDir,
        status: &Status,
    ) -> Result<()> {
        let Sighting::First(claim) = sighting else {
            return Ok(());
        };
        let cwd = self.gather(|this| this.path(holder, proc_dir, "cwd"))?;
        let root = self.gather(|this| this.path(holder, proc_dir, "root"))?;
        let (Some(cwd), Some(root)) = (cwd, root) else {
            return Ok(());
        };
        let object = Filesystem {
            cwd,
            root,
            umask: status.umask.unwrap_or(0),
        };
        self.collection.filesystems.push(Owned {
            claim,
            holder,
            object,
        });
        Ok(())
    }

    fn table(
        &mut self,
        process: &Process,
        sighting: Sighting,
        holder: Tid,
        proc_dir: &ProcDir,
        known: KnownDescriptors<'_>,
    ) -> Result<()> {
        let Sighting::First(claim) = sighting else {
            return Ok(());
        };
        let inherited_id = process.parent.and_then(|parent| self.table_of.get(&parent));
        let inherited = self
            .collection
            .tables
            .iter()
            .find(|table| Some(&table.claim.id()) == inherited_id);
        let owner = TableOwner {
            tid: holder,
            pid: process.pid,
            proc_dir,
            inherited: inherited.map(|table| &table.object),
            fds: known.fds,
            close_on_exec: known.close_on_exec,
            locked: self.locked.as_ref(),
            ahead: self
                .ahead
                .table(process.pid)
                .filter(|_| holder == process.pid.leader()),
        };
        let object = self
            .collection
            .files
            .table(owner, &mut self.collection.identities.file)?;
        self.collection.tables.push(Owned {
            claim,
            holder,
            object,
        });
        Ok(())
    }
}

/// Whether a process was started with a vdso and has unmapped it.
fn has_lost_vdso(auxv: &[u64], mappings: &[Mapping]) -> bool {
    let was_told = auxv
        .chunks_exact(2)
        .any(|pair| pair[0] == libc::AT_SYSINFO_EHDR && pair[1] != 0);
    was_told && !mappings.iter().any(|mapping| mapping.path == b"[vdso]")
}
