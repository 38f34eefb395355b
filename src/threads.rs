//! Threads that help, where there may be any: a limit of threads or of memory costs time, no dump.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};

/// Starts a thread.
///
/// # Errors
/// There may be no more threads, or there is no memory for its stack.
pub fn start<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work)
}

/// What a thread has come to; its panic is ours.
pub fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let outcome = thread.join();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Does something in a thread of its own, which is prepared for it, or in this one, which is not.
pub fn apart<T: Send>(prepare: impl FnOnce() + Send, work: impl FnOnce() -> T + Send) -> T {
    let kept = Mutex::new(Some(work));
    let take = || kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let done = scope(|scope| {
        let thread = start(scope, || {
            prepare();
            take().map(|work| work())
        });
        thread.ok().and_then(joined)
    });
    // Nobody has taken it if there was no thread.
    match (done, take()) {
        (Some(done), _) => done,
        (None, Some(work)) => work(),
        (None, None) => unreachable!("work that was taken has come to its end"),
    }
}
