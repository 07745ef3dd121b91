//! `leveret publish|jobs|queues`.

use leveret_harness::{Permissions, eventually};
use leveret_tests::jobs::Act;

use crate::post::{LONG, Post, QUEUE};

fn payload(label: &str, acts: &[Act]) -> String {
    serde_json::to_string(&leveret_tests::jobs::script(label, acts.iter().cloned())).unwrap()
}

#[tokio::test]
async fn a_job_is_published_by_hand_and_waited_for() {
    let post = Post::sqlite().await;
    let _server = post.serve().await;
    let well = payload("well", &[Act::Succeed]);
    let said = post
        .run(&["publish", "test.script", "--payload", &well, "--label", "by hand", "--wait", "60s", "--output", "json"])
        .await
        .ends(0)
        .json();
    assert_eq!((said["status"].as_str(), said["name"].as_str()), (Some("Completed"), Some("by hand")), "{said}");
    let bad = payload("bad", &[Act::GiveUp("no".into()), Act::Succeed]);
    let said = post.run_with(&["publish", "test.script", "--payload", "-", "--id", "b1", "--wait"], &bad).await.ends(1);
    assert!(said.stdout.contains("Failed") && said.stdout.contains("permanent: no"), "{said:?}");

    let late = post.run(&["publish", "test.script", "--delay", "1h", "--id", "late", "--wait", "1s"]).await.ends(124);
    assert!(late.stdout.contains("Scheduled"), "{late:?}");
    post.run(&["jobs", "wait", "late", "--timeout", "0s"]).await.ends(124);
    let was = post.run(&["jobs", "cancel", "late", "--output", "json"]).await.ends(0).json();
    assert_eq!(was["was"], "queued");
    let log = post.run(&["audit", "--output", "json"]).await.ends(0).json();
    let entry = &log["items"][0];
    assert_eq!((entry["actor"].as_str(), entry["action"].as_str()), (Some("anna"), Some("cancel")), "{log}");
    assert!(post.run(&["audit"]).await.ends(0).stdout.contains("late"));

    eventually("its dead letter is ingested, and it is retried", LONG, async || {
        post.run(&["jobs", "retry", "b1"]).await.code == 0
    })
    .await;
    let said = post.run(&["jobs", "wait", "b1", "--output", "json"]).await.ends(0).json();
    assert_eq!(said["status"], "Completed");
    post.run(&["jobs", "retry", "b1"]).await.ends(1);
    post.run(&["jobs", "show", "unknown"]).await.ends(5);
    let listed = post.run(&["jobs", "list", "--status", "Completed", "--output", "json"]).await.ends(0).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
}

#[tokio::test]
async fn an_unknown_job_or_queue_is_refused() {
    let post = Post::sqlite().await;
    let said = post.run(&["publish", "test.scrip"]).await.ends(2);
    assert!(said.stderr.contains("did you mean \"test.script\"?"), "{said:?}");
    post.run(&["publish", "test.script", "--queue", "nowhere"]).await.ends(5);
    post.run(&["publish", "test.script", "--priority", "32"]).await.ends(2);
    post.run(&["publish", "test.script", "--amqp-url", "amqp://127.0.0.1:1"]).await.ends(3);
}

#[tokio::test]
async fn a_user_without_the_right_to_read_the_catalogue_publishes_by_naming_the_queue() {
    let post = Post::sqlite().await;
    let rights = Permissions { configure: "", write: "^leveret.v1.(jobs|delay.*)$", read: "^$" };
    post.vhost.node().add_user("writer", "secret", post.vhost.name(), rights).await.unwrap();
    let login = ["--amqp-url", &post.vhost.url_for("writer", "secret"), "--topology", "verify"];
    let payload = payload("well", &[Act::Succeed]);
    let job = [&["publish", "test.script", "--payload", &payload], login.as_slice()].concat();
    let said = post.run(&job).await.ends(2);
    assert!(said.stderr.contains("the right to read it?") && said.stderr.contains("--queue"), "{said:?}");
    let said = post.run(&[&job, ["--queue", QUEUE].as_slice()].concat()).await.ends(0);
    assert!(said.stderr.contains("Not checked: the catalogue"), "{said:?}");
    eventually("it has run", LONG, async || !post.log.runs().is_empty()).await;
}

#[tokio::test]
async fn queues_shows_the_waiting_jobs_of_each_queue() {
    let mut post = Post::sqlite().await;
    post.kill(["no mailbox".to_owned()]).await;
    post.dead_in_broker(1).await;
    post.run(&["publish", "test.script", "--delay", "1h"]).await.ends(0);
    post.stop_worker().await;
    post.run(&["publish", "test.script"]).await.ends(0);
    let said = post.run(&["queues", "--output", "json"]).await.ends(0).json();
    let queue = &said["queues"][0];
    assert_eq!(
        (&queue["queue"], &queue["ready"], &queue["consumers"], &queue["dead"]),
        (&QUEUE.into(), &1.into(), &0.into(), &1.into()),
        "{said}"
    );
    assert_eq!((&said["delayed"], &said["unrouted"]), (&1.into(), &0.into()), "{said}");
    let table = post.run(&["queues", "--queue", "nowhere"]).await.ends(5).stdout;
    assert!(table.contains("nowhere") && table.contains("1 delayed"), "{table}");
}
