//! Rules that keep packets of a connection away while nobody is there to take them.
//!
//! A packet that reached the host while no socket is there would be answered with a reset, and
//! that would end the connection for the other side. Restore removes the rules by the same
//! words, or the table by its name. Packets with the mark are its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::inet::EndAddress;
use crate::error::{Error, Result, Target};
use crate::options::{NetworkLock, SocketChoices};
use crate::sys::netlink::RuleChanges;

/// The mark of packets that restore sends by itself.
const MARK: &str = "0xC114";

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Own address and port.
    pub(super) own: (IpAddr, u16),
    /// Those of the other side.
    pub(super) peer: (IpAddr, u16),
}

impl Ends {
    /// From address words as they go over the wire; an IPv4 address in IPv6 clothes is one of
    /// IPv4.
    pub(super) fn new(own: &EndAddress, peer: &EndAddress) -> Option<Self> {
        Some(Self {
            own: (address(&own.1)?, own.0),
            peer: (address(&peer.1)?, peer.0),
        })
    }

    fn is_v4(&self) -> bool {
        self.own.0.is_ipv4()
    }
}

fn address(words: &[u32]) -> Option<IpAddr> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match bytes.len() {
        4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        16 => {
            let whole: [u8; 16] = bytes.try_into().ok()?;
            Some(Ipv6Addr::from(whole).to_canonical())
        }
        _ => None,
    }
}

/// How a tree's connections are locked, for restore to unlock them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// Not at all.
    #[default]
    None,
    /// By a pair of iptables rules each.
    Iptables,
    /// By an nft table.
    Nftables {
        /// The part of its name that restore learns from the images.
        run_id: String,
    },
}

impl Lock {
    /// What was asked for, or what this machine has.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is nothing that could lock.
    pub fn choose(wanted: Option<NetworkLock>) -> Result<Self> {
        let nftables = || Self::Nftables { run_id: run_id() };
        match wanted {
            Some(NetworkLock::Skip) => Ok(Self::None),
            Some(NetworkLock::Iptables) => Ok(Self::Iptables),
            Some(NetworkLock::Nftables) => Ok(nftables()),
            None if is_installed("iptables-restore") => Ok(Self::Iptables),
            None if is_installed("nft") => Ok(nftables()),
            None => Err(Error::Refused {
                target: Target::Here,
                what: "packets of TCP connections cannot be kept away while the tree is gone"
                    .to_owned(),
                remedy: "install iptables or nftables, or give --network-lock skip if the network is cut otherwise"
                    .to_owned(),
            }),
        }
    }

    /// Locks connections, all or none.
    pub(super) fn lock(&self, connections: &[Ends], programs: &mut Programs) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Iptables => lock_by_iptables(connections, programs),
            Self::Nftables { run_id } => {
                let script = table(run_id, connections);
                programs.take(&NFT)?.tell(&script).finish()
            }
        }
    }

    /// Unlocks what was locked. Packets pass when this returns; the rest can wait.
    pub(super) fn unlock(
        &self,
        connections: &[Ends],
        programs: &mut Programs,
    ) -> Result<Unlocking> {
        let mut changes = Vec::new();
        match self {
            Self::None => {}
            Self::Iptables => {
                for (program, mine) in by_family(connections) {
                    changes.push(programs.take(program)?.tell(&rules("-D", &mine)));
                }
            }
            Self::Nftables { run_id } => {
                let script = format!("delete table inet CRIU-{run_id}\n");
                changes.push(programs.take(&NFT)?.tell(&script));
            }
        }
        changes.iter_mut().try_for_each(Change::in_force)?;
        Ok(Unlocking(changes))
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// Criu's are UUIDs, of which some releases use the first 21 characters only.
fn run_id() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let id: String = uuid.trim().chars().take(21).collect();
    if id.is_empty() {
        std::process::id().to_string()
    } else {
        id
    }
}

/// What changes rules, as told on its standard input.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: &'static str,
    arguments: &'static [&'static str],
}

