//! Looking at images: everything here only reads, needs no rights beyond that, and works on any
//! folder, by us or by CRIU, whole or damaged.

mod json;
pub mod memory;
pub mod paint;
pub mod show;
mod values;
mod words;
