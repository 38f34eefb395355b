//! The pipeline: freeze → identify → collect → write → release.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::collect::tree::collect;
use crate::error::Result;
use crate::freeze::{After, examine, freeze};
use crate::ids::Pid;
use crate::image::folder::ImageFolder;
use crate::image::write::{write, write_inventory};

/// temp
pub fn run(pid: i32, dir: &Path, after: After) -> Result<()> {
    let root = Pid(pid);
    examine(root)?;
    let folder = ImageFolder::prepare(dir)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let t0 = Instant::now();
    let tree = freeze(root, deadline)?;
    let t1 = Instant::now();
    let collection = collect(&tree, deadline)?;
    let t2 = Instant::now();
    for note in &collection.notes {
        eprintln!("note: {note}");
    }
    let written = write(&folder, collection)?;
    write_inventory(&folder)?;
    let t3 = Instant::now();
    tree.end(after)?;
    eprintln!(
        "freeze {:?} collect {:?} write {:?} end {:?} {written:?}",
        t1 - t0,
        t2 - t1,
        t3 - t2,
        t3.elapsed()
    );
    Ok(())
}
