//! The same for many things, on all processors.
//!
//! Reading `/proc` and asking kcmp need no tracing thread.

use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::threads;

/// Below this, starting a thread costs more than it saves.
const WORTH_A_THREAD: usize = 128;

/// How many processors there are for `items`.
fn workers(items: usize) -> usize {
    // To find this out takes reading files about control groups.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let processors =
        *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get));
    processors.min(items / WORTH_A_THREAD).max(1)
}

/// Runs `work` on each of a few neighbouring parts of `all`, with the place of its first item,
/// and returns what the parts yielded, in order.
pub fn chunks<T: Sync, R: Send>(all: &[T], work: impl Fn(usize, &[T]) -> R + Sync) -> Vec<R> {
    let workers = workers(all.len());
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

/// Runs `work` on portions of `all` on the other processors while this thread is busy with
/// `meanwhile`, and then helps them.
///
/// For what only this thread may do, as asking those whom it traces.
pub fn beside<T: Sync, R: Send, M>(
    all: &[T],
    work: impl Fn(&[T]) -> Vec<R> + Sync,
    meanwhile: impl FnOnce() -> M,
) -> (Vec<R>, M) {
    /// Handed out at a time: few enough for all to end together.
    const PORTION: usize = 16;
    let next = AtomicUsize::new(0);
    let portions = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(portion) = all.chunks(PORTION).nth(number) else {
                return done;
            };
            done.push((number, work(portion)));
        }
    };
    thread::scope(|scope| {
        // What this thread does meanwhile makes a helper worth its while sooner.
        let helpers = (1..workers(2 * all.len()))
            .filter_map(|_| threads::start(scope, portions).ok())
            .collect::<Vec<_>>();
        let meant = meanwhile();
        let mut done = portions();
        done.extend(helpers.into_iter().flat_map(threads::joined));
        done.sort_unstable_by_key(|(number, _)| *number);
        let results = done.into_iter().flat_map(|(_, results)| results);
        (results.collect(), meant)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_and_in_order() {
        for count in [0, 1, 15, 127, 128, 1000] {
            let all: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = all.iter().map(|number| number * 2).collect();
            let double = |some: &[usize]| some.iter().map(|number| number * 2).collect();
            let (done, meanwhile) = beside(&all, double, || "done");
            assert_eq!((&done, meanwhile), (&doubled, "done"));
            let parts = chunks(&all, |start, some| {
                assert!(some.is_empty() || some[0] == start);
                some.iter().map(|number| number * 2).collect::<Vec<_>>()
            });
            assert_eq!(parts.concat(), doubled);
        }
    }
}
