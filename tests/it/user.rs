//! The ordinary user that `tests/run` makes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::guest::run;

/// Its name, which is also that of its group.
pub(crate) const NAME: &str = "dedump-test";

/// The command as that user, with no capabilities but these.
pub(crate) fn as_user(command: &Command, capabilities: &[&str]) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--reuid", NAME, "--regid", NAME, "--init-groups"]);
    if !capabilities.is_empty() {
        let set: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
        let set = set.join(",");
        wrapped.args(["--inh-caps", &set, "--ambient-caps", &set]);
    }
    wrapped
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(key, value);
        }
    }
    wrapped
}

/// dedump in the hands of the user: a copy that they can reach, and a folder for images.
pub(crate) struct UsersDedump {
    dir: TempDir,
    capabilities: &'static [&'static str],
}

impl UsersDedump {
    pub(crate) fn with(capabilities: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let everybodys = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), everybodys.clone()).unwrap();
        let program = dir.path().join("dedump");
        std::fs::copy(env!("CARGO_BIN_EXE_dedump"), &program).unwrap();
        std::fs::set_permissions(&program, everybodys).unwrap();
        Self { dir, capabilities }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub(crate) fn dump(&self, pid: i32, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.dir.path().join("dedump"));
        command
            .args(["dump", "-t", &pid.to_string(), "-D"])
            .arg(self.images())
            .args(arguments);
        run(as_user(&command, self.capabilities).current_dir("/"))
    }
}

/// A program of `tests/guests` where the user can reach it.
pub(crate) fn reachable(guest: &str, dir: &Path) -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guests");
    let copy = dir.join(guest);
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::copy(built.join(guest), &copy).unwrap();
    copy
}
