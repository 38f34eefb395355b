//! The messages of the image format, compiled from `proto/`.

// The file is made by prost, which has a style of its own.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/dedump.image.rs"));
