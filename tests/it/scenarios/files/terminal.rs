//! Terminals.

use std::process::Command;

use crate::guest::{Guest, TERMINALS, dedump, images, run};
use crate::oracle::{Release, folder};

restored! {
    terminal_with_jobs;
    terminal_with_all_its_settings;
    terminal_that_is_raw;
    terminal_with_data_both_ways;
    terminal_with_lines_typed_ahead;
    terminal_with_flags_of_its_own;
    terminals_one_after_the_other;
    terminal_without_a_slave;
    terminal_that_is_locked;
    terminal_in_packet_mode;
    terminal_that_hung_up;
    terminal_that_controls_a_session;
    terminal_with_a_shell_and_a_pipeline;
}

/// A job of a shell in somebody else's terminal is restored into another one.
#[test]
fn terminal_of_the_shell_that_started_a_job() {
    let _terminals = TERMINALS.lock();
    let Some(criu) = folder(Release::Criu42) else {
        return;
    };
    let in_terminal = |script: &str| {
        let mut command = Command::new("script");
        command.args(["-qefc", script, "/dev/null"]);
        command
    };
    let job = "while [ ! -e go ]; do sleep 0.02; done; echo finished";
    let mut shell = in_terminal(&format!("sh -c '{job}' & echo job $!.; wait"));
    let guest = Guest::start(&mut shell, ".");
    let output = guest.output();
    let number = output.split("job ").nth(1).unwrap().split('.').next();
    let pid: i32 = number.unwrap().parse().unwrap();
    let (_dir, images) = images();

    let output = run(&mut dedump(pid, &images, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--shell-job"));

    let output = run(&mut dedump(pid, &images, &["--shell-job"]));
    assert!(output.status.success());
    // The shell reaps the job and ends.
    guest.wait_until_gone(pid);
    let restore = format!(
        "{}/criu restore --no-default-config --shell-job -v4 -o restore.log -D {}",
        criu.display(),
        images.display()
    );
    let restored = Guest::start(&mut in_terminal(&restore), "");
    std::fs::write(guest.dir.path().join("go"), "").unwrap();
    restored.wait_for("finished");
}
