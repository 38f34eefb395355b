//! `mallopt(3)`: how the C library gets memory for the program's own use.
#![allow(unsafe_code)]

use std::hint::black_box;

/// Prepares the heap for a program whose threads must not wait for the kernel to hand out memory:
/// all use one heap, which is fetched ahead in large pieces, stays with the program, and has its
/// first mebibyte in frames already.
///
/// To be called before the first thread is started. While a tree stands still, each page that is
/// touched for the first time and each growing by a page or two costs more than most of what is
/// asked of the kernel.
pub fn prepare() {
    const PIECE_BYTES: i32 = 4 << 20;
    const NEVER: i32 = i32::MAX;
    const WARM: usize = 1 << 20;
    // Less than what the C library maps on its own.
    const BLOCK: usize = 64 << 10;
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, PIECE_BYTES),
        (libc::M_TRIM_THRESHOLD, NEVER),
    ] {
        // SAFETY: only numbers; what it refuses stays as it is, and costs time alone.
        unsafe { libc::mallopt(parameter, value) };
    }
    let touched: Vec<Vec<u8>> = (0..WARM / BLOCK).map(|_| vec![1; BLOCK]).collect();
    drop(black_box(touched));
}
