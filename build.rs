//! Compiles the image schema in `proto/`; in pure Rust, so that no `protoc` is needed.
//!
//! Out come the messages as types, and the schema itself, with what it says about how fields
//! are written for people, for those who look at images.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir("proto")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let schema = protox::compile(&files, ["proto"])?;
    prost_build::Config::new().compile_fds(schema)?;

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(&files)?;
    let described = Path::new(&std::env::var("OUT_DIR")?).join("schema.bin");
    std::fs::write(described, compiler.encode_file_descriptor_set())?;
    Ok(())
}
