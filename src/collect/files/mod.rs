//! TEMP
use crate::collect::memory::{MappedFile, MappedFiles};
use crate::error::*;
use crate::ids::*;
use crate::image::proto;
use crate::proc::{ProcDir, maps::Mapping};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
/// temp
#[derive(Default)]
pub struct Files {
    next: u32,
    known: HashMap<(u64, u64), ObjectId>,
    /// temp
    pub entries: Vec<proto::FileEntry>,
}
impl Files {
    /// temp
    pub fn path(
        &mut self,
        proc_dir: &ProcDir,
        link: &str,
        flags: u32,
        pos: u64,
    ) -> Result<ObjectId> {
        let st = proc_dir.stat(link)?;
        if pos == 0
            && flags == 0
            && let Some(id) = self.known.get(&(st.st_dev, st.st_ino))
        {
            return Ok(*id);
        }
        let name = proc_dir.read_link(link)?;
        self.next += 1;
        let id = ObjectId(std::num::NonZeroU32::new(self.next).unwrap());
        self.known.insert((st.st_dev, st.st_ino), id);
        self.entries.push(proto::FileEntry {
            r#type: 1,
            id: id.number(),
            reg: Some(proto::RegFileEntry {
                id: id.number(),
                flags,
                pos,
                name: name.as_os_str().as_bytes().to_vec(),
                mode: Some(st.st_mode),
                size: (st.st_mode & 0o170000 == 0o100000).then_some(st.st_size as u64),
                ..Default::default()
            }),
            ..Default::default()
        });
        Ok(id)
    }
}
impl MappedFiles for Files {
    fn mapped_file(&mut self, _tid: Tid, proc_dir: &ProcDir, m: &Mapping) -> Result<MappedFile> {
        let file = self.path(
            proc_dir,
            &format!("map_files/{:x}-{:x}", m.start, m.end),
            0,
            0,
        )?;
        Ok(MappedFile {
            file,
            access: if m.access.shared && m.access.write {
                2
            } else {
                0
            },
            shmem: false,
        })
    }
}
