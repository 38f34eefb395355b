//! TCP connections as images: `tcp-stream-`, and what the inventory says of them.

use super::framing::ImageWriter;
use super::proto;
use crate::collect::sockets::{Lock, Stream};
use crate::error::Result;

/// Writes a connection and the bytes of both its queues.
///
/// # Errors
/// Writing.
pub(super) fn write_stream(writer: &mut ImageWriter, stream: &Stream) -> Result<()> {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let windows = stream.windows;
    let (send_scale, receive_scale) = stream.scales.unzip();
    writer.entry(&proto::TcpStreamEntry {
        inq_len: len(&stream.received),
        inq_seq: stream.received_sequence,
        outq_len: len(&stream.sent),
        outq_seq: stream.sent_sequence,
        opt_mask: u32::from(stream.options),
        snd_wscale: send_scale.map_or(0, u32::from),
        mss_clamp: stream.largest_segment,
        rcv_wscale: receive_scale.map(u32::from),
        timestamp: stream.timestamp,
        cork: stream.cork.then_some(true),
        nodelay: stream.nodelay.then_some(true),
        unsq_len: Some(stream.unsent_bytes),
        snd_wl1: windows.map(|windows| windows.send_update),
        snd_wnd: windows.map(|windows| windows.send),
        max_window: windows.map(|windows| windows.send_largest),
        rcv_wnd: windows.map(|windows| windows.receive),
        rcv_wup: windows.map(|windows| windows.receive_update),
    })?;
    writer.raw(&stream.received)?;
    writer.raw(&stream.sent)
}

/// `network_lock_method`.
pub(super) fn lock_method(lock: &Lock) -> u32 {
    match lock {
        Lock::Iptables => 0,
        Lock::Nftables { .. } => 1,
        Lock::None => 2,
    }
}

/// `dump_criu_run_id`, by which restore finds the table that locks the network.
pub(super) fn run_id(lock: &Lock) -> Option<String> {
    match lock {
        Lock::Nftables { run_id } => Some(run_id.clone()),
        Lock::Iptables | Lock::None => None,
    }
}
