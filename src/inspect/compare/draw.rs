//! What differs, as text and as JSON.

use std::fmt::Write as _;

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::{Comparison, Fate, SizeChange, TaskName};
use crate::collect::memory::PAGE_BYTES;
use crate::inspect::columns::{headed, print};

/// Longer values of fields are cut, in the middle of what is the same in both.
const LONGEST: usize = 60;

impl Fate {
    fn mark(self) -> char {
        match self {
            Self::Removed => '-',
            Self::Added => '+',
            Self::Changed => '~',
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Added => "added",
            Self::Changed => "changed",
        }
    }
}

impl Comparison {
    /// What differs, to read.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let [before, after] = self.paths.each_ref().map(|path| path.display());
        let _ = writeln!(text, "--- {before}\n+++ {after}\n");
        self.tasks(&mut text);
        self.entries(&mut text);
        self.pages(&mut text);
        self.sizes(&mut text);
        for (path, notes) in self.paths.iter().zip(&self.notes) {
            for note in notes {
                let _ = writeln!(text, "note: {}: {note}", path.display());
            }
        }
        text
    }

    fn tasks(&self, text: &mut String) {
        let (gone, come) = (self.gone.len(), self.come.len());
        let _ = write!(text, "tasks: {gone} gone, {come} come, ");
        let _ = writeln!(text, "{} in both", self.tasks_in_both);
        if self.by_place {
            let _ = writeln!(
                text,
                "no pid is in both: tasks are compared by their places in the tree"
            );
        }
        for (mark, tasks) in [('-', &self.gone), ('+', &self.come)] {
            for task in tasks {
                let threads = match task.threads {
                    1 => String::new(),
                    count => format!(", {count} threads"),
                };
                let _ = writeln!(
                    text,
                    "{mark} {} {}: {} saved{threads}",
                    task.pid,
                    task.name,
                    BinaryBytes(task.pages.saturating_mul(PAGE_BYTES))
                );
            }
        }
    }

    fn entries(&self, text: &mut String) {
        let count = |fate| self.entries.iter().filter(|one| one.fate == fate).count();
        let (gone, come) = (count(Fate::Removed), count(Fate::Added));
        let changed = count(Fate::Changed);
        let same = self.entries_compared - self.entries.len();
        let _ = writeln!(
            text,
            "\nentries: {gone} removed, {come} added, {changed} changed, {same} the same"
        );
        for one in &self.entries {
            let _ = write!(text, "{} {}: {}", one.fate.mark(), one.image, one.entry);
            if !one.what.is_empty() {
                let _ = write!(text, ": {}", one.what);
            }
            text.push('\n');
            for field in &one.fields {
                let (before, after) = shortened(field.before.as_deref(), field.after.as_deref());
                let _ = writeln!(text, "    {}: {before} -> {after}", field.name);
            }
        }
    }

    fn pages(&self, text: &mut String) {
        let all = self.pages;
        let _ = writeln!(
            text,
            "\npages: {} changed, {} new, {} gone, {} the same",
            all.changed, all.new, all.gone, all.same
        );
        if self.changed_pages.is_empty() {
            return;
        }
        let mut columns = headed(["OF", "ADDRESSES", "CHANGED", "NEW", "GONE", "SAME", "WHAT"]);
        for row in &self.changed_pages {
            let end = match row.end {
                u64::MAX => String::new(),
                end => format!("{end:012x}"),
            };
            let pages = row.pages;
            columns.add_row([
                row.of.clone(),
                format!("{:012x}-{end}", row.start),
                pages.changed.to_string(),
                pages.new.to_string(),
                pages.gone.to_string(),
                pages.same.to_string(),
                row.what.clone(),
            ]);
        }
        print(text, &mut columns, 2..6);
    }

    fn sizes(&self, text: &mut String) {
        let total = |bytes: fn(&SizeChange) -> u64| self.sizes.iter().map(bytes).sum::<u64>();
        let (before, after) = (total(|one| one.before_bytes), total(|one| one.after_bytes));
        let _ = writeln!(
            text,
            "\nsize: {} -> {}, {}",
            BinaryBytes(before),
            BinaryBytes(after),
            difference(before, after)
        );
        let differ = |one: &&SizeChange| one.before_bytes != one.after_bytes;
        let mut columns = headed(["KIND", "BEFORE", "AFTER", "DIFFERENCE"]);
        let mut is_empty = true;
        for one in self.sizes.iter().filter(differ) {
            is_empty = false;
            columns.add_row([
                one.name.clone(),
                one.before_bytes.to_string(),
                one.after_bytes.to_string(),
                difference(one.before_bytes, one.after_bytes),
            ]);
        }
        if !is_empty {
            print(text, &mut columns, 1..4);
        }
    }

    /// What differs, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let task = |task: &TaskName| {
            json!({
                "pid": task.pid, "name": task.name, "threads": task.threads,
                "saved_bytes": task.pages.saturating_mul(PAGE_BYTES),
            })
        };
        let entries = self.entries.iter().map(|one| {
            let fields = one.fields.iter().map(|field| {
                json!({ "field": field.name, "before": field.before, "after": field.after })
            });
            json!({
                "fate": one.fate.name(), "image": one.image, "entry": one.entry,
                "what": one.what, "fields": fields.collect::<Vec<_>>(),
            })
        });
        let pages = |pages: super::PageCount| {
            json!({
                "changed": pages.changed, "new": pages.new, "gone": pages.gone,
                "same": pages.same,
            })
        };
        let mappings = self.changed_pages.iter().map(|row| {
            json!({
                "of": row.of, "start": format!("{:#x}", row.start),
                "end": format!("{:#x}", row.end), "what": row.what, "pages": pages(row.pages),
            })
        });
        let sizes = self.sizes.iter().map(|one| {
            json!({
                "kind": one.name, "before_bytes": one.before_bytes,
                "after_bytes": one.after_bytes,
            })
        });
        json!({
            "before": self.paths[0].to_string_lossy(),
            "after": self.paths[1].to_string_lossy(),
            "same": self.is_same(),
            "tasks": {
                "in_both": self.tasks_in_both,
                "by_place": self.by_place,
                "gone": self.gone.iter().map(task).collect::<Vec<_>>(),
                "come": self.come.iter().map(task).collect::<Vec<_>>(),
            },
            "entries_compared": self.entries_compared,
            "entries": entries.collect::<Vec<_>>(),
            "pages": pages(self.pages),
            "mappings": mappings.collect::<Vec<_>>(),
            "sizes": sizes.collect::<Vec<_>>(),
            "notes": { "before": self.notes[0], "after": self.notes[1] },
        })
    }
}

