//! What can be said against a root before anything is touched.

use crate::error::{Error, Result};
use crate::ids::Pid;
use crate::proc::ProcDir;
use crate::proc::stat::parse_stat;

/// `PF_KTHREAD` of the flags column in `/proc/PID/stat`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Refuses pids that cannot be the root of a dump.
///
/// # Errors
/// [`Error::Usage`] for a pid below 1, [`Error::Unsupported`] for a process that does not
/// exist, a thread, a kernel thread, the dumper itself or one of its ancestors.
pub fn examine(root: Pid) -> Result<()> {
    if root.0 < 1 {
        return Err(Error::Usage(format!(
            "{root} is no process id: name one with --tree"
        )));
    }
    let Ok(proc_dir) = ProcDir::open(root) else {
        return Err(Error::unsupported(
            root,
            "a process that does not exist",
            "check the pid",
        ));
    };
    let tgid = proc_dir
        .read("status")
        .ok()
        .and_then(|text| thread_group(&text));
    if let Some(tgid) = tgid.filter(|tgid| *tgid != root.0) {
        return Err(Error::unsupported(
            root,
            "a single thread",
            format!("name its process, {tgid}"),
        ));
    }
    let stat = parse_stat(&proc_dir.read("stat")?).map_err(|e| e.at(proc_dir.path_of("stat")))?;
    if stat.flags & KERNEL_THREAD != 0 {
        return Err(Error::unsupported(
            root,
            "a kernel thread",
            "name a process of a program",
        ));
    }
    let mut ancestor = Pid(std::process::id().cast_signed());
    while ancestor.0 > 0 {
        if ancestor == root {
            let what = if root.number() == std::process::id() {
                "the dumper itself"
            } else {
                "an ancestor of the dumper"
            };
            return Err(Error::unsupported(
                root,
                what,
                "start dedump from outside of the tree",
            ));
        }
        let Ok(text) = ProcDir::open(ancestor).and_then(|dir| dir.read("stat")) else {
            break;
        };
        ancestor = parse_stat(&text)
            .map(|stat| Pid(stat.parent))
            .unwrap_or(Pid(0));
    }
    Ok(())
}

fn thread_group(status: &[u8]) -> Option<i32> {
    let text = String::from_utf8_lossy(status);
    text.lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()
}
