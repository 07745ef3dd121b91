use leveret::{
    Broker,
    status_update::{StatusUpdate, Transition},
};
use leveret_harness::{Postgres, eventually, eventually_eq, shared_postgres};
use leveret_store::Store;
use reqwest::Method;
use serde_json::{Value, json};

use crate::site::{SOON, Site, options, sqlite};

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[tokio::test]
async fn while_the_store_is_unreachable_submissions_are_refused_and_no_status_update_is_lost() {
    let postgres = Postgres::start().await;
    let site = Site::start(&Broker::memory(), &postgres.database().await, options()).await;
    let worker = site.work().await;
    let before = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&before, "Processing").await;

    postgres.kill9().await;
    // The job ends while the store is down. Submissions that are accepted before that is noticed must be kept too.
    worker.gate.open.add_permits(1);
    let mut accepted = Vec::new();
    eventually("submissions are refused", SOON, async || {
        let response = site.send(Method::POST, "/api/tasks", Some(&json!({ "name": "meanwhile" }))).await;
        if response.status() == 202 {
            accepted.push(response.json::<Value>().await.unwrap()["task_id"].as_str().unwrap().to_owned());
            return false;
        }
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"2".parse().unwrap()));
        true
    })
    .await;
    assert_eq!(site.get(&format!("/api/tasks/{before}")).await.0, 503);
    assert_eq!(site.get("/readyz").await.0, 503);

    postgres.restart().await;
    eventually_eq("ready again", SOON, 200, async || site.get("/readyz").await.0.as_u16()).await;
    let after = async || site.post("/api/tasks", &json!({})).await.0.as_u16();
    eventually_eq("submissions are accepted again", SOON, 202, after).await;
    site.reaches(&before, "Completed").await;
    assert!(!accepted.is_empty());
    for id in accepted {
        assert_eq!(site.reaches(&id, "Completed").await["name"], "meanwhile");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_written_down_publishes_nothing() {
    let (site, _worker) = Site::with_worker().await;
    site.services.store.close().await;
    let request = site.client.post(format!("{}/api/tasks", site.base)).header("idempotency-key", "k").json(&json!({}));
    assert_eq!(request.send().await.unwrap().status(), 503);
    let metrics = site.broker.metrics_text();
    assert!(!metrics.contains(r#"leveret_jobs_published_total{job="demo.nap""#), "{metrics}");
}

#[tokio::test]
async fn servers_that_share_a_database_share_the_work_and_wake_the_clients_of_both() {
    let url = shared_postgres().await.database().await;
    let broker = Broker::memory();
    let (one, two) = (Site::start(&broker, &url, options()).await, Site::start(&broker, &url, options()).await);
    let worker = one.work().await;
    two.knows_jobs().await;
    for _ in 0..5 {
        let id = one.submit_work("gate").await;
        worker.one_started().await;
        two.reaches(&id, "Processing").await;
        let path = format!("/api/tasks/{id}?wait=20s");
        let open = async { worker.gate.open.add_permits(1) };
        let (at_one, at_two, ()) = tokio::join!(one.get(&path), two.get(&path), open);
        assert_eq!((&at_one.1["status"], &at_two.1["status"]), (&json!("Completed"), &json!("Completed")));
    }
}

#[tokio::test]
async fn after_an_absence_longer_than_status_updates_are_kept_unfinished_tasks_are_stale() {
    let (_folder, url) = sqlite();
    let store = Store::open(&url).await.unwrap();
    let long_ago = now() - 10 * 24 * 3_600_000;
    let started = StatusUpdate {
        id: "order-17".into(),
        job: "demo.work".into(),
        queue: "demo".into(),
        origin: None,
        label: None,
        priority: None,
        attempt: 1,
        hop: 0,
        enqueued_at: None,
        at: leveret::time::at_unix_ms(long_ago),
        worker: None,
        transition: Transition::Started,
    };
    store.record(&[started]).await.unwrap();
    store.heard(long_ago).await.unwrap();
    let site = Site::start(&Broker::memory(), &url, options()).await;
    eventually_eq("it is marked", SOON, json!(true), async || site.task("order-17").await["stale"].clone()).await;
    let heard = async || store.heard_at().await.unwrap().is_some_and(|heard| heard > long_ago);
    eventually("the server records that it listens", SOON, heard).await;
}

#[tokio::test]
async fn tasks_are_deleted_when_their_retention_ends() {
    let (_folder, url) = sqlite();
    let store = Store::open(&url).await.unwrap();
    let ended = |id: &str, at| StatusUpdate {
        id: id.into(),
        job: "demo.work".into(),
        queue: "demo".into(),
        origin: None,
        label: None,
        priority: None,
        attempt: 1,
        hop: 0,
        enqueued_at: None,
        at: leveret::time::at_unix_ms(at),
        worker: None,
        transition: Transition::Succeeded { result: None, too_large: None },
    };
    store.record(&[ended("old", 1_600_000_000_000), ended("new", now())]).await.unwrap();
    let site = Site::start(&Broker::memory(), &url, options()).await;
    eventually_eq("deleted", SOON, 404, async || site.get("/api/tasks/old").await.0.as_u16()).await;
    assert_eq!(site.get("/api/tasks/new").await.0, 200);
}

#[tokio::test]
async fn a_fault_of_the_server_is_a_500_without_secrets_and_loses_nothing() {
    let postgres = shared_postgres().await;
    let url = postgres.database().await;
    let site = Site::start(&Broker::memory(), &url, options()).await;
    let worker = site.work().await;
    let id = site.submit_work("gate").await;
    worker.one_started().await;
    site.reaches(&id, "Processing").await;
    let rename = async |from: &str, to: &str| {
        let sql = format!("SELECT dblink_exec('{url}', 'ALTER TABLE {from} RENAME TO {to}')");
        postgres.psql(&format!("CREATE EXTENSION IF NOT EXISTS dblink; {sql}")).await.unwrap();
    };
    rename("leveret_jobs", "elsewhere").await;
    worker.gate.open.add_permits(1);
    let (status, problem) = site.get(&format!("/api/tasks/{id}")).await;
    assert_eq!((status.as_u16(), &problem["type"]), (500, &json!("urn:leveret:problem:internal")));
    assert!(!problem.to_string().contains("leveret_jobs"), "{problem}");
    rename("elsewhere", "leveret_jobs").await;
    site.reaches(&id, "Completed").await;
}