static IPTABLES: Program = Program {
    name: "iptables-restore",
    arguments: &["--noflush", "-w"],
};
static IP6TABLES: Program = Program {
    name: "ip6tables-restore",
    arguments: &["--noflush", "-w"],
};
static NFT: Program = Program {
    name: "nft",
    arguments: &["-f", "-"],
};

/// Connections of one family, and the program for them.
fn by_family(connections: &[Ends]) -> impl Iterator<Item = (&'static Program, Vec<&Ends>)> {
    let families = [(&IPTABLES, true), (&IP6TABLES, false)];
    families.into_iter().filter_map(|(program, v4)| {
        let mine = connections.iter().filter(|ends| ends.is_v4() == v4);
        let mine: Vec<&Ends> = mine.collect();
        (!mine.is_empty()).then_some((program, mine))
    })
}

/// One transaction for each family, all or none.
fn lock_by_iptables(connections: &[Ends], programs: &mut Programs) -> Result<()> {
    let mut done: Option<(&'static Program, String)> = None;
    for (program, mine) in by_family(connections) {
        let change = programs.take(program);
        let outcome = change.and_then(|change| change.tell(&rules("-I", &mine)).finish());
        if outcome.is_err()
            && let Some((program, undo)) = &done
        {
            let change = programs.take(program);
            let _ = change.and_then(|change| change.tell(undo).finish());
        }
        outcome?;
        done = Some((program, rules("-D", &mine)));
    }
    Ok(())
}

fn rules(action: &str, connections: &[&Ends]) -> String {
    let mut text = "*filter\n".to_owned();
    for ends in connections {
        for (chain, from, to) in [
            ("INPUT", ends.peer, ends.own),
            ("OUTPUT", ends.own, ends.peer),
        ] {
            text += &format!(
                "{action} {chain} --protocol tcp -m mark ! --mark {MARK} --source {} --sport {} --destination {} --dport {} -j DROP\n",
                from.0, from.1, to.0, to.1
            );
        }
    }
    text + "COMMIT\n"
}

fn table(run_id: &str, connections: &[Ends]) -> String {
    let mut sets = [String::new(), String::new()];
    for ends in connections {
        for (from, to) in [(ends.peer, ends.own), (ends.own, ends.peer)] {
            sets[usize::from(!ends.is_v4())] +=
                &format!("{} . {} . {} . {}, ", from.0, from.1, to.0, to.1);
        }
    }
    let mut text = format!("create table inet CRIU-{run_id}\ntable inet CRIU-{run_id} {{\n");
    for (family, set) in ["ip", "ip6"].iter().zip(&sets) {
        let kind = if *family == "ip" {
            "ipv4_addr"
        } else {
            "ipv6_addr"
        };
        text +=
            &format!("set locked_{family} {{ type {kind} . inet_service . {kind} . inet_service\n");
        if !set.is_empty() {
            text += &format!("elements = {{ {set} }}\n");
        }
        text += "}\n";
    }
    for chain in ["input", "output"] {
        text += &format!(
            "chain {chain} {{ type filter hook {chain} priority 0\nmeta mark {MARK} accept\n"
        );
        for family in ["ip", "ip6"] {
            text += &format!(
                "{family} saddr . tcp sport . {family} daddr . tcp dport @locked_{family} drop\n"
            );
        }
        text += "}\n";
    }
    text + "}\n"
}

/// Programs that were started before the tree stood still, and wait to be told what to change. One
/// that is never told anything changes nothing.
#[derive(Debug, Default)]
pub struct Programs(Vec<Change>);

impl Programs {
    /// Starts those that it takes to lock connections and to unlock them, if any are to be dumped.
    #[must_use]
    pub fn ready(choices: &SocketChoices) -> Self {
        let program = match Lock::choose(choices.network_lock) {
            Ok(Lock::Iptables) if choices.tcp_established => &IPTABLES,
            Ok(Lock::Nftables { .. }) if choices.tcp_established => &NFT,
            _ => return Self::default(),
        };
        // Why one cannot be started is told when it is needed.
        Self((0..2).filter_map(|_| Change::start(program).ok()).collect())
    }

    /// Lets those that wait see the end of their input, as far as this process holds it open.
    pub(super) fn end_input(&mut self) {
        for change in &mut self.0 {
            drop(change.child.stdin.take());
        }
    }

    /// One that is ready, or a new one.
    fn take(&mut self, program: &'static Program) -> Result<Change> {
        let ready = self.0.iter().position(|change| change.program == program);
        match ready {
            Some(index) => Ok(self.0.swap_remove(index)),
            None => Change::start(program),
        }
    }
}

/// Rules that are gone, and programs that have yet to end.
#[derive(Debug, Default)]
pub(super) struct Unlocking(Vec<Change>);

impl Unlocking {
    /// Waits until all is done.
    pub(super) fn finish(self) -> Result<()> {
        let outcomes = self.0.into_iter().map(Change::finish);
        outcomes.fold(Ok(()), Result::and)
    }
}

/// A program that changes the rules.
#[derive(Debug)]
struct Change {
    program: &'static Program,
    child: Child,
    /// Where it complains.
    complaints: Option<ChildStderr>,
    /// Where the kernel tells of it, if it does.
    told: Option<RuleChanges>,
}

impl Change {
    fn start(program: &'static Program) -> Result<Self> {
        let told = RuleChanges::listen().ok();
        let mut child = Command::new(program.name)
            .args(program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(program, &error.to_string()))?;
        Ok(Self {
            program,
            complaints: child.stderr.take(),
            child,
            told,
        })
    }

    /// Tells the program what to change.
    fn tell(mut self, input: &str) -> Self {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A program that stops reading says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        self
    }

    /// Waits until the rules are changed. The kernel lets the program end only when no processor
    /// can still be at work on what was removed, ten milliseconds and more later.
    fn in_force(&mut self) -> Result<()> {
        while let (Some(told), Some(complaints)) = (&self.told, &self.complaints) {
            let mut ready = [
                PollFd::new(told.as_fd(), PollFlags::POLLIN),
                PollFd::new(complaints.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut ready, PollTimeout::NONE).is_err() {
                break;
            }
            let speaks_or_ends = ready[1].any() != Some(false);
            if told.authors().contains(&self.child.id()) {
                return Ok(());
            }
            if speaks_or_ends {
                break;
            }
        }
        self.end()
    }

    /// Waits until the program has ended.
    fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let mut said = Vec::new();
        let heard = self
            .complaints
            .take()
            .map(|mut pipe| pipe.read_to_end(&mut said));
        let status = self.child.wait();
        let status = status.map_err(|error| failed(self.program, &error.to_string()))?;
        if let Some(Err(error)) = heard {
            return Err(failed(self.program, &error.to_string()));
        }
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&said);
        let reason = text.lines().next().unwrap_or("no reason given");
        Err(failed(self.program, reason))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let _ = self.child.wait();
    }
}

