//! Terminals as images: `tty-info`, `tty-data`.

use super::files::low_half;
use super::proto;
use crate::collect::files::{Settings, Terminal, TerminalKind};
use crate::sys::terminal::Termios;

/// The `tty-info` entry of a terminal.
pub(super) fn tty_info_entry(terminal: &Terminal) -> proto::TtyInfoEntry {
    let settings = terminal.settings.as_ref();
    let (sid, pgrp) = terminal.session;
    proto::TtyInfoEntry {
        id: terminal.id,
        r#type: match terminal.kind {
            TerminalKind::Master | TerminalKind::Slave => proto::TtyType::Pty,
            TerminalKind::Console => proto::TtyType::Console,
            TerminalKind::Virtual => proto::TtyType::Vt,
            TerminalKind::Controlling => proto::TtyType::Ctty,
            TerminalKind::Serial => proto::TtyType::Serial,
            TerminalKind::External => proto::TtyType::ExtTty,
        }
        .into(),
        locked: terminal.is_locked,
        exclusive: terminal.is_exclusive,
        packet_mode: terminal.is_in_packet_mode,
        sid,
        pgrp,
        rdev: low_half(terminal.device.0),
        termios: settings.map(|settings| termios_entry(&settings.termios)),
        termios_locked: settings.map(|settings| termios_entry(&settings.locked)),
        winsize: settings.map(winsize_entry),
        pty: terminal.number.map(|index| proto::TtyPtyEntry { index }),
        dev: Some(low_half(terminal.device.1)),
        uid: Some(terminal.owner.0),
        gid: Some(terminal.owner.1),
    }
}

/// The `tty-data` entry of a terminal in which something waits.
pub(super) fn tty_data_entry(terminal: &Terminal) -> Option<proto::TtyDataEntry> {
    (!terminal.waiting.is_empty()).then(|| proto::TtyDataEntry {
        tty_id: terminal.id,
        data: terminal.waiting.clone(),
    })
}

/// Control characters are 19 words, into the first of which restore copies them byte by byte.
fn termios_entry(termios: &Termios) -> proto::TermiosEntry {
    const WORDS: usize = 19;
    let [c_iflag, c_oflag, c_cflag, c_lflag] = termios.flags();
    let mut bytes = termios.characters().to_vec();
    bytes.resize(4 * WORDS, 0);
    let c_cc = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    proto::TermiosEntry {
        c_iflag,
        c_oflag,
        c_cflag,
        c_lflag,
        c_line: u32::from(termios.line_discipline()),
        c_ispeed: 0,
        c_ospeed: 0,
        c_cc,
    }
}

fn winsize_entry(settings: &Settings) -> proto::WinsizeEntry {
    let [rows, columns, width, height] = settings.size.map(u32::from);
    proto::WinsizeEntry {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: width,
        ws_ypixel: height,
    }
}
