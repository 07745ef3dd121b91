//! Administration of a node through `rabbitmqctl`. One call takes a second of CPU time, [`Node::eval`] next to nothing.

use std::io;

use tokio::task::spawn_blocking;

use crate::node::Node;

/// The permissions of a user, as RabbitMQ's three regular expressions.
#[derive(Debug, Clone, Copy)]
pub struct Permissions<'a> {
    /// Names the user may declare and delete.
    pub configure: &'a str,
    /// Names the user may publish and bind to.
    pub write: &'a str,
    /// Names the user may consume and bind from.
    pub read: &'a str,
}

impl Permissions<'static> {
    /// Everything.
    pub const ALL: Self = Self { configure: ".*", write: ".*", read: ".*" };
}

impl Node {
    /// Runs `rabbitmqctl` with these arguments and returns what it printed.
    ///
    /// # Errors
    ///
    /// With the arguments and what it wrote to standard error, when it fails.
    pub async fn ctl(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = self.command("rabbitmqctl");
        command.arg("--quiet").args(arguments);
        let output = spawn_blocking(move || command.output()).await.map_err(io::Error::other)??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("rabbitmqctl {}: {}", arguments.join(" "), complaint.trim())))
    }

    /// The broker's version, `(4, 3)`: for what differs between releases.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn version(&self) -> io::Result<(u32, u32)> {
        let version = self.eval("rabbit_misc:version().").await?;
        let mut numbers = version.trim_matches('"').split('.').map_while(|number| number.parse().ok());
        numbers.next().zip(numbers.next()).ok_or_else(|| io::Error::other(format!("not a version: {version:?}")))
    }

    /// Makes the node persist its list of quorum queues now. It does so by itself within a second.
    ///
    /// A node killed before that comes back with an empty queue that never gets a leader: confirmed messages in it
    /// are lost (seen on 3.10.8). So a test that declares a queue calls this before [`Self::kill9`], unless it is
    /// this loss that it is about.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn sync(&self) -> io::Result<()> {
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()].").await.map(drop)
    }

    /// Creates a vhost in which `guest` may do everything.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn add_vhost(&self, vhost: &str) -> io::Result<()> {
        self.ctl(&["add_vhost", vhost]).await?;
        self.permit("guest", vhost, Permissions::ALL).await
    }

    /// Creates a user with these permissions in `vhost`.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn add_user(
        &self,
        name: &str,
        password: &str,
        vhost: &str,
        permissions: Permissions<'_>,
    ) -> io::Result<()> {
        self.ctl(&["add_user", name, password]).await?;
        self.permit(name, vhost, permissions).await
    }

    async fn permit(&self, user: &str, vhost: &str, permissions: Permissions<'_>) -> io::Result<()> {
        let Permissions { configure, write, read } = permissions;
        self.ctl(&["set_permissions", "--vhost", vhost, user, configure, write, read]).await.map(drop)
    }

    /// Sets an operator's policy on the queues whose names match `pattern`: `{"max-length": 1}`.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn set_policy(&self, vhost: &str, name: &str, pattern: &str, definition: &str) -> io::Result<()> {
        self.ctl(&["set_policy", "--vhost", vhost, "--apply-to", "queues", name, pattern, definition]).await.map(drop)
    }
}
