//! `leveret schedule`.

use leveret::{
    schedule::tokens,
    testing::{Running, start},
};
use leveret_harness::eventually;
use leveret_tests::fires::{Fires, noting, schedule};

use crate::post::{LONG, Post};

/// Starts a worker with a schedule that fires once a year, and returns once it leads.
pub(crate) async fn yearly(post: &Post, fires: &Fires) -> Running {
    let broker = post.broker();
    let led = tokens(&broker).await.unwrap_or_default().len();
    let worker = noting("closing", fires).schedule(schedule("close-year", "0 6 1 1 *", "closing"));
    let running = start(worker, &broker).await.unwrap();
    let leads = async || tokens(&broker).await.unwrap().len() > led;
    eventually("it leads", LONG, leads).await;
    running
}

#[tokio::test]
async fn schedules_are_listed_with_their_times_and_leader_and_can_be_run_now() {
    let (post, fires) = (Post::sqlite().await, Fires::default());
    let none = post.run(&["schedule", "list", "--output", "json"]).await.ends(0).json();
    assert_eq!(none, serde_json::json!([]));
    post.run(&["schedule", "run", "close-year"]).await.ends(5);

    let running = yearly(&post, &fires).await;
    let listed = post.run(&["schedule", "list", "--output", "json"]).await.ends(0).json();
    let line = &listed[0];
    for (field, wanted) in [
        ("schedule", "close-year"),
        ("expression", "0 6 1 1 *"),
        ("zone", "UTC"),
        ("job", "test.fire"),
        ("queue", "closing"),
    ] {
        assert_eq!(line[field], wanted, "{line}");
    }
    assert!(
        line["next_fire"].as_str().unwrap().ends_with("-01-01T06:00:00Z")
            && line["last_fire"].is_null()
            && line["workers"] == 1,
        "{line}"
    );
    assert!(line["leader"].as_str().unwrap().ends_with(&format!(":{}", std::process::id())), "{line}");
    let table = post.run(&["schedule", "list"]).await.ends(0).stdout;
    assert!(table.contains("-01-01T06:00:00Z"), "{table}");

    let ran = async |id: &str| fires.all().iter().filter(|fired| fired.id == id).count();
    let id = post.run(&["schedule", "run", "close-year"]).await.ends(0).stdout;
    eventually("it runs", LONG, async || ran(id.trim()).await == 1).await;

    running.stop().await.unwrap();
    let said = post.run(&["schedule", "run", "close-year"]).await.ends(0);
    assert!(said.stderr.contains("once one starts"), "{said:?}");
    let listed = post.run(&["schedule", "list", "--output", "json"]).await.ends(0).json();
    assert!(listed[0]["leader"].is_null() && listed[0]["workers"] == 0, "{listed}");
    let worker = noting("closing", &fires).schedule(schedule("close-year", "0 6 1 1 *", "closing"));
    let running = start(worker, &post.broker()).await.unwrap();
    eventually("the request was kept", LONG, async || ran(said.stdout.trim()).await == 1).await;
    running.stop().await.unwrap();
}
