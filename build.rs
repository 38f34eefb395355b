//! Compiles the image schema in `proto/`; in pure Rust, so that no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir("proto")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let schema = protox::compile(&files, ["proto"])?;
    prost_build::Config::new().compile_fds(schema)?;
    Ok(())
}
