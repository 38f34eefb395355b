//! The weight of a folder as a table, as JSON, as CSV.

use std::fmt::Write as _;

use comfy_table::ColumnConstraint;
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::Size;
use crate::collect::memory::PAGE_BYTES;
use crate::inspect::columns::{headed, print};
use crate::inspect::tree::numbers;

/// How many characters the longest bar has.
const BAR: u64 = 24;

impl Size {
    /// The weight as tables with bars.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let bytes = self.bytes();
        let files: u64 = self.kinds.iter().map(|kind| kind.files).sum();
        let _ = writeln!(
            text,
            "{}: {} in {files} files\n",
            self.path.display(),
            BinaryBytes(bytes)
        );
        let mut columns = headed(["KIND", "FILES", "ENTRIES", "BYTES", "SHARE", ""]);
        for kind in &self.kinds {
            columns.add_row([
                kind.name.clone(),
                kind.files.to_string(),
                kind.entries.to_string(),
                BinaryBytes(kind.bytes).to_string(),
                share(kind.bytes, bytes),
                bar(kind.bytes, bytes),
            ]);
        }
        print(&mut text, &mut columns, 1..5);

        let mut columns = headed(["TASK", "ALONE", "OWN", "SHARED", "EARLIER", "", "WITH"]);
        let most = self.tasks.iter().map(|task| task.alone_bytes).max();
        for task in &self.tasks {
            columns.add_row([
                format!("{} {}", task.pid, task.name),
                BinaryBytes(task.alone_bytes).to_string(),
                BinaryBytes(task.own_bytes()).to_string(),
                BinaryBytes(task.shared_bytes()).to_string(),
                BinaryBytes(task.earlier_bytes).to_string(),
                bar(task.own_bytes(), most.unwrap_or(0)),
                shortened(numbers(&task.with)),
            ]);
        }
        let has_earlier = self.tasks.iter().any(|task| task.earlier_bytes > 0);
        if !has_earlier && let Some(column) = columns.column_mut(4) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
        text.push('\n');
        print(&mut text, &mut columns, 1..5);
        self.savings(&mut text);
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }

    fn savings(&self, text: &mut String) {
        let out = self.written_out_bytes();
        let _ = writeln!(text);
        let mut columns = headed(["WITH EVERY REFERENCE WRITTEN OUT", "BYTES", "SHARE", ""]);
        columns.add_row([
            "it would be".to_owned(),
            BinaryBytes(out).to_string(),
            String::new(),
            bar(out, out),
        ]);
        for (what, bytes) in self.savings_by_name() {
            columns.add_row([
                what.to_owned(),
                format!("-{}", BinaryBytes(bytes)),
                share(bytes, out),
                bar(bytes, out),
            ]);
        }
        columns.add_row([
            "it is".to_owned(),
            BinaryBytes(self.bytes()).to_string(),
            share(self.bytes(), out),
            bar(self.bytes(), out),
        ]);
        print(text, &mut columns, 1..3);
        let content = self.content;
        let _ = writeln!(
            text,
            "\nof its {} pages, {} are zeros, {} equal one at the same address in another task, {} \
             more equal one elsewhere",
            content.pages, content.zero_pages, content.twin_pages, content.other_equal_pages
        );
        let could = content.could_save_bytes();
        if could > 0 {
            let _ = writeln!(
                text,
                "without zeros, and with those at the same address once: {} less",
                BinaryBytes(could)
            );
        }
    }

    fn savings_by_name(&self) -> [(&'static str, u64); 4] {
        let saved = self.saved;
        [
            ("  objects written once (IDs)", saved.ids_bytes),
            ("  pages of zeros left out", saved.zero_bytes),
            ("  pages that tasks share", saved.pages_bytes),
            ("  pages in earlier dumps", saved.earlier_bytes),
        ]
    }

    /// The weight for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let kinds = self.kinds.iter().map(|kind| {
            json!({
                "kind": kind.name, "files": kind.files, "entries": kind.entries,
                "bytes": kind.bytes,
            })
        });
        let tasks = self.tasks.iter().map(|task| {
            let own: serde_json::Map<_, _> = task
                .own
                .iter()
                .map(|(what, bytes)| ((*what).to_owned(), json!(bytes)))
                .collect();
            json!({
                "pid": task.pid, "name": task.name, "alone_bytes": task.alone_bytes,
                "own_bytes": task.own_bytes(), "shared_bytes": task.shared_bytes(),
                "earlier_bytes": task.earlier_bytes, "own": own, "with": task.with,
            })
        });
        json!({
            "folder": self.path.to_string_lossy(),
            "bytes": self.bytes(),
            "written_out_bytes": self.written_out_bytes(),
            "saved": {
                "ids_bytes": self.saved.ids_bytes,
                "zero_bytes": self.saved.zero_bytes,
                "pages_bytes": self.saved.pages_bytes,
                "earlier_bytes": self.saved.earlier_bytes,
            },
            "content": {
                "pages": self.content.pages,
                "zero_pages": self.content.zero_pages,
                "twin_pages": self.content.twin_pages,
                "other_equal_pages": self.content.other_equal_pages,
                "could_save_bytes": self.content.could_save_bytes(),
            },
            "kinds": kinds.collect::<Vec<_>>(),
            "tasks": tasks.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    /// The weight as rows of CSV; a line with names goes before those of the first folder.
    #[must_use]
    pub fn csv(&self, with_names: bool) -> String {
        let mut text = String::new();
        if with_names {
            text.push_str("folder,section,name,count,bytes\n");
        }
        let folder = quoted(&self.path.to_string_lossy());
        let mut row = |section: &str, name: &str, count: u64, bytes: u64| {
            let _ = writeln!(text, "{folder},{section},{},{count},{bytes}", quoted(name));
        };
        for kind in &self.kinds {
            row("kind", &kind.name, kind.entries, kind.bytes);
        }
        for task in &self.tasks {
            let name = format!("{} {}", task.pid, task.name);
            row("alone", &name, 1, task.alone_bytes);
            row("own", &name, 1, task.own_bytes());
            row("shared", &name, task.with.len() as u64, task.shared_bytes());
            row("earlier", &name, 1, task.earlier_bytes);
        }
        for (what, bytes) in self.savings_by_name() {
            row("saved", what.trim(), 1, bytes);
        }
        let content = self.content;
        for (what, pages) in [
            ("zeros", content.zero_pages),
            ("equal at the same address", content.twin_pages),
            ("equal elsewhere", content.other_equal_pages),
        ] {
            row("pages", what, pages, pages * PAGE_BYTES);
        }
        row("whole", "it is", 1, self.bytes());
        row("whole", "written out", 1, self.written_out_bytes());
        text
    }
}

/// Per mille, without floating point.
fn per_mille(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn share(part: u64, whole: u64) -> String {
    let share = per_mille(part, whole);
    format!("{}.{} %", share / 10, share % 10)
}

/// A bar in eighths of a character.
fn bar(part: u64, whole: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (per_mille(part, whole).min(1000) * BAR * 8).div_ceil(1000);
    let full = usize::try_from(eighths / 8).unwrap_or(0);
    let rest = usize::try_from(eighths % 8).unwrap_or(0);
    format!("{}{}", "█".repeat(full), PARTS[rest])
}

/// What fits beside a table.
fn shortened(text: String) -> String {
    const MOST: usize = 40;
    if text.len() <= MOST {
        return text;
    }
    let end = text[..MOST].rfind(' ').unwrap_or(MOST);
    format!("{} ...", &text[..end])
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_end_in_eighths() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(10, 10), "█".repeat(24));
        assert_eq!(bar(1, 1_000_000), "");
        assert_eq!(bar(1, 100), "▎");
        assert_eq!(bar(5, 0).chars().count(), 24);
        assert_eq!(share(u64::MAX, u64::MAX), "100.0 %");
    }

    #[test]
    fn csv_survives_commas() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
