//! Cgroups as an image: `cgroup`.

use super::proto;
use crate::collect::cgroups::{Cgroup, CgroupSet, Cgroups, Hierarchy, Rights, Setting};

/// The entry of `cgroup.img`.
#[must_use]
pub(super) fn cgroup_entry(cgroups: &Cgroups) -> proto::CgroupEntry {
    proto::CgroupEntry {
        sets: cgroups.sets.iter().map(set).collect(),
        controllers: cgroups.hierarchies.iter().map(hierarchy).collect(),
    }
}

fn set(set: &CgroupSet) -> proto::CgSetEntry {
    let places = set.places.iter();
    proto::CgSetEntry {
        id: set.id,
        ctls: places
            .map(|(name, path)| proto::CgMemberEntry {
                name: name.clone(),
                path: path.clone(),
                cgns_prefix: None,
            })
            .collect(),
    }
}

fn hierarchy(hierarchy: &Hierarchy) -> proto::CgControllerEntry {
    proto::CgControllerEntry {
        cnames: hierarchy.controllers.clone(),
        dirs: hierarchy.cgroups.iter().map(cgroup).collect(),
        is_threaded: Some(hierarchy.is_threaded),
    }
}

fn cgroup(one: &Cgroup) -> proto::CgroupDirEntry {
    proto::CgroupDirEntry {
        dir_name: one.name.clone(),
        children: one.below.iter().map(cgroup).collect(),
        properties: one.settings.iter().map(setting).collect(),
        dir_perms: Some(rights(one.rights)),
    }
}

fn setting(setting: &Setting) -> proto::CgroupPropEntry {
    proto::CgroupPropEntry {
        name: setting.file.clone().into_bytes(),
        value: setting.value.clone(),
        perms: Some(rights(setting.rights)),
    }
}

fn rights(rights: Rights) -> proto::CgroupPerms {
    proto::CgroupPerms {
        mode: rights.mode,
        uid: rights.uid,
        gid: rights.gid,
    }
}
