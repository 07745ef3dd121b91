//! `leveret outbox` on SQLite, PostgreSQL and RabbitMQ.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail its test")]

use std::{
    process::{Command, Output},
    time::Duration,
};

use leveret::{NewJob, testing};
use leveret_harness::{Process, TestVhost, eventually, shared_node, shared_postgres, unique};
use leveret_sql::Outbox;
use leveret_tests::jobs::{Act, Log, script, worker};
use serde_json::Value;
use sqlx::{PgPool, SqlitePool};

const LONG: Duration = Duration::from_secs(60);

struct Shop {
    database: String,
    vhost: TestVhost,
}

impl Shop {
    async fn new(database: String) -> Self {
        Self { database, vhost: shared_node().await.vhost().await }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LEVERET_")) {
            command.env_remove(name);
        }
        command.env("AMQP_URL", self.vhost.url()).env("DATABASE_URL", &self.database);
        command.env("LEVERET_HTTP_ADDR", "127.0.0.1:0").arg("outbox").args(arguments);
        command
    }

    #[track_caller]
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ends(0, &[arguments, &["--output", "json"]].concat())).unwrap()
    }

    async fn enqueue(&self, queue: &str, label: &str) -> String {
        let payload = serde_json::to_string(&script(label, [Act::Succeed])).unwrap();
        let entry = NewJob::raw("test.script", queue, payload);
        if self.database.starts_with("postgres") {
            let pool = PgPool::connect(&self.database).await.unwrap();
            let mut tx = pool.begin().await.unwrap();
            let id = Outbox::enqueue(&mut tx, entry).await.unwrap();
            tx.commit().await.unwrap();
            return id.to_string();
        }
        let pool = SqlitePool::connect(&self.database).await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let id = Outbox::enqueue(&mut tx, entry).await.unwrap();
        tx.commit().await.unwrap();
        id.to_string()
    }
}

async fn an_outbox_is_created_relayed_shown_retried_and_pruned(shop: Shop) {
    shop.ends(5, &["status"]);
    shop.ends(0, &["migrate"]);
    shop.ends(0, &["migrate"]);
    let (queue, log) = (unique("shop"), Log::default());
    let config = leveret::Config { amqp_url: vec![shop.vhost.url()], ..leveret::Config::default() };
    let broker = leveret::Broker::amqp(config).unwrap();
    let running = testing::start(worker(&queue, |queue| queue, &log), &broker).await.unwrap();

    shop.ends(2, &["relay", "--lease", "30s"]);
    let relay = Process::spawn(&shop.command(&["relay", "--tries", "1", "--keep", "1h"]));
    let id = shop.enqueue(&queue, "good").await;
    log.until("it has run", |runs| runs.len() == 1).await;
    assert_eq!(log.runs()[0].job_id, id);
    let nowhere = shop.enqueue("nowhere", "lost").await;
    eventually("it is set aside", LONG, async || shop.json(&["status"])["set_aside"] == 1).await;
    let status = shop.json(&["status"]);
    assert_eq!((&status["pending"], &status["published"], &status["oldest_at"]), (&0.into(), &1.into(), &Value::Null));
    let aside = &status["jobs_set_aside"][0];
    assert_eq!((aside["id"].as_str(), aside["queue"].as_str()), (Some(nowhere.as_str()), Some("nowhere")));
    assert!(shop.ends(0, &["status"]).contains("no queue \"nowhere\""));
    relay.sigterm();
    assert!(relay.wait_exit(LONG).await.success());

    let number = aside["number"].to_string();
    shop.ends(2, &["retry"]);
    shop.ends(2, &["retry", &number, "--all"]);
    shop.ends(5, &["retry", "4711"]);
    assert_eq!(shop.json(&["retry", &number])["retried"], 1);
    assert_eq!(shop.json(&["status"])["pending"], 1);
    let relay = Process::spawn(&shop.command(&["relay", "--tries", "1"]));
    eventually("it is set aside again", LONG, async || shop.json(&["status"])["set_aside"] == 1).await;
    relay.sigterm();
    relay.wait_exit(LONG).await;
    shop.ends(2, &["prune", "--set-aside", "--all"]);
    assert_eq!(shop.json(&["prune", "--set-aside", "--all", "--yes"])["pruned"], 1);
    assert_eq!(shop.json(&["prune", "--yes"])["pruned"], 0);
    shop.ends(2, &["prune", "--older-than", "0s"]);
    assert_eq!(shop.json(&["prune", "--older-than", "0s", "--yes"])["pruned"], 1);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_outbox_is_created_relayed_shown_retried_and_pruned_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::new(format!("sqlite:{}", folder.path().join("shop.db").display())).await;
    shop.ends(2, &["status"]);
    std::fs::File::create(folder.path().join("shop.db")).unwrap();
    an_outbox_is_created_relayed_shown_retried_and_pruned(shop).await;
}

#[tokio::test]
async fn an_outbox_is_created_relayed_shown_retried_and_pruned_on_postgres() {
    let shop = Shop::new(shared_postgres().await.database().await).await;
    an_outbox_is_created_relayed_shown_retried_and_pruned(shop).await;
}

#[test]
fn an_inbox_is_created_shown_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("shop.db").display().to_string();
    let inbox = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        let output = command.arg("inbox").args(arguments).env("DATABASE_URL", &database).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(inbox(&["status"]).0, Some(2), "there is no such file");
    assert_eq!(inbox(&["migrate"]), (Some(0), "The inbox is up to date.\n".to_owned()));
    assert_eq!(inbox(&["status"]), (Some(0), "0 jobs are recorded\n".to_owned()));
    assert_eq!(inbox(&["prune"]).0, Some(2));
    assert_eq!(inbox(&["prune", "--older-than", "7d", "--yes"]).1, "0 records deleted.\n");
    let empty = folder.path().join("empty.db").display().to_string();
    std::fs::File::create(&empty).unwrap();
    assert_eq!(inbox(&["status", "--database", &empty]).0, Some(5));
}
