//! Which settings of cgroups are kept, by controller: criu's choice, and what the user adds.

use std::collections::BTreeMap;

/// Of every cgroup of version 1.
const OF_VERSION_1: &[&str] = &[
    "cgroup.clone_children",
    "notify_on_release",
    "cgroup.procs",
    "tasks",
];
/// Of every cgroup of version 2.
const OF_VERSION_2: &[&str] = &[
    "cgroup.subtree_control",
    "cgroup.max.descendants",
    "cgroup.max.depth",
    "cgroup.freeze",
    "cgroup.type",
];
/// Of single controllers, in the order in which they can be set again.
const BY_CONTROLLER: &[(&str, &[&str])] = &[
    (
        "cpu",
        &[
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.rt_period_us",
            "cpu.rt_runtime_us",
        ],
    ),
    (
        "memory",
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.move_charge_at_immigrate",
            "memory.oom_control",
            "memory.use_hierarchy",
            "memory.kmem.limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
        ],
    ),
    (
        "cpuset",
        &[
            "cpuset.cpus",
            "cpuset.mems",
            "cpuset.memory_migrate",
            "cpuset.cpu_exclusive",
            "cpuset.mem_exclusive",
            "cpuset.mem_hardwall",
            "cpuset.memory_spread_page",
            "cpuset.memory_spread_slab",
            "cpuset.sched_load_balance",
            "cpuset.sched_relax_domain_level",
        ],
    ),
    ("blkio", &["blkio.weight"]),
    ("net_cls", &["net_cls.classid"]),
    ("net_prio", &["net_prio.ifpriomap"]),
    ("pids", &["pids.max"]),
    ("devices", &["devices.list"]),
];

/// The settings that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    by_controller: BTreeMap<String, Vec<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        let owned = |(controller, files): &(&str, &[&str])| {
            let files = files.iter().map(ToString::to_string);
            ((*controller).to_owned(), files.collect())
        };
        Self {
            by_controller: BY_CONTROLLER.iter().map(owned).collect(),
        }
    }
}

impl Settings {
    /// The files to be read in each cgroup of a hierarchy with these controllers.
    #[must_use]
    pub fn of(&self, controllers: &[Vec<u8>]) -> Vec<String> {
        let mut files = Vec::new();
        for controller in controllers {
            let known = std::str::from_utf8(controller)
                .ok()
                .and_then(|name| self.by_controller.get(name));
            files.extend(known.into_iter().flatten().cloned());
        }
        let is_version_2 = controllers.iter().all(Vec::is_empty);
        let general = if is_version_2 {
            OF_VERSION_2
        } else {
            OF_VERSION_1
        };
        files.extend(general.iter().map(ToString::to_string));
        files
    }

    /// Takes in what the user wants, in criu's notation:
    ///
    /// ```text
    /// "cpu":
    ///  - "strategy": "merge"
    ///  - "properties": ["cpu.idle", "cpu.uclamp.min"]
    /// ```
    ///
    /// `merge` adds to the settings of a controller, `replace` takes their place.
    ///
    /// # Errors
    /// What is expected where something else stands.
    pub fn amend(&mut self, text: &str) -> Result<(), String> {
        let mut words = Words { rest: text };
        while let Some(controller) = words.next_quoted()? {
            words.expect(":")?;
            words.expect("-")?;
            words.expect("\"strategy\"")?;
            words.expect(":")?;
            let strategy = words.quoted("a strategy")?;
            words.expect("-")?;
            words.expect("\"properties\"")?;
            words.expect(":")?;
            words.expect("[")?;
            let mut files = Vec::new();
            while !words.skip("]") {
                files.push(words.quoted("the name of a setting")?);
                if !words.skip(",") && !words.rest.trim_start().starts_with(']') {
                    return Err(words.complaint("a comma or ]"));
                }
            }
            let known = self.by_controller.entry(controller).or_default();
            match strategy.as_str() {
                "merge" => known.extend(files),
                "replace" => *known = files,
                _ => return Err(format!("{strategy:?} is no strategy: merge or replace")),
            }
        }
        Ok(())
    }
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn skip(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, word: &'static str) -> Result<(), String> {
        match self.skip(word) {
            true => Ok(()),
            false => Err(self.complaint(word)),
        }
    }

    /// The next quoted word; `None` at the end of the text.
    fn next_quoted(&mut self) -> Result<Option<String>, String> {
        if self.rest.trim().is_empty() {
            return Ok(None);
        }
        self.quoted("the name of a controller").map(Some)
    }

    fn quoted(&mut self, what: &str) -> Result<String, String> {
        let quoted = self.rest.trim_start().strip_prefix('"');
        let Some((word, rest)) = quoted.and_then(|rest| rest.split_once('"')) else {
            return Err(self.complaint(what));
        };
        self.rest = rest;
        Ok(word.to_owned())
    }

    fn complaint(&self, expected: &str) -> String {
        let found: String = self.rest.trim_start().chars().take(20).collect();
        format!("expected {expected}, found {found:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &Settings, controllers: &[&str]) -> Vec<String> {
        let names: Vec<Vec<u8>> = controllers
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        settings.of(&names)
    }

    #[test]
    fn both_versions_and_several_controllers() {
        let settings = Settings::default();
        let both = of(&settings, &["pids", "blkio"]);
        assert_eq!(both[..2], ["pids.max", "blkio.weight"]);
        assert!(both.contains(&"notify_on_release".to_owned()));
        let second = of(&settings, &[""]);
        assert!(second.contains(&"cgroup.freeze".to_owned()) && second.len() == 5);
        assert_eq!(of(&settings, &["name=systemd"]).len(), 4);
    }

    #[test]
    fn settings_are_added_and_replaced() {
        let mut settings = Settings::default();
        let text = "\"pids\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"pids.events\"]\n\
                    \"cpu\":\n - \"strategy\": \"replace\"\n - \"properties\": [ \"a\", \"b\" ]";
        settings.amend(text).unwrap();
        assert_eq!(of(&settings, &["pids"])[..2], ["pids.max", "pids.events"]);
        assert_eq!(
            of(&settings, &["cpu"])[..3],
            ["a", "b", "cgroup.clone_children"]
        );
        let none = "\"cpu\":\n - \"strategy\": \"replace\"\n - \"properties\": []";
        settings.amend(none).unwrap();
        assert_eq!(of(&settings, &["cpu"]).len(), 4);
    }

    #[test]
    fn what_is_no_settings_is_refused() {
        for bad in [
            "cpu",
            "\"cpu\"",
            "\"cpu\": - \"strategy\": \"burn\" - \"properties\": []",
            "\"cpu\": - \"strategy\": \"merge\" - \"properties\": [\"a\" \"b\"]",
            "\"cpu\": - \"strategy\": \"merge\" - \"properties\": [\"a\"",
        ] {
            assert!(Settings::default().amend(bad).is_err(), "{bad}");
        }
    }
}
