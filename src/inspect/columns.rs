//! Columns of text.

use std::fmt::Write as _;
use std::ops::Range;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// A table without lines, with a name above each column.
pub(super) fn headed<const N: usize>(names: [&str; N]) -> Table {
    let mut columns = Table::new();
    columns.load_style(NOTHING);
    columns.set_header(names);
    columns
}

/// Appends a table; some of its columns are numbers.
pub(super) fn print(text: &mut String, columns: &mut Table, numbers: Range<usize>) {
    for number in numbers {
        if let Some(column) = columns.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in columns.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
