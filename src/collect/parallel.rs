//! The same for many things, on all processors.
//!
//! Reading `/proc` and asking kcmp need no tracing thread.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread;

use crate::threads;

/// Runs `work` on each of a few neighbouring parts of `all`, with the place of its first item,
/// and returns what the parts yielded, in order.
pub fn chunks<T: Sync, R: Send>(all: &[T], work: impl Fn(usize, &[T]) -> R + Sync) -> Vec<R> {
    /// Below this, starting a thread costs more than it saves.
    const WORTH_A_THREAD: usize = 128;
    // To find this out takes reading files about control groups.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let processors =
        *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
    let workers = processors.min(all.len() / WORTH_A_THREAD).max(1);
    let size = all.len().div_ceil(workers).max(1);
    let work = &work;
    if workers == 1 {
        return vec![work(0, all)];
    }
    thread::scope(|scope| {
        let mut parts = all.chunks(size).enumerate();
        let first = parts.next();
        let started: Vec<_> = parts
            .map(|(number, part)| {
                let at = number * size;
                (at, part, threads::start(scope, move || work(at, part)))
            })
            .collect();
        let mut results = Vec::with_capacity(workers);
        results.extend(first.map(|(_, part)| work(0, part)));
        for (at, part, thread) in started {
            results.push(thread.map_or_else(|_| work(at, part), threads::joined));
        }
        results
    })
}
