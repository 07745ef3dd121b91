//! A private PostgreSQL server: own port, socket and data; loopback only; for root and for an ordinary user.
//!
//! It needs Debian's package `postgresql` but nothing of its service: initdb and the server are run directly. The
//! server refuses to run as root, so for root it runs as the package's user `postgres`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::leash::{Folder, Leashed};
use crate::names::{free_port, unique};

const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Durable, because tests kill it; small, because several run on one machine.
const SETTINGS: [&str; 5] = [
    "listen_addresses=127.0.0.1",
    "shared_buffers=128MB",
    "max_connections=200",
    "log_min_messages=warning",
    "timezone=UTC",
];

/// A PostgreSQL server of one test. Dropped, it is killed and its data removed; the same happens when the process ends.
#[derive(Debug)]
pub struct Postgres {
    server: Mutex<Option<Leashed>>,
    programs: PathBuf,
    port: u16,
    folder: Folder,
}

/// The server that the tests of this process share, started on first use; each takes a [`Postgres::database`].
///
/// # Panics
///
/// As [`Postgres::start`].
pub async fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_init(Postgres::start).await
}

impl Postgres {
    /// Starts a server and returns when it takes connections.
    ///
    /// # Panics
    ///
    /// When no PostgreSQL is installed or the server does not start; the message holds its log.
    pub async fn start() -> Self {
        let programs = programs();
        let folder = Folder::new(&std::env::temp_dir(), "leveret-postgres").expect("a temporary folder");
        let postgres = Self { server: Mutex::default(), programs, port: free_port(), folder };
        if let Some((user, group)) = server_user() {
            chown(postgres.folder.path(), Some(user), Some(group)).expect("root may give a folder away");
        }
        postgres.initialise().expect("initdb must succeed");
        postgres.boot().await;
        postgres
    }

    /// Makes a database that no other test uses, and returns its address.
    ///
    /// # Panics
    ///
    /// When it cannot be created.
    pub async fn database(&self) -> String {
        let name = unique("test").replace('-', "_");
        self.psql(&format!("CREATE DATABASE {name}")).await.expect("a new database");
        self.url(&name)
    }

    /// The address of a database for the superuser.
    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The folder of its data and log on this machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs SQL as the superuser in the database `postgres`, and returns the output of `psql`.
    ///
    /// # Errors
    ///
    /// The error output of `psql`.
    ///
    /// # Panics
    ///
    /// When `psql` cannot be run.
    pub async fn psql(&self, sql: &str) -> Result<String, String> {
        self.psql_at(&self.url("postgres"), sql).await
    }

    /// As [`Self::psql`], in the database at an address.
    pub(crate) async fn psql_at(&self, url: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", sql]).arg(url);
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await;
        let output = output.expect("no panic in psql").expect("psql must run");
        let written = if output.status.success() { &output.stdout } else { &output.stderr };
        let text = String::from_utf8_lossy(written).trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// Ends the server as a crash does; [`Self::restart`] brings it back with all that was committed.
    pub async fn kill9(&self) {
        self.end(Signal::KILL).await;
    }

    /// Ends the server in order, without waiting for its clients.
    pub async fn stop(&self) {
        self.end(Signal::INT).await;
    }

    /// Stops all of the server's processes where they are: connections stay open and get no answer. They go on when
    /// the returned value is dropped.
    ///
    /// # Panics
    ///
    /// When the server does not run.
    pub fn halt(&self) -> Halted {
        let id = self.server().as_ref().map(Leashed::id).expect("a server that runs");
        let mut halted = Halted(Vec::new());
        // The server itself first: after that it starts no further process.
        halted.stop(id);
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
        children.split_whitespace().for_each(|child| halted.stop(child.parse().expect("a process id")));
        halted
    }

    /// Starts the server again with the same port and data; one that still runs is stopped in order before.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub async fn restart(&self) {
        self.stop().await;
        self.boot().await;
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn initialise(&self) -> io::Result<()> {
        let mut command = self.command("initdb");
        command.arg("--pgdata").arg(self.data());
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    async fn boot(&self) {
        self.spawn();
        let deadline = Instant::now() + START_WITHIN;
        while let Err(complaint) = self.psql("SELECT 1").await {
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {complaint}\n{}", self.written());
            if self.has_ended() {
                // The children of one that was killed take a moment to see it, and hold its memory until then.
                assert!(self.written().contains("is still in use"), "PostgreSQL ended:\n{}", self.written());
                self.spawn();
            }
            sleep(POLL).await;
        }
    }

    fn spawn(&self) {
        let log = File::create(self.log()).expect("a log in its own folder");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let server = Leashed::spawn(&command, log.try_clone().expect("a second handle").into(), log.into());
        *self.server() = Some(server.expect("the server must start"));
    }

    fn has_ended(&self) -> bool {
        let status = self.server().as_mut().map(Leashed::try_wait);
        !matches!(status, Some(Ok(None)))
    }

    async fn end(&self, signal: Signal) {
        let Some(mut server) = self.server().take() else {
            return;
        };
        server.signal(signal).expect("the server is a child of this process");
        let deadline = Instant::now() + STOP_WITHIN;
        while server.try_wait().expect("the server is a child of this process").is_none() {
            assert!(Instant::now() < deadline, "PostgreSQL did not stop\n{}", self.written());
            sleep(POLL).await;
        }
    }

    fn command(&self, program: &str) -> Command {
        as_server_user(&self.programs.join(program))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }

    fn written(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn server(&self) -> MutexGuard<'_, Option<Leashed>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Processes that are stopped until this is dropped.
#[derive(Debug)]
#[must_use = "they go on when this is dropped"]
pub struct Halted(Vec<Pid>);

impl Halted {
    fn stop(&mut self, id: u32) {
        let process = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process id");
        // One that has just ended needs no signal.
        if kill_process(process, Signal::STOP).is_ok() {
            self.0.push(process);
        }
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        for process in self.0.iter().rev() {
            // One that has ended needs no signal.
            kill_process(*process, Signal::CONT).unwrap_or(());
        }
    }
}

/// A program, as the user that PostgreSQL and PgBouncer ask for: for root that of the package.
pub(crate) fn as_server_user(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    // That user may not have access to the current folder.
    command.current_dir("/");
    command
}

/// The newest release that is installed: Debian keeps its programs off the search path.
fn programs() -> PathBuf {
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = releases.map(|release| release.path().join("bin")).collect();
    programs.retain(|folder| folder.join("initdb").exists());
    programs.sort_by_key(|folder| release(folder));
    programs.pop().expect("no /usr/lib/postgresql/*/bin/initdb: `make setup` installs PostgreSQL")
}

fn release(programs: &Path) -> Option<u32> {
    programs.parent()?.file_name()?.to_str()?.parse().ok()
}

/// For root, the user and group that the server runs as: those of the package.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    let home = geteuid().is_root().then(|| std::fs::metadata("/var/lib/postgresql"));
    home.map(|home| home.map(|home| (home.uid(), home.gid())).expect("the package makes the user's home"))
}
