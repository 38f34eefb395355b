//! What waits in unix sockets, read without taking it out.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::error::{Error, Result, ResultExt, Target};
use crate::ids::ObjectId;
use crate::sys::netlink::UnixDiag;
use crate::sys::socket::{self, Peeked};

/// The messages that wait in a socket, in order.
#[derive(Debug)]
pub struct SocketQueue {
    /// Whose socket.
    pub target: Target,
    /// The receiving socket.
    pub receiver: ObjectId,
    /// The messages.
    pub messages: Vec<Message>,
}

/// A message on its way.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The open files that travel with it, under descriptors of ours.
    pub received: Vec<OwnedFd>,
    /// The same as they are written, once all of the tree was identified.
    pub rights: Vec<ObjectId>,
}

/// Room for the largest message: send buffers end at `net.core.wmem_max`, which is rarely above.
const MESSAGE_ROOM: usize = 1024 * 1024;

const SEQUENCED: u8 = 5;
const RECEIVING_SHUT_DOWN: u8 = 1;

/// The first message; of a stream all bytes up to the next open files.
pub(super) fn first_message(
    target: &Target,
    diag: &UnixDiag,
    fd: BorrowedFd<'_>,
) -> Result<Option<Message>> {
    let room = MESSAGE_ROOM.max(diag.receive_queue as usize);
    let peeked = match socket::peek(fd, room) {
        // Neither connected nor listening.
        Err(Errno::ENOTCONN) => None,
        answer => answer.on("recvmsg MSG_PEEK", target.clone())?,
    };
    peeked.map(|peeked| message(target, peeked)).transpose()
}

/// All messages: moves the place of peeking along the queue and puts it back.
pub(super) fn all_messages(
    target: &Target,
    diag: &UnixDiag,
    fd: BorrowedFd<'_>,
) -> Result<Vec<Message>> {
    let before = socket::int_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)
        .on("getsockopt SO_PEEK_OFF", target.clone())?;
    socket::set_peek_offset(fd, 0).on("setsockopt SO_PEEK_OFF", target.clone())?;
    let at_end = diag.kind == SEQUENCED && diag.shutdown & RECEIVING_SHUT_DOWN != 0;
    let mut messages = Vec::new();
    let outcome = loop {
        match first_message(target, diag, fd) {
            Ok(Some(message)) if message.bytes.is_empty() => {
                // Behind the last message of the other end there is this, for ever.
                if at_end && message.received.is_empty() {
                    break Ok(messages);
                }
                // An empty message does not move the place: what is behind is out of reach.
                break Err(Error::unsupported(
                    target.clone(),
                    "a unix socket with an empty message in its queue",
                    "let the program receive it and run the dump again",
                ));
            }
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break Ok(messages),
            Err(error) => break Err(error),
        }
    };
    socket::set_peek_offset(fd, before).on("setsockopt SO_PEEK_OFF", target.clone())?;
    outcome
}

fn message(target: &Target, peeked: Peeked) -> Result<Message> {
    const TIMESTAMPS: [i32; 3] = [
        libc::SCM_TIMESTAMP,
        libc::SCM_TIMESTAMPNS,
        libc::SCM_TIMESTAMPING,
    ];
    let mut others = peeked.others.iter();
    match others.find(|kind| !TIMESTAMPS.contains(kind)) {
        None => Ok(Message {
            bytes: peeked.bytes,
            received: peeked.rights,
            rights: Vec::new(),
        }),
        Some(&kind) => Err(Error::unsupported(
            target.clone(),
            if kind == libc::SCM_CREDENTIALS {
                "a unix socket with SO_PASSCRED and messages waiting in it".to_owned()
            } else {
                format!("a unix socket with control messages of type {kind} waiting in it")
            },
            "the image format has no place for credentials; let the program receive them and run the dump again",
        )),
    }
}
