//! Dead letters in a store: ingested by the server, then shown, edited, replayed, purged, restored, exported and imported.

use std::hash::{BuildHasher, Hasher, RandomState};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use leveret_harness::{RawClient, eventually};

use crate::post::{LONG, Post, QUEUE};

fn of(kind: &str, count: usize) -> impl Iterator<Item = String> {
    let kind = kind.to_owned();
    (0..count).map(move |number| format!("{kind} {number}"))
}

async fn the_whole_way(post: Post) {
    let server = post.serve().await;
    post.kill(of("no mailbox", 4).chain(of("the disk is full", 2))).await;
    post.dead_in_store(6).await;
    post.dead_in_broker(0).await;
    let (id, group) = looked_at(&post).await;
    replayed(&post, &id, &group).await;
    purged_and_restored(&post).await;
    let history = post.run(&["dead", "show", &id, "--output", "json"]).await.ends(0).json();
    let done: Vec<_> = history["history"].as_array().unwrap().iter().map(|entry| entry["action"].as_str()).collect();
    assert_eq!(done, [Some("edited"), Some("replaying"), Some("replayed")]);
    server.sigterm();
    assert!(server.wait_exit(LONG).await.success());
}

/// Finds the dead letter with the full disk, and the group of the others.
async fn looked_at(post: &Post) -> (String, String) {
    let groups = post.run(&["dead", "groups", "--output", "json"]).await.ends(0).json();
    assert_eq!((groups[0]["count"].as_u64(), groups[0]["error"].as_str()), (Some(4), Some("no mailbox <n>")));
    let list = post.run(&["dead", "list", "--text", "DISK", "--output", "json"]).await.ends(0).json();
    let id = list["items"][0]["id"].to_string();
    let shown = post.run(&["dead", "show", &id]).await.ends(0).stdout;
    assert!(
        shown.contains("the disk is full") && shown.contains("leveret-hop") && shown.contains("give_up"),
        "{shown}"
    );
    post.run(&["dead", "show", "4711"]).await.ends(5);
    (id, groups[0]["fingerprint"].as_str().unwrap().to_owned())
}

async fn replayed(post: &Post, id: &str, group: &str) {
    // The edited dead letter first: it keeps its id and runs with the new payload.
    let edited = r#"{"label": "repaired", "acts": ["succeed"]}"#;
    let replayed = post.run_with(&["dead", "replay", id, "--payload", "-", "--output", "json"], edited).await.ends(0);
    assert_eq!(replayed.json()["replayed"], 1, "{replayed:?}");
    assert!(replayed.stderr.contains("Not checked"), "scripts announce no schema: {replayed:?}");
    post.log.until("the edited one runs", |runs| runs.iter().any(|run| run.label == "repaired")).await;

    post.run(&["dead", "replay"]).await.ends(2);
    let replayed = post.run(&["dead", "replay", "--group", group]).await.ends(0).stdout;
    assert!(replayed.contains("4 of 4 replayed"), "{replayed}");
    eventually("the group runs", LONG, async || post.done().len() == 5).await;
}

async fn purged_and_restored(post: &Post) {
    let refused = post.run(&["dead", "purge", "--all"]).await.ends(2);
    assert!(refused.stderr.contains("To be purged: 1 dead letters") && refused.stderr.contains("--yes"), "{refused:?}");
    post.run(&["dead", "purge", "99999", "--yes"]).await.ends(5);
    post.run(&["dead", "restore", "99999"]).await.ends(5);
    post.run(&["dead", "replay", "99999"]).await.ends(5);
    post.run(&["dead", "purge", "--all", "--yes"]).await.ends(0);
    post.dead_in_store(0).await;
    post.run(&["dead", "restore", "--all"]).await.ends(0);
    post.run(&["dead", "replay", "--all", "--actor", "bert"]).await.ends(0);
    eventually("the restored one runs", LONG, async || post.done().len() == 6).await;
}

#[tokio::test]
async fn dead_letters_go_the_whole_way_on_sqlite() {
    the_whole_way(Post::sqlite().await).await;
}

