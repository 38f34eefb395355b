//! Ways to bring the memory of another process into a file, side by side.
//!
//! ```text
//! cargo bench --bench copy                       256 MiB, 5 rounds
//! DEDUMP_BENCH_MIB=1024 DEDUMP_BENCH_ROUNDS=9 cargo bench --bench copy
//! ```
//!
//! Each line tells the median of all rounds, the fastest and the slowest, in GB a second. The
//! ways take turns, so that a disturbance hits all of them. The file is in the build folder;
//! what is measured is the way into the page cache, as in a dump without `--sync`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The process whose memory is copied.
struct Victim {
    child: Child,
    memory: File,
    address: u64,
    bytes: usize,
}

impl Victim {
    fn start(mib: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env("DEDUMP_BENCH_VICTIM", mib.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(Error::other)?;
        let memory = File::open(format!("/proc/{}/mem", child.id()))?;
        Ok(Self {
            child,
            memory,
            address,
            bytes: mib * MIB,
        })
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(Error::other)?;
        let local = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let remote = libc::iovec {
            iov_base: from as *mut libc::c_void,
            iov_len: bytes.len(),
        };
        // SAFETY: `local` is the buffer, which lives on.
        let read =
            unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(read) {
            Ok(read) if read == bytes.len() => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the victim does: fills memory, tells where, and waits for its end.
fn be_copied(mib: usize) -> Result<()> {
    let mut words = vec![0u64; mib * MIB / 8];
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for word in &mut words {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x;
    }
    println!("{}", words.as_ptr() as u64);
    std::io::stdout().flush()?;
    std::io::stdin().read_line(&mut String::new())?;
    std::hint::black_box(&words);
    Ok(())
}

/// A buffer that begins at a page, as `O_DIRECT` needs it.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![1; len + 2 * 4096];
        let start = bytes.as_ptr().align_offset(4096);
        let len = len + 16;
        Self { bytes, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// A mapping of the whole file, written through.
struct Mapped {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory; threads write to parts of their own.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn of(file: &File, len: usize) -> Result<Self> {
        file.set_len(len as u64)?;
        // SAFETY: a fresh mapping of a file that is ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            len,
        })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

#[derive(Clone, Copy)]
enum Way {
    /// `pread`, then `pwrite`.
    Buffer,
    /// The same, with what a dump does to each page in between: a look for zeros and a CRC-32.
    BufferLooked,
    /// The same as `Buffer`, from a buffer that begins 16 bytes behind a page.
    Misplaced,
    /// The same as `Buffer`, with `fallocate` for each piece before it is written.
    Allocated,
    /// The same, read by `process_vm_readv`.
    AllocatedVm,
    /// The same as `Buffer` past the page cache.
    Direct,
    /// `pread` into a mapping of the file.
    Mapping,
    /// `splice` through a pipe.
    Splice,
}

fn copy(victim: &Victim, path: &Path, way: Way, chunk: usize, threads: usize) -> Result<Duration> {
    let _ = std::fs::remove_file(path);
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    if matches!(way, Way::Direct) {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(path)?;
    let start = Instant::now();
    let mapped = match way {
        Way::Mapping => Some(Mapped::of(&file, victim.bytes)?),
        _ => None,
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = Aligned::new(chunk);
        loop {
            let at = next.fetch_add(chunk, Ordering::Relaxed);
            if at >= victim.bytes {
                return Ok(());
            }
            let len = chunk.min(victim.bytes - at);
            let from = victim.address + at as u64;
            match (way, &mapped) {
                (Way::Splice, _) => splice(&victim.memory, from, &file, at, len)?,
                (_, Some(mapped)) => {
                    // SAFETY: this part of the mapping is this thread's alone.
                    let part = unsafe { std::slice::from_raw_parts_mut(mapped.start.add(at), len) };
                    victim.memory.read_exact_at(part, from)?;
                }
                _ => {
                    let off = if matches!(way, Way::Misplaced) { 16 } else { 0 };
                    let bytes = &mut buffer.get()[off..off + len];
                    if matches!(way, Way::AllocatedVm) {
                        victim.read(from, bytes)?;
                    } else {
                        victim.memory.read_exact_at(bytes, from)?;
                    }
                    if matches!(way, Way::Allocated | Way::AllocatedVm) {
                        allocate(&file, at, len)?;
                    }
                    if matches!(way, Way::BufferLooked) {
                        look_at(bytes);
                    }
                    file.write_all_at(bytes, at as u64)?;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(Error::other("a thread panicked")))
        })
    })?;
    drop(mapped);
    let took = start.elapsed();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(took)
}

fn allocate(file: &File, at: usize, len: usize) -> Result<()> {
    let offset = i64::try_from(at).map_err(Error::other)?;
    let len = i64::try_from(len).map_err(Error::other)?;
    // SAFETY: no memory is touched.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, len) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn look_at(bytes: &[u8]) {
    let is_zero = |page: &[u8]| page.chunks_exact(64).all(|line| line == [0; 64]);
    let zeros = bytes
        .chunks_exact(4096)
        .filter(|page| is_zero(page))
        .count();
    std::hint::black_box((zeros, crc32fast::hash(bytes)));
}

fn splice(memory: &File, from: u64, file: &File, at: usize, len: usize) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let (mut from, mut to) = (from.cast_signed(), i64::try_from(at).map_err(Error::other)?);
    let mut left = len;
    while left > 0 {
        // SAFETY: both offsets live here.
        let got = unsafe {
            let none = std::ptr::null_mut();
            libc::splice(
                memory.as_raw_fd(),
                &raw mut from,
                writer.as_raw_fd(),
                none,
                left,
                0,
            )
        };
        let got = usize::try_from(got).map_err(|_| Error::last_os_error())?;
        let mut inside = got;
        while inside > 0 {
            // SAFETY: as above.
            let put = unsafe {
                let none = std::ptr::null_mut();
                libc::splice(
                    reader.as_raw_fd(),
                    none,
                    file.as_raw_fd(),
                    &raw mut to,
                    inside,
                    0,
                )
            };
            inside -= usize::try_from(put).map_err(|_| Error::last_os_error())?;
        }
        left -= got;
    }
    Ok(())
}

fn number(name: &str, otherwise: usize) -> usize {
    let told = std::env::var(name).ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(otherwise)
}

fn main() -> Result<()> {
    if let Ok(mib) = std::env::var("DEDUMP_BENCH_VICTIM") {
        return be_copied(mib.parse().map_err(Error::other)?);
    }
    let victim = Victim::start(number("DEDUMP_BENCH_MIB", 256))?;
    let rounds = number("DEDUMP_BENCH_ROUNDS", 5).max(1);
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("copy-{}", std::process::id()));
    let mut ways: Vec<(String, Way, usize, usize)> = Vec::new();
    for kib in [4, 16, 64, 256, 1024, 4096, 65536] {
        ways.push((
            format!("pread + pwrite, {kib} KiB"),
            Way::Buffer,
            kib * KIB,
            1,
        ));
    }
    for (threads, kib) in [(2, 64), (2, 256), (2, 1024), (4, 256)] {
        let name = format!("pread + pwrite, {kib} KiB, {threads} threads");
        ways.push((name, Way::Buffer, kib * KIB, threads));
    }
    for (name, way) in [
        ("16 bytes off a page", Way::Misplaced),
        ("fallocate", Way::Allocated),
        ("fallocate, process_vm_readv", Way::AllocatedVm),
    ] {
        ways.push((
            format!("the same, 256 KiB, 2 threads, {name}"),
            way,
            256 * KIB,
            2,
        ));
    }
    for threads in [1, 2] {
        let name = format!("the same with CRC, 256 KiB, {threads} threads");
        ways.push((name, Way::BufferLooked, 256 * KIB, threads));
        let name = format!("into a mapping, 256 KiB, {threads} threads");
        ways.push((name, Way::Mapping, 256 * KIB, threads));
        let name = format!("O_DIRECT, 1 MiB, {threads} threads");
        ways.push((name, Way::Direct, MIB, threads));
    }
    ways.push(("splice, 64 KiB".to_owned(), Way::Splice, 64 * KIB, 1));

    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); ways.len()];
    let mut failures: Vec<Option<Error>> = ways.iter().map(|_| None).collect();
    for _ in 0..rounds {
        for (index, (_, way, chunk, threads)) in ways.iter().enumerate() {
            match copy(&victim, &path, *way, *chunk, *threads) {
                Ok(took) => times[index].push(took),
                Err(error) => failures[index] = Some(error),
            }
        }
    }
    let _ = std::fs::remove_file(&path);
    println!(
        "{:<56} {:>8} {:>8} {:>8}",
        "GB/s", "median", "fastest", "slowest"
    );
    for (((name, ..), times), failure) in ways.iter().zip(&mut times).zip(failures) {
        if let Some(error) = failure {
            println!("{name:<56} {error}");
            continue;
        }
        times.sort_unstable();
        let speed = |took: Duration| victim.bytes as f64 / took.as_secs_f64() / 1e9;
        let [fastest, .., slowest] = times.as_slice() else {
            println!("{name:<56} {:8.2}", speed(times[0]));
            continue;
        };
        let median = times[times.len() / 2];
        println!(
            "{name:<56} {:8.2} {:8.2} {:8.2}",
            speed(median),
            speed(*fastest),
            speed(*slowest)
        );
    }
    Ok(())
}
