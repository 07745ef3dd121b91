//! The installation of RabbitMQ: on this machine, or in a root file system of its own.
//!
//! The second is how several releases live on one machine: `LEVERET_RABBITMQ_ROOT` names a Debian root file system
//! (`scripts/rabbitmq4.sh` makes one), and its programs run with that as their root (`chroot`, which needs root).

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

/// The RabbitMQ that the tests of this process use.
#[derive(Debug)]
pub(super) struct Installation {
    /// None if it is this machine's own.
    root: Option<PathBuf>,
    programs: PathBuf,
}

impl Installation {
    /// The one that the environment names, `LEVERET_RABBITMQ_ROOT` or `LEVERET_RABBITMQ_BIN`, else Debian's package.
    ///
    /// # Panics
    ///
    /// When it is not there, or is in a root file system and this process is not root.
    pub(super) fn find() -> Self {
        let named = |variable| std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
        let root = named("LEVERET_RABBITMQ_ROOT");
        assert!(root.is_none() || geteuid().is_root(), "LEVERET_RABBITMQ_ROOT needs root, for chroot");
        let programs = named("LEVERET_RABBITMQ_BIN").unwrap_or_else(|| PathBuf::from("/usr/lib/rabbitmq/bin"));
        let installation = Self { root, programs };
        let server = installation.outside(&installation.programs.join("rabbitmq-server"));
        assert!(
            server.exists(),
            "no {}: `make setup` installs RabbitMQ; or LEVERET_RABBITMQ_BIN names its folder of programs, or \
             LEVERET_RABBITMQ_ROOT a root file system that has it",
            server.display()
        );
        installation
    }

    /// The parent folder of the nodes' folders.
    pub(super) fn temporary(&self) -> PathBuf {
        let own = || std::env::temp_dir();
        self.root.as_ref().map_or_else(own, |root| root.join("tmp"))
    }

    /// A path as the installation's programs see it.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        let beneath = self.root.as_ref().and_then(|root| path.strip_prefix(root).ok());
        beneath.map_or_else(|| path.to_owned(), |rest| Path::new("/").join(rest))
    }

    /// A path of the installation's as this process sees it.
    fn outside(&self, path: &Path) -> PathBuf {
        let beneath = path.strip_prefix("/").unwrap_or(path);
        self.root.as_ref().map_or_else(|| path.to_owned(), |root| root.join(beneath))
    }

    /// One of RabbitMQ's programs.
    pub(super) fn rabbitmq(&self, program: &str) -> Command {
        self.program(&self.programs.join(program))
    }

    /// A program by its name, or by its path within the installation. Its environment names no other node.
    pub(super) fn program(&self, program: &Path) -> Command {
        let mut command = match &self.root {
            None => Command::new(program),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(program).env_remove("TMPDIR");
                command
            }
        };
        let foreign = |name: &str| name.starts_with("RABBITMQ_") || name.starts_with("ERL_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(foreign) {
                command.env_remove(name);
            }
        }
        command
    }
}