#[tokio::test]
async fn dead_letters_go_the_whole_way_on_postgres() {
    the_whole_way(Post::postgres().await).await;
}

#[tokio::test]
async fn a_job_with_names_of_any_length_is_ingested_and_delays_no_other() {
    let post = Post::postgres().await;
    let _server = post.serve().await;
    // Random, because PostgreSQL compresses other text.
    let random = || RandomState::new().build_hasher().finish();
    let long: String = (0..300).map(|_| format!("{:016x}", random())).collect();
    let mut headers = FieldTable::default();
    for name in ["leveret-job", "leveret-queue"] {
        headers.insert(name.into(), AMQPValue::LongString(long.as_str().into()));
    }
    let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
    let properties = || BasicProperties::default().with_headers(headers.clone());
    raw.publish("leveret.v1.jobs", QUEUE, properties(), b"{}").await.unwrap();
    raw.publish("leveret.v1.dead", "nowhere", properties(), b"{}").await.unwrap();
    post.kill(of("no mailbox", 1)).await;
    post.dead_in_store(3).await;
    post.dead_in_broker(0).await;
}

#[tokio::test]
async fn canaries_that_die_again_stop_the_replay() {
    let post = Post::sqlite().await;
    let _server = post.serve().await;
    let broker = post.broker();
    for number in 0..6 {
        let acts = [leveret_tests::jobs::Act::GiveUp(format!("account {number} is closed"))];
        let job = leveret_tests::jobs::script(&format!("j{number}"), acts);
        leveret_tests::jobs::publish(&broker, QUEUE, &job).await.unwrap();
    }
    post.dead_in_store(6).await;
    let replayed = post.run(&["dead", "replay", "--all", "--canary", "2", "--output", "json"]).await.ends(1).json();
    assert_eq!((&replayed["replayed"], &replayed["returned"]), (&2.into(), &4.into()), "{replayed}");
    assert!(replayed["outcome"].as_str().unwrap().contains("failed as before"), "{replayed}");
    post.dead_in_store(6).await;
}

#[tokio::test]
async fn an_export_goes_from_one_database_to_another_byte_for_byte() {
    let (post, other) = (Post::sqlite().await, Post::postgres().await);
    let server = post.serve().await;
    post.kill(of("no mailbox", 3)).await;
    post.dead_in_store(3).await;
    server.sigterm();
    let file = post.path("letters.jsonl");
    post.run(&["dead", "export", "--file", &file]).await.ends(0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "an export is for its user alone");
    other.run(&["dead", "import", &file]).await.ends(0);
    let bytes = |text: String| -> Vec<(String, String)> {
        let read = |line: &str| -> (String, String) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["properties"].to_string(), line["payload"].to_string())
        };
        text.lines().map(read).collect()
    };
    let again = other.run(&["dead", "export"]).await.ends(0).stdout;
    assert_eq!(bytes(again), bytes(std::fs::read_to_string(&file).unwrap()));
    let bad = other.run_with(&["dead", "import", "-"], "{}\n").await.ends(1);
    assert!(bad.stderr.contains("line 1:"), "{bad:?}");
}

#[tokio::test]
async fn the_exit_code_reports_a_change_that_is_impossible() {
    let post = Post::sqlite().await;
    let nowhere = post.path("nowhere.db");
    let missing = post.run(&["dead", "list", "--store", &nowhere]).await.ends(2);
    assert!(missing.stderr.contains("there is no store"), "{missing:?}");
    assert!(!std::path::Path::new(&nowhere).exists());
    post.run_with(&["dead", "import", "-"], "").await.ends(0);
    post.run(&["dead", "replay", "--all", "--amqp-url", "amqp://127.0.0.1:1"]).await.ends(3);
    post.run(&["dead", "replay", "--resume", "17"]).await.ends(5);
    post.run(&["dead", "list", "--direct", "--queue", "nowhere"]).await.ends(5);
    post.run(&["dead", "list", "--since", "yesterday"]).await.ends(2);
}
