//! Programs in other languages: clients of RabbitMQ, Prometheus' tools, schemathesis.
//!
//! Client libraries are installed once into the target folder and then used without a network.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::task::spawn_blocking;

const PIKA: &str = "pika==1.4.4";
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const AMQPLIB: &str = "amqplib@2.3.1";
/// The folder of Debian's Go libraries, which include amqp091-go.
const GO_LIBRARIES: &str = "/usr/share/gocode";

/// A Python that can `import pika`; the script and its arguments are the caller's to add.
///
/// # Panics
///
/// When it is not there yet and cannot be installed.
pub async fn python() -> Command {
    let folder = installed("python", PIKA, |folder| in_venv(folder, PIKA)).await;
    Command::new(folder.join("bin/python"))
}

/// `schemathesis`, which holds a server to its OpenAPI document; the arguments are the caller's to add.
///
/// # Panics
///
/// When it is not there yet and cannot be installed.
pub async fn schemathesis() -> Command {
    let folder = installed("schemathesis", SCHEMATHESIS, |folder| in_venv(folder, SCHEMATHESIS)).await;
    Command::new(folder.join("bin/schemathesis"))
}

fn in_venv(folder: &Path, package: &str) -> io::Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    run(Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "--quiet", package]))
}

/// A Node.js that can `require("amqplib")`; the script and its arguments are the caller's to add.
///
/// # Panics
///
/// When it is not there yet and cannot be installed.
pub async fn javascript() -> Command {
    let folder = installed("node", AMQPLIB, |folder| {
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        run(Command::new("npm").args(npm).arg(folder).arg(AMQPLIB))
    })
    .await;
    let mut command = Command::new("node");
    command.env("NODE_PATH", folder.join("node_modules"));
    command
}

/// A program in Go that may import `github.com/rabbitmq/amqp091-go`, compiled.
///
/// # Panics
///
/// When it cannot be compiled.
pub async fn golang(source: &'static str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let compile = move |folder: &Path| {
        let file = folder.join("main.go");
        std::fs::write(&file, source)?;
        let mut go = Command::new("go");
        go.env("GO111MODULE", "off").env("GOPATH", GO_LIBRARIES).env("GOCACHE", folder.join("cache"));
        run(go.args(["build", "-o"]).arg(folder.join("program")).arg(file))
    };
    installed("go", &format!("{:x}", hasher.finish()), compile).await.join("program")
}

/// The path of `promtool`, which checks metrics as Prometheus would read them.
///
/// # Panics
///
/// When it is not installed.
pub fn promtool() -> PathBuf {
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join("promtool"))
        .find(|path| path.exists())
        .expect("promtool is not installed: `make setup` installs it")
}

/// The folder `name` with `package` in it, by `install` when it is not there.
async fn installed(
    name: &'static str,
    package: &str,
    install: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> PathBuf {
    let wanted = package.to_owned();
    spawn_blocking(move || install_once(name, &wanted, install))
        .await
        .expect("no panic while installing")
        .unwrap_or_else(|error| panic!("{package} cannot be installed: {error}; see `make setup`"))
}

fn install_once(name: &str, package: &str, install: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let clients = target_folder()?.join("leveret-clients");
    std::fs::create_dir_all(&clients)?;
    // Other test binaries may be at it as well.
    let lock = File::create(clients.join(format!("{name}.lock")))?;
    lock.lock()?;
    let folder = clients.join(name);
    let done = folder.join(format!(".{package}"));
    if !done.exists() {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir(&folder)?;
        install(&folder)?;
        File::create(done)?;
    }
    Ok(folder)
}

/// Cargo writes `.rustc_info.json` into it, also when another program made the folder; a `CACHEDIR.TAG` only when
/// cargo made it. The test binary is in a folder below.
fn target_folder() -> io::Result<PathBuf> {
    let test = std::env::current_exe()?;
    test.ancestors()
        .find(|folder| folder.join(".rustc_info.json").exists())
        .map(Path::to_owned)
        .ok_or_else(|| io::Error::other("no target folder above the test binary"))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", complaint.trim())))
}
