//! `mallopt(3)`: how the C library gets memory for the program's own use.
#![allow(unsafe_code)]

use std::hint::black_box;

/// Makes the C library keep the memory it has got for the program, and get it in large pieces.
///
/// To be called before the first thread is started, with [`warm`] in the one that must not wait
/// for memory: while a tree stands still, each growing by a page or two and each page that is
/// touched for the first time costs as much as what is asked of the kernel about a task.
pub fn keep() {
    const PIECE_BYTES: i32 = 4 << 20;
    const NEVER: i32 = i32::MAX;
    // The most that may be asked for.
    const LARGEST_BYTES: i32 = 32 << 20;
    for (parameter, value) in [
        (libc::M_TOP_PAD, PIECE_BYTES),
        (libc::M_TRIM_THRESHOLD, NEVER),
        (libc::M_MMAP_THRESHOLD, LARGEST_BYTES),
    ] {
        // SAFETY: only numbers; what it refuses stays as it is, and costs time alone.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gets memory for the calling thread's part of the heap: some mebibytes, the first of them in
/// frames already.
pub fn warm() {
    const BLOCK_BYTES: usize = 64 << 10;
    const TOUCHED: usize = 1 << 20;
    const GOT: usize = 8 << 20;
    let blocks = (0..GOT / BLOCK_BYTES).map(|number| {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        if number < TOUCHED / BLOCK_BYTES {
            block.resize(BLOCK_BYTES, 1_u8);
        }
        block
    });
    drop(black_box(blocks.collect::<Vec<_>>()));
}
