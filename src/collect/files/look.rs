//! The first look at every descriptor of a table, on all processors at once.
//!
//! Reading `/proc` and asking kcmp need no tracing thread. What is seen is handed over in the
//! order of the descriptors; identifying files stays in one place.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use nix::sys::stat::FileStat;

use super::TableOwner;
use crate::error::{Result, ResultExt};
use crate::ids::{Fd, ObjectId};
use crate::kcmp::FileTree;
use crate::proc::fdinfo::{Fdinfo, parse_fdinfo};
use crate::sys::kcmp::{Order, Resource, kcmp};

/// What the first look at a descriptor shows.
#[derive(Debug)]
pub(super) enum Look {
    /// It leads where the same number leads in the parent: nothing more need be known.
    Inherited { file: ObjectId, close_on_exec: bool },
    /// Anything else.
    Other(Box<OtherLook>),
}

/// A descriptor that is not inherited.
#[derive(Debug)]
pub(super) struct OtherLook {
    pub(super) fdinfo: Fdinfo,
    /// Link and `stat`, where these say more than fdinfo.
    pub(super) file: Option<(PathBuf, FileStat)>,
}

/// What became of looking, and how many questions were put to kcmp.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub(super) looks: Vec<(Fd, Look)>,
    pub(super) kcmp_calls: u64,
}

/// Looks at all given descriptors.
pub(super) fn look_at(owner: TableOwner<'_>, fds: &[Fd], tree: &FileTree) -> Result<Looks> {
    /// Below this, starting a thread costs more than it saves.
    const WORTH_A_THREAD: usize = 128;
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = processors.min(fds.len() / WORTH_A_THREAD).max(1);
    if workers == 1 {
        return look_at_some(owner, fds, tree);
    }
    let parts = thread::scope(|scope| {
        let chunks = fds.chunks(fds.len().div_ceil(workers));
        let started: Vec<_> = chunks
            .map(|some| scope.spawn(move || look_at_some(owner, some, tree)))
            .collect();
        let joined = started.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut all = Looks::default();
    for part in parts {
        let part = part?;
        all.looks.extend(part.looks);
        all.kcmp_calls += part.kcmp_calls;
    }
    Ok(all)
}

impl TableOwner<'_> {
    fn closes_on_exec(&self, fd: Fd) -> Option<bool> {
        let known = self.close_on_exec?;
        let place = known.binary_search_by_key(&fd, |one| one.0).ok()?;
        Some(known[place].1)
    }
}

fn look_at_some(owner: TableOwner<'_>, fds: &[Fd], tree: &FileTree) -> Result<Looks> {
    let mut seen = Looks::default();
    let mut text = Vec::new();
    for fd in fds {
        let fd = *fd;
        let inherited = owner.inherited.and_then(|table| table.file(fd));
        let holder =
            inherited.and_then(|file| tree.first_holder(file).map(|holder| (file, holder)));
        let mut same = None;
        if let Some((file, (tid, holder_fd))) = holder {
            let resource = Resource::File(holder_fd, fd);
            seen.kcmp_calls += 1;
            let order = kcmp(tid, owner.tid, resource).on(resource.op(), (owner.tid, fd))?;
            same = (order == Order::Equal).then_some(file);
        }
        if let (Some(file), Some(close_on_exec)) = (same, owner.closes_on_exec(fd)) {
            seen.looks.push((
                fd,
                Look::Inherited {
                    file,
                    close_on_exec,
                },
            ));
            continue;
        }
        let name = format!("fdinfo/{fd}");
        let filled = owner.proc_dir.read_into(&name, &mut text)?;
        let fdinfo =
            parse_fdinfo(&text[..filled]).map_err(|e| e.at(owner.proc_dir.path_of(&name)))?;
        let look = match same {
            Some(file) => Look::Inherited {
                file,
                close_on_exec: fdinfo.flags & libc::O_CLOEXEC.cast_unsigned() != 0,
            },
            None => {
                // Of an eventfd its fdinfo tells everything there is to know.
                let tells_all = fdinfo.extras.eventfd_count.is_some() && fdinfo.inode.is_some();
                let link = format!("fd/{fd}");
                let file = if tells_all {
                    None
                } else {
                    Some((
                        owner.proc_dir.read_link(&link)?,
                        owner.proc_dir.stat(&link)?,
                    ))
                };
                Look::Other(Box::new(OtherLook { fdinfo, file }))
            }
        };
        seen.looks.push((fd, look));
    }
    Ok(seen)
}
