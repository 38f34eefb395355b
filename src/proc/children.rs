//! temp
use super::text::ParseError;
use crate::ids::Pid;
/// temp
pub fn parse_children(text: &[u8]) -> Result<Vec<Pid>, ParseError> { Ok(String::from_utf8_lossy(text).split_whitespace().filter_map(|w| w.parse().ok()).map(Pid).collect()) }
