//! Files that come from outside.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::guest::{Guest, dedump, images, run};
use crate::oracle::{Release, folder};
use crate::scenarios::{check, start};

restored! {
    file_of_another_mount_namespace;
}

refused! {
    file_that_only_another_mount_namespace_has, says ["does not lead to it"];
}

/// A file that is named by `--external` is not looked for by its path: restore is given another.
#[test]
fn file_that_restore_is_given() {
    let (Some(criu), Some(mut guest)) = (folder(Release::Criu42), start("file_of_the_outside"))
    else {
        return;
    };
    let file = guest.dir.path().join("outside");
    let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/3", guest.pid())).unwrap();
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount: u64 = mount.unwrap().trim().parse().unwrap();
    let inode = std::fs::metadata(&file).unwrap().ino();
    let name = format!("file[{mount:x}:{inode:x}]");
    let (_dir, images) = images();
    let output = run(&mut dedump(guest.pid(), &images, &["--external", &name]));
    assert!(output.status.success());
    let pid = guest.pid();
    guest.reap(&[pid]);
    let mode = std::fs::metadata(&file).unwrap().permissions();
    std::fs::remove_file(&file).unwrap();
    let other = guest.dir.path().join("other");
    std::fs::write(&other, "another one").unwrap();
    std::fs::set_permissions(&other, mode).unwrap();
    // The shell opens it for criu.
    let script = format!(
        "exec {}/criu restore --no-default-config --restore-detached -v4 -o restore.log -D {} \
         --inherit-fd 'fd[9]:{name}' 9<{}",
        criu.display(),
        images.display(),
        other.display()
    );
    let output = run(Command::new("sh").args(["-c", &script]));
    let log = std::fs::read_to_string(images.join("restore.log")).unwrap_or_default();
    assert!(output.status.success(), "{log}");
    check(&guest);
}

/// Links that were made for a dump are gone when the tree runs on, and are there when it does not.
#[test]
fn links_for_files_that_have_lost_their_name() {
    let Some(guest) = start("unlinked_with_another_name") else {
        return;
    };
    let links = |guest: &Guest| {
        let entries = std::fs::read_dir(guest.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("link_remap")).count()
    };
    let (_dir, first) = images();
    let arguments = ["--link-remap", "--leave-running"];
    let output = run(&mut dedump(guest.pid(), &first, &arguments));
    assert!(output.status.success());
    assert_eq!(links(&guest), 0);
    let output = run(&mut dedump(guest.pid(), &first, &arguments));
    assert!(!output.status.success(), "there is a dump already");
    assert_eq!(links(&guest), 0);
    let (_dir, second) = images();
    let arguments = ["--link-remap", "--leave-stopped"];
    let output = run(&mut dedump(guest.pid(), &second, &arguments));
    assert!(output.status.success());
    assert_eq!(links(&guest), 1);
}
