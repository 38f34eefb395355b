//! `/proc/PID/task/TID/children`: the processes a thread is the parent of.

use super::text::{Line, ParseError};
use crate::ids::Pid;

/// Parses the content of a `children` file.
///
/// The list is complete only while the children and the thread are stopped, and lacks children
/// that other threads of the process made.
///
/// # Errors
/// Anything but pids.
///
/// # Sources
/// proc_tid_children(5), since Linux 3.5 with `CONFIG_PROC_CHILDREN`.
pub fn parse_children(text: &[u8]) -> Result<Vec<Pid>, ParseError> {
    let mut line = Line::of_file(text);
    let mut children = Vec::new();
    while !line.is_empty() {
        children.push(Pid(line.signed("a pid")?));
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_one_and_many() {
        assert_eq!(parse_children(b""), Ok(vec![]));
        assert_eq!(parse_children(b"12 "), Ok(vec![Pid(12)]));
        let many = [Pid(3), Pid(4_194_304), Pid(1)];
        assert_eq!(parse_children(b"3 4194304 1 "), Ok(many.to_vec()));
        assert!(parse_children(b"3 x ").is_err());
        assert!(parse_children(b"99999999999 ").is_err());
    }
}
