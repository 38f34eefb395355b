//! TEMP
/// temp
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Inventory,
    Pstree,
    Core,
    Ids,
    Mm,
    Fs,
    Pagemap,
    Pages,
    Fdinfo,
    Files,
    PipesData,
    FifoData,
    RemapFpath,
    GhostFile,
    MemfdInode,
    ShmemPagemap,
    SkQueues,
}
impl Kind {
    /// temp
    pub fn magic(self) -> u32 {
        use Kind::*;
        match self {
            Inventory => 0x58313116,
            Pstree => 0x50273030,
            Core => 0x55053847,
            Ids => 0x54432030,
            Mm => 0x57492820,
            Fs => 0x51403912,
            Pagemap | ShmemPagemap => 0x56084025,
            Pages => 0,
            Fdinfo => 0x56213732,
            Files => 0x56303138,
            PipesData => 0x56453709,
            FifoData => 0x59333054,
            RemapFpath => 0x59133954,
            GhostFile => 0x52583605,
            MemfdInode => 0x48453499,
            SkQueues => 0x56264026,
        }
    }
    /// temp
    pub fn file_name(self, id: u64) -> String {
        use Kind::*;
        match self {
            Inventory => "inventory.img".into(),
            Pstree => "pstree.img".into(),
            Core => format!("core-{id}.img"),
            Ids => format!("ids-{id}.img"),
            Mm => format!("mm-{id}.img"),
            Fs => format!("fs-{id}.img"),
            Pagemap => format!("pagemap-{id}.img"),
            ShmemPagemap => format!("pagemap-shmem-{id}.img"),
            Pages => format!("pages-{id}.img"),
            Fdinfo => format!("fdinfo-{id}.img"),
            Files => "files.img".into(),
            PipesData => "pipes-data.img".into(),
            FifoData => "fifo-data.img".into(),
            RemapFpath => "remap-fpath.img".into(),
            GhostFile => format!("ghost-file-{id:x}.img"),
            MemfdInode => "memfd.img".into(),
            SkQueues => "sk-queues.img".into(),
        }
    }
}
