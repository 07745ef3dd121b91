//! A private RabbitMQ node: own name, ports, data and logs; loopback only; for root and for an ordinary user.
//!
//! It needs the package `rabbitmq-server` but nothing of its service: the server script is run directly, with a
//! configuration and an Erlang port mapper (epmd) of the node's own.

mod files;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::leash::{Folder, Leashed};
use crate::names::free_port;

/// Generous: three nodes starting at once on two busy cores take 20 s.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// How a node differs from the default one, which has no plugins.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    plugins: Vec<String>,
    config: Vec<String>,
}

impl NodeOptions {
    /// Enables a plugin; those of the management and Prometheus plugins listen on [`Node::http_port`].
    #[must_use]
    pub fn plugin(mut self, name: &str) -> Self {
        self.plugins.push(name.to_owned());
        self
    }

    /// Adds a line to `rabbitmq.conf`, such as `consumer_timeout = 2000`.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.config.push(line.to_owned());
        self
    }
}

/// A RabbitMQ node of one test. Dropped, it is killed and its data removed; the same happens when the process ends.
#[derive(Debug)]
pub struct Node {
    running: Mutex<Option<Running>>,
    ports: Ports,
    folder: Folder,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    http: u16,
    distribution: u16,
    epmd: u16,
}

/// In this order of fields the server ends before its port mapper: the other way round it would start a new one.
#[derive(Debug)]
struct Running {
    server: Leashed,
    _epmd: Leashed,
}

impl Node {
    /// Starts a node and returns when it is ready.
    ///
    /// # Panics
    ///
    /// When no RabbitMQ is installed or the node does not start; the message holds the end of its log.
    pub async fn start(options: NodeOptions) -> Self {
        assert!(
            server_program("rabbitmq-server").exists(),
            "no RabbitMQ in {}: `make setup` installs it, or LEVERET_RABBITMQ_BIN names its folder of programs",
            server_folder().display()
        );
        let ports = Ports { amqp: free_port(), http: free_port(), distribution: free_port(), epmd: free_port() };
        let folder = Folder::new("leveret-node").expect("a temporary folder");
        files::write(folder.path(), &options, ports.http).expect("the node's configuration");
        let node = Self { running: Mutex::new(None), ports, folder };
        node.boot().await;
        node
    }

    /// The address of the default vhost for the user `guest`.
    pub fn url(&self) -> String {
        self.url_for("guest", "guest", "/")
    }

    /// The address of `vhost` for `user`.
    pub fn url_for(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{}:{}@127.0.0.1:{}/{}", encode(user), encode(password), self.ports.amqp, encode(vhost))
    }

    /// Where the management or the Prometheus plugin listens, if one of them is enabled.
    pub fn http_port(&self) -> u16 {
        self.ports.http
    }

    /// Ends the node as a crash does; [`Self::restart`] brings it back, with every queue if [`Self::sync`] was called.
    pub async fn kill9(&self) {
        self.end(Signal::KILL).await;
    }

    /// Shuts the node down in order.
    ///
    /// # Panics
    ///
    /// When it is not down within a minute.
    pub async fn stop(&self) {
        self.end(Signal::TERM).await;
    }

    /// Halts the node until [`Self::thaw`]: alive, but silent.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = self.running().as_mut() {
            running.server.signal(signal).expect("the node is ours");
        }
    }

    /// Starts the node again with the same ports and data; one that still runs is stopped in order before.
    ///
    /// # Panics
    ///
    /// As [`Self::start`] and [`Self::stop`].
    pub async fn restart(&self) {
        self.stop().await;
        self.boot().await;
    }

    async fn boot(&self) {
        let epmd = self.epmd().expect("epmd, which comes with Erlang, must start");
        self.await_port(self.ports.epmd, || None).await;
        let server = self.server().expect("rabbitmq-server must start");
        *self.running() = Some(Running { server, _epmd: epmd });
        self.await_port(self.ports.amqp, || self.server_status()).await;
        self.ctl(&["await_startup"]).await.expect("a started node must be ready");
    }

    fn epmd(&self) -> io::Result<Leashed> {
        let mut command = Command::new("epmd");
        command.args(["-address", "127.0.0.1", "-port"]);
        command.arg(self.ports.epmd.to_string());
        Leashed::spawn(&command, Stdio::null(), Stdio::null())
    }

    fn server(&self) -> io::Result<Leashed> {
        let console = std::fs::File::create(self.folder.path().join(files::CONSOLE))?;
        let mut command = self.command("rabbitmq-server");
        // The script then becomes the server, as under systemd, instead of waiting for it as a parent that can
        // be killed without it.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        Leashed::spawn(&command, console.try_clone()?.into(), console.into())
    }

    /// A program of the broker's, told where this node is and nothing of any other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(server_program(program));
        let foreign = |name: &str| name.starts_with("RABBITMQ_") || name.starts_with("ERL_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(foreign) {
                command.env_remove(name);
            }
        }
        command.envs(files::environment(self.folder.path()));
        command
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string());
        command
    }

    /// Waits until `port` is open. `ended` says why it will never be.
    async fn await_port(&self, port: u16, ended: impl Fn() -> Option<String>) {
        let deadline = Instant::now() + START_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            let reason =
                ended().or_else(|| (Instant::now() > deadline).then(|| format!("not within {START_WITHIN:?}")));
            if let Some(reason) = reason {
                panic!("the node did not start: {reason}\n{}", self.console());
            }
            sleep(POLL).await;
        }
    }

    fn server_status(&self) -> Option<String> {
        let status = self.running().as_mut()?.server.try_wait();
        match status {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    fn console(&self) -> String {
        let path = self.folder.path().join(files::CONSOLE);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    async fn end(&self, signal: Signal) {
        let Some(mut running) = self.running().take() else {
            return;
        };
        running.server.signal(signal).expect("the node is ours");
        let deadline = Instant::now() + STOP_WITHIN;
        while running.server.try_wait().expect("the node is ours").is_none() {
            assert!(Instant::now() < deadline, "the node did not stop\n{}", self.console());
            sleep(POLL).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn server_folder() -> PathBuf {
    std::env::var_os("LEVERET_RABBITMQ_BIN").map_or_else(|| PathBuf::from("/usr/lib/rabbitmq/bin"), PathBuf::from)
}

fn server_program(name: &str) -> PathBuf {
    server_folder().join(Path::new(name))
}

/// Percent-encodes what may not stand in a part of a URL.
fn encode(part: &str) -> String {
    part.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
