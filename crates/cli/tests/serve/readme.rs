//! The book's claims about the server: its settings, and the rights that it requires.

use std::process::Command;

use leveret::TopologyMode;
use leveret_harness::{Permissions, TestVhost, eventually, shared_node, unique};
use serde_json::{Value, json};

use crate::{
    client::Client,
    stage::{LONG, QUEUE, ServerSetup, work},
};

const SETTINGS: &str = include_str!("../../../../docs/src/settings.md");
const ON_THE_BROKER: &str = include_str!("../../../../docs/src/broker.md");

#[test]
fn every_setting_of_the_server_is_in_a_table_with_its_flag_and_default() {
    let help = Command::new(env!("CARGO_BIN_EXE_leveret")).args(["serve", "--help"]).env_clear().output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let rows: Vec<_> = help.split("\n      --").skip(1).filter_map(row).collect();
    assert!(rows.len() > 10, "{help}");
    for row in &rows {
        assert!(SETTINGS.contains(row), "the page lacks {row}");
    }
    let (_, table) = SETTINGS.split_once("`leveret serve` takes").unwrap();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        assert!(rows.iter().any(|row| line.starts_with(row)), "the server does not take {line}");
    }
}

/// An option that the environment can set, as the table begins its row.
fn row(option: &str) -> Option<String> {
    let value = |name: &str| Some(option.split_once(&format!("[{name}: "))?.1.split_once(']')?.0);
    let (variable, flag) = (value("env")?.trim_end_matches('='), option.split(' ').next()?);
    let default = value("default").map(|default| format!("`{default}` ")).unwrap_or_default();
    Some(format!("| `{variable}` | `--{flag}` | {default}|"))
}

/// The address of one of the users in the book's `rabbitmqctl set_permissions`, for the queue of the worker here.
async fn user(vhost: &TestVhost, role: &str) -> String {
    let line =
        ON_THE_BROKER.lines().find(|line| line.starts_with(&format!("rabbitmqctl set_permissions -p / {role} ")));
    let line = line.unwrap().replace("email", QUEUE);
    let mut quoted = line.split('\'').skip(1).step_by(2);
    let mut next = || quoted.next().unwrap();
    let permissions = Permissions { configure: next(), write: next(), read: next() };
    let name = unique(role);
    vhost.node().add_user(&name, "secret", vhost.name(), permissions).await.unwrap();
    vhost.url_for(&name, "secret")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_readme_are_enough_for_the_server() {
    let vhost = shared_node().await.vhost().await;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("leveret.db").display().to_string();
    let mut place = ServerSetup::new(user(&vhost, "set-up").await, store);
    let (running, _) = work(&place.amqp_url, TopologyMode::Declare).await;
    let server = place.serve().await;
    running.stop().await.unwrap();
    server.sigterm();
    assert!(server.wait_exit(LONG).await.success());

    let (running, _) = work(&user(&vhost, "worker").await, TopologyMode::Verify).await;
    (place.amqp_url, place.topology) = (user(&vhost, "server").await, TopologyMode::Verify);
    let _server = place.serve().await;
    takes_tasks(&place.client()).await;
    running.stop().await.unwrap();
}

/// Uses every right of the server.
pub(crate) async fn takes_tasks(client: &Client) {
    let (now, late) = (submit(client, &json!({})), submit(client, &json!({ "delay": "300ms" })));
    let (bad, never) =
        (submit(client, &json!({ "payload": { "fail": true } })), submit(client, &json!({ "delay": "1h" })));
    assert_eq!(client.delete(&format!("/api/tasks/{never}")).unwrap().0, 202);
    for (id, end) in [(&now, "Completed"), (&late, "Completed"), (&bad, "Failed"), (&never, "Cancelled")] {
        let ended = async || client.get(&format!("/api/tasks/{id}")).unwrap().1["status"] == end;
        eventually(&format!("{id} is {end}"), LONG, ended).await;
    }
    let ingested = async || client.get("/api/dead").unwrap().1["dead_letters"][0]["job_id"] == bad.as_str();
    eventually("the dead letter is ingested", LONG, ingested).await;
    let (status, replay) = client.post("/api/dead/replay", &json!({ "all": true })).unwrap();
    assert_eq!(status, 202, "{replay}");
    let replay = format!("/api/dead/replays/{}", replay["id"]);
    eventually("it is replayed", LONG, async || client.get(&replay).unwrap().1["replayed"] == 1).await;
}

fn submit(client: &Client, task: &Value) -> String {
    let (status, answer) = client.post("/api/tasks", task).unwrap();
    assert_eq!(status, 202, "{answer}");
    answer["task_id"].as_str().unwrap().to_owned()
}
