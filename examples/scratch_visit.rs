//! scratch
#![allow(missing_docs)]
use dedump::{freeze::*, ids::*, inject::*, proc::maps::*, proc::memory::*, sys::ptrace};
use std::time::*;
fn main() {
    let pid = Pid(std::env::args().nth(1).unwrap().parse().unwrap());
    let n: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let mut worst = Duration::ZERO;
    let mut sum = Duration::ZERO;
    for _ in 0..n {
        let t = Instant::now();
        let tree = freeze(pid, Instant::now() + Duration::from_secs(5)).unwrap();
        for process in &tree.processes {
            let memory = TaskMemory::open(&process.proc_dir, process.pid.leader()).unwrap();
            let mappings = parse_maps(&process.proc_dir.read("maps").unwrap()).unwrap();
            let site = Site::find(
                &memory,
                &mappings,
                &process.threads,
                Instant::now() + Duration::from_secs(5),
            )
            .unwrap();
            let hosts: Vec<_> = process
                .threads
                .iter()
                .map(|t| Host {
                    thread: t,
                    registers: t.registers().unwrap(),
                    blocked: ptrace::signal_mask(t.tid()).unwrap(),
                })
                .collect();
            let batches: Vec<_> = hosts
                .iter()
                .map(|_| {
                    let mut b = Batch::default();
                    for i in 1..30u64 {
                        let buf = b.buffer(32);
                        b.call(
                            libc::SYS_rt_sigaction,
                            &[i.into(), 0.into(), buf.into(), 8.into()],
                        );
                    }
                    b
                })
                .collect();
            visit(
                &memory,
                &mappings,
                site,
                &hosts,
                &batches,
                Instant::now() + Duration::from_secs(5),
            )
            .unwrap();
        }
        tree.end(After::LeaveRunning).unwrap();
        let d = t.elapsed();
        worst = worst.max(d);
        sum += d;
    }
    println!("mean {:?} worst {:?}", sum / n as u32, worst);
}
