//! Child processes and folders that go with this process: on drop, after a panic, and when the test is killed.
//!
//! Each has a shell beside it, the leash, which holds the reading end of a pipe from the test process. When the test
//! process ends, in any way, the kernel closes the pipe and the leash kills the child or removes the folder. A child
//! begins as a shell that waits for a line from the test process, which it gets only when its leash runs. So a test
//! process that is killed at any moment leaves nothing behind. All have a process group of their own, so a Ctrl-C in
//! the terminal reaches the tests alone.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::names::unique;

const GATE: &str = r#"read -r go && exec "$@" </dev/null"#;
const KILL: &str = r#"read -r end; kill -KILL "$1""#;
/// The pause is for the processes that still write there, which their own leashes kill meanwhile.
const REMOVE: &str = r#"read -r end; sleep 0.5; rm -rf -- "$1""#;

/// A child process with its leash.
#[derive(Debug)]
pub(crate) struct Leashed {
    child: Child,
    /// `None` once the child was reaped: its process id may then be another's.
    leash: Option<Leash>,
}

impl Leashed {
    /// Starts the program, arguments, environment and folder of `command` with the given outputs.
    pub(crate) fn spawn(command: &Command, stdout: Stdio, stderr: Stdio) -> io::Result<Self> {
        let mut child = gated(command).stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn()?;
        let leash = Leash::new(KILL, child.id().to_string());
        let gate = child.stdin.take();
        let (Ok(leash), Some(mut gate)) = (leash, gate) else {
            child.wait()?;
            return Err(io::Error::other("no leash could be started"));
        };
        gate.write_all(b"go\n")?;
        Ok(Self { child, leash: Some(leash) })
    }

    pub(crate) fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Signals the child; without effect when it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// The child's status when it has ended.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.leash = None;
        }
        Ok(status)
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("process {} was not ended: {error}", self.child.id());
        }
    }
}

fn gated(command: &Command) -> Command {
    let mut gated = Command::new("sh");
    gated.args(["-c", GATE, "gate"]).arg(command.get_program()).args(command.get_args()).process_group(0);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => gated.env(name, value),
            None => gated.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        gated.current_dir(folder);
    }
    gated
}

/// A folder of this process alone, readable by its user only.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    leash: Option<Leash>,
}

impl Folder {
    pub(crate) fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        let path = parent.join(unique(prefix));
        let leash = Some(Leash::new(REMOVE, &path)?);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, leash })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Ok(()) => self.leash = None,
            Err(error) => eprintln!("{} was not removed: {error}", self.path.display()),
        }
    }
}

/// A shell that runs its script when this process ends; dropped, it ends without running it.
#[derive(Debug)]
pub(crate) struct Leash(Child);

impl Leash {
    pub(crate) fn new(script: &str, target: impl AsRef<OsStr>) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", script, "leash"])
            .arg(target)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            eprintln!("leash {} was not ended: {error}", self.0.id());
        }
    }
}
