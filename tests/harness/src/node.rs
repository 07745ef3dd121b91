//! A private RabbitMQ node: own name, ports, data and logs; loopback only; for root and for an ordinary user.
//!
//! It needs the package `rabbitmq-server` but nothing of its service: the server script is run directly, with a
//! configuration of the node's own and an Erlang port mapper (epmd) that it shares with its cluster at most.

mod distribution;
mod files;
mod installation;
mod options;
mod shell;

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

pub(crate) use self::distribution::Distribution;
pub use self::options::{NodeOptions, NodeTls};
use self::shell::Shell;
use crate::leash::{Folder, Leashed};
use crate::names::free_port;

/// Generous: three nodes starting at once on two busy cores take 20 s.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A RabbitMQ node of one test. Dropped, it is killed and its data removed; the same happens when the process ends.
///
/// In this order of fields the server ends before its port mapper: the other way round it could start a new one.
#[derive(Debug)]
pub struct Node {
    server: Mutex<Option<Leashed>>,
    /// For [`Self::eval`], started on first use.
    shell: Arc<Mutex<Option<Shell>>>,
    name: String,
    ports: Ports,
    folder: Folder,
    distribution: Arc<Distribution>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    amqps: u16,
    http: u16,
    distribution: u16,
}

impl Node {
    /// Starts a node and returns when it is ready.
    ///
    /// # Panics
    ///
    /// When no RabbitMQ is installed or the node does not start; the message holds the end of its log.
    pub async fn start(options: NodeOptions) -> Self {
        let node = Self::new("leveret@localhost".to_owned(), Arc::new(Distribution::new()), &options);
        node.boot().await;
        node
    }

    /// A node that is not yet started.
    pub(crate) fn new(name: String, distribution: Arc<Distribution>, options: &NodeOptions) -> Self {
        let ports = Ports { amqp: free_port(), amqps: free_port(), http: free_port(), distribution: free_port() };
        let folder = Folder::new(&distribution.installation.temporary(), "leveret-node").expect("a temporary folder");
        let inside = distribution.installation.inside(folder.path());
        let conf = files::Conf { options, inside: &inside, http: ports.http, amqps: ports.amqps };
        files::write(folder.path(), &conf, &distribution.cookie).expect("the node's configuration");
        Self { server: Mutex::new(None), shell: Arc::default(), name, ports, folder, distribution }
    }

    /// Its name among Erlang nodes: `leveret@localhost`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of its data and logs on this machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The address of the default vhost for the user `guest`.
    pub fn url(&self) -> String {
        self.url_for("guest", "guest", "/")
    }

    /// The address of `vhost` for `user`.
    pub fn url_for(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{}:{}@127.0.0.1:{}/{}", encode(user), encode(password), self.ports.amqp, encode(vhost))
    }

    /// The address by TLS of the default vhost for `login`, `user:password` or nothing, if [`NodeOptions::tls`] was
    /// given.
    pub fn tls_url(&self, login: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        format!("amqps://{login}{at}localhost:{}/%2f", self.ports.amqps)
    }

    /// Replaces certificate and key. New connections get them.
    ///
    /// # Errors
    ///
    /// As [`Self::ctl`].
    pub async fn exchange_tls(&self, tls: &NodeTls) -> io::Result<()> {
        files::write_tls(self.folder(), tls)?;
        self.eval("ssl:clear_pem_cache().").await.map(drop)
    }

    /// The port of the management or the Prometheus plugin, if one of them is enabled.
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

    /// Lets it continue after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(server) = self.server().as_mut() {
            server.signal(signal).expect("the node is a child of this process");
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

    pub(crate) async fn boot(&self) {
        self.await_port(self.distribution.port, || None).await;
        *self.server() = Some(self.spawn().expect("rabbitmq-server must start"));
        self.await_port(self.ports.amqp, || self.server_status()).await;
        self.eval("rabbit:await_startup().").await.expect("a started node must be ready");
    }

    /// Evaluates an Erlang expression in the node and returns its value as Erlang prints it.
    ///
    /// # Errors
    ///
    /// With the expression and Erlang's error, when it fails or the node is down.
    pub async fn eval(&self, expression: &str) -> io::Result<String> {
        let (shell, command) = (Arc::clone(&self.shell), Shell::command(self));
        let (node, text) = (self.name.clone(), expression.to_owned());
        let answered = tokio::task::spawn_blocking(move || {
            let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
            let mut open = match shell.take() {
                Some(open) => open,
                None => Shell::start(command, &node)?,
            };
            let answer = open.eval(&text)?;
            *shell = Some(open);
            answer.map_err(io::Error::other)
        });
        let failed = |error| io::Error::other(format!("{expression} {error}"));
        answered.await.map_err(io::Error::other)?.map_err(failed)
    }

    fn spawn(&self) -> io::Result<Leashed> {
        let console = std::fs::File::create(self.folder().join(files::CONSOLE))?;
        let mut command = self.command("rabbitmq-server");
        // The script then becomes the server, as under systemd, instead of waiting for it as a parent that can
        // be killed without it.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        Leashed::spawn(&command, console.try_clone()?.into(), console.into())
    }

    /// A program of the broker, with the environment of this node and of no other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.distribution.rabbitmq(program);
        command.envs(files::environment(&self.distribution.installation.inside(self.folder())));
        command
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string());
        command
    }

    /// True if this test started it and has not ended it since.
    pub(crate) fn is_running(&self) -> bool {
        self.server().is_some()
    }

    /// Waits until `port` is open. `ended` returns why it never will be.
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
        let status = self.server().as_mut()?.try_wait();
        match status {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    fn console(&self) -> String {
        let path = self.folder().join(files::CONSOLE);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    async fn end(&self, signal: Signal) {
        let Some(mut server) = self.server().take() else {
            return;
        };
        server.signal(signal).expect("the node is a child of this process");
        let deadline = Instant::now() + STOP_WITHIN;
        while server.try_wait().expect("the node is a child of this process").is_none() {
            assert!(Instant::now() < deadline, "the node did not stop\n{}", self.console());
            sleep(POLL).await;
        }
    }

    fn server(&self) -> MutexGuard<'_, Option<Leashed>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Percent-encodes a part of a URL.
fn encode(part: &str) -> String {
    part.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