fn failed(program: &Program, cause: &str) -> Error {
    Error::Refused {
        target: Target::Path(Path::new(program.name).to_owned()),
        what: format!(
            "the connections of the tree cannot be locked: {}",
            cause.trim()
        ),
        remedy: "install it, or choose another way with --network-lock".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<u32> {
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    }

    #[test]
    fn both_directions_of_a_connection_are_locked() {
        let ends = Ends::new(
            &(80, words(&[127, 0, 0, 1])),
            &(4000, words(&[10, 0, 0, 9])),
        )
        .unwrap();
        let text = rules("-I", &[&ends]);
        assert!(text.contains(
            "-I INPUT --protocol tcp -m mark ! --mark 0xC114 --source 10.0.0.9 --sport 4000 --destination 127.0.0.1 --dport 80 -j DROP\n"
        ));
        assert!(text.contains("-I OUTPUT"));
        let table = table("x", &[ends]);
        assert!(table.contains("10.0.0.9 . 4000 . 127.0.0.1 . 80, 127.0.0.1 . 80"));
    }

    #[test]
    fn an_ipv4_connection_of_an_ipv6_socket_is_one_of_ipv4() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        let end = (1, words(&mapped));
        assert!(Ends::new(&end, &end).unwrap().is_v4());
    }
}
