//! Private and shared PostgreSQL servers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leveret_harness::{Postgres, Process, eventually, shared_postgres, unique};

use crate::SOON;

/// Set for this test binary when it is run again as a child, to the file that names the child's server.
const CHILD: &str = "LEVERET_HARNESS_POSTGRES_CHILD";

#[tokio::test]
async fn a_server_keeps_what_was_committed_through_a_kill_and_leaves_nothing_behind() {
    let postgres = Postgres::start().await;
    postgres.psql("CREATE TABLE kept AS SELECT 17 AS number").await.unwrap();

    postgres.kill9().await;
    assert!(postgres.psql("SELECT 1").await.is_err());
    postgres.restart().await;

    assert_eq!(postgres.psql("SELECT number FROM kept").await.unwrap(), "17");
    let folder = postgres.folder().to_owned();
    assert!(running(&folder));
    drop(postgres);
    gone(&folder).await;
}

#[tokio::test]
async fn a_server_is_gone_when_its_test_process_is_killed() {
    let note = std::env::temp_dir().join(unique("leveret-child"));
    let child = Process::spawn(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "postgres::child_with_a_server", "--nocapture"])
            .env(CHILD, &note),
    );
    let folder = async || PathBuf::from(std::fs::read_to_string(&note).unwrap_or_default());
    eventually("the child's server is up", Duration::from_secs(60), async || folder().await.exists()).await;
    let folder = folder().await;
    assert!(running(&folder), "a server in {}", folder.display());

    child.sigkill();

    gone(&folder).await;
    std::fs::remove_file(&note).unwrap();
}

/// Runs in the child alone.
#[tokio::test]
async fn child_with_a_server() {
    let Some(note) = std::env::var_os(CHILD) else {
        return;
    };
    let postgres = Postgres::start().await;
    std::fs::write(note, postgres.folder().as_os_str().as_encoded_bytes()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own_on_the_shared_server() {
    let postgres = shared_postgres().await;
    let (one, other) = (postgres.database().await, postgres.database().await);
    assert_ne!(one, other);
    assert!(one.starts_with("postgres://"), "{one}");
}

async fn gone(folder: &Path) {
    let gone = async || !folder.exists() && !running(folder);
    eventually("server and folder are gone", SOON, gone).await;
}

fn running(folder: &Path) -> bool {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| String::from_utf8_lossy(&command).contains(&format!("{folder}/data")))
}