fn difference(before: u64, after: u64) -> String {
    let bytes = BinaryBytes(before.abs_diff(after));
    match after.cmp(&before) {
        std::cmp::Ordering::Less => format!("-{bytes}"),
        std::cmp::Ordering::Equal => "the same".to_owned(),
        std::cmp::Ordering::Greater => format!("+{bytes}"),
    }
}

/// Two values of a field, cut around the place where they begin to differ.
fn shortened(before: Option<&str>, after: Option<&str>) -> (String, String) {
    let same = match (before, after) {
        (Some(before), Some(after)) => {
            let pairs = before.chars().zip(after.chars());
            pairs.take_while(|(one, other)| one == other).count()
        }
        _ => 0,
    };
    let cut = |text: Option<&str>| {
        let Some(text) = text else {
            return "(none)".to_owned();
        };
        let len = text.chars().count();
        if len <= LONGEST {
            return text.to_owned();
        }
        let skipped = same.saturating_sub(LONGEST / 3).min(len - LONGEST);
        let shown: String = text.chars().skip(skipped).take(LONGEST).collect();
        let front = if skipped > 0 { "..." } else { "" };
        let back = if skipped + LONGEST < len { "..." } else { "" };
        format!("{front}{shown}{back}")
    };
    (cut(before), cut(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_around_their_difference() {
        let zeros = "0".repeat(100);
        let before = format!("{zeros}12345");
        let after = format!("{zeros}1x345");
        let (before, after) = shortened(Some(&before), Some(&after));
        assert!(
            before.starts_with("...0") && before.ends_with("12345"),
            "{before}"
        );
        assert!(after.ends_with("1x345"), "{after}");
        assert_eq!(shortened(None, Some("a")), ("(none)".into(), "a".into()));
    }
}
