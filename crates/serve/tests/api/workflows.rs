//! Workflows over HTTP and from the broker, run by a server and a worker.

use leveret::{
    Broker, Context, Job, JobError, NewJob, Queue, Worker,
    reader::ERROR_TEXT_LIMIT,
    testing,
    workflow::{IfFailed, START, Workflow},
};
use leveret_harness::{eventually, eventually_eq};
use leveret_serve::workflows::WorkflowStatus;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::site::{SOON, Site};

/// Waits until a workflow has this status, and returns it.
async fn reaches(site: &Site, id: &str, status: &str) -> Value {
    let path = format!("/api/workflows/{id}");
    eventually_eq("the status of the workflow", SOON, json!(status), async || {
        site.get(&path).await.1["status"].clone()
    })
    .await;
    site.get(&path).await.1
}

async fn start(site: &Site, definition: &Value) -> String {
    let (status, answer) = site.post("/api/workflows", definition).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["workflow_id"].as_str().unwrap().to_owned();
    let (status, _) = site.get(&format!("/api/workflows/{id}")).await;
    assert_eq!(status, 200, "a GET finds it at once");
    id
}

fn work(act: &str) -> Value {
    json!({ "job": "demo.work", "payload": { "act": act } })
}

fn after(act: &str, after: &[&str]) -> Value {
    json!({ "job": "demo.work", "payload": { "act": act }, "after": after })
}

fn echo() -> NewJob {
    NewJob::raw("demo.work", "demo", r#"{"act": "echo"}"#)
}

#[tokio::test]
async fn a_chain_a_group_and_a_join_run_in_their_order() {
    let (site, worker) = Site::with_worker().await;
    let each = vec![json!({ "act": "echo" }); 3];
    let definition = json!({ "name": "order", "labels": { "tenant": "a" }, "steps": {
        "a": work("echo"),
        "b": after("echo", &["a"]),
        "c": { "job": "demo.work", "after": ["a"], "each": each },
        "d": after("echo", &["b", "c"]),
    } });
    let id = start(&site, &definition).await;
    let workflow = reaches(&site, &id, "Completed").await;
    assert_eq!(
        workflow["progress"],
        json!(
            { "total": 6, "done": 6, "failed": 0, "running": 0, "waiting": 0, "skipped": 0 }
        )
    );
    let steps = &workflow["steps"];
    let names: Vec<_> = steps.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let time = |step: &str, which: &str| steps[step][which].as_str().unwrap().to_owned();
    for (first, then) in [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")] {
        assert!(time(first, "finished_at") <= time(then, "published_at"), "{first} before {then}: {steps}");
    }
    assert_eq!(steps["c"]["task_ids"], json!([format!("{id}:c:0"), format!("{id}:c:1"), format!("{id}:c:2")]));
    assert_eq!(steps["a"]["result"], json!({ "attempt": 1 }));
    assert_eq!(site.task(&format!("{id}:b")).await["status"], "Completed", "steps are tasks");
    let (_, page) = site.get(&format!("/api/workflows/{id}/steps/c/results?limit=2")).await;
    let next = page["next"].as_str().unwrap();
    let (_, rest) = site.get(&format!("/api/workflows/{id}/steps/c/results?limit=2&after={next}")).await;
    assert_eq!((page["results"].as_array().unwrap().len(), rest["results"][0]["member"].as_u64()), (2, Some(2)));
    assert_eq!(rest["results"][0]["result"], json!({ "attempt": 1 }));
    let (_, list) = site.get("/api/workflows?status=Completed&label=tenant%3Da").await;
    assert_eq!((list["workflows"][0]["id"].as_str(), list["next"].is_null()), (Some(id.as_str()), true));
    assert!(list["workflows"][0]["steps"].is_null());
    let metrics = site.send(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("leveret_workflows_ended_total{status=\"Completed\"} 1"), "{metrics}");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn the_same_start_is_the_same_workflow_and_another_definition_is_a_conflict() {
    let (site, worker) = Site::with_worker().await;
    let definition = |act: &str| json!({ "name": "order", "id": "order 17", "steps": { "a": work(act) } });
    let (status, answer) = site.post("/api/workflows", &definition("echo")).await;
    assert_eq!((status.as_u16(), answer["workflow_id"].as_str()), (202, Some("order 17")));
    assert_eq!(site.post("/api/workflows", &definition("echo")).await.0, 202);
    let (status, problem) = site.post("/api/workflows", &definition("progress")).await;
    assert_eq!((status.as_u16(), problem["type"].as_str()), (409, Some("urn:leveret:problem:workflow-differs")));
    let workflow = reaches(&site, "order%2017", "Completed").await;
    assert_eq!(workflow["conflicts"], 1);
    let request = || {
        let request = site.client.post(format!("{}/api/workflows", site.base)).header("idempotency-key", "k1");
        request.json(&json!({ "name": "order", "steps": { "a": work("echo") } })).send()
    };
    let first: Value = request().await.unwrap().json().await.unwrap();
    assert_eq!(request().await.unwrap().json::<Value>().await.unwrap(), first);
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_definition_with_faults_is_refused_with_their_places() {
    let (site, worker) = Site::with_worker().await;
    let faults = async |steps: Value| {
        let (status, problem) = site.post("/api/workflows", &json!({ "name": "w", "steps": steps })).await;
        assert_eq!(status, 422, "{problem}");
        let errors = problem["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(faults(json!({ "a": { "job": "demo.wrok" } })).await, ["/steps/a/job"]);
    assert_eq!(faults(json!({ "a": work("sing"), "b": after("echo", &["a"]) })).await, ["/steps/a/payload/act"]);
    let each = json!([{ "act": "echo" }, {}]);
    assert_eq!(faults(json!({ "a": { "job": "demo.work", "each": each } })).await, ["/steps/a/each/1"]);
    assert_eq!(faults(json!({ "a": after("echo", &["b"]), "b": after("echo", &["a"]) })).await, ["/steps/a/after"]);
    assert_eq!(faults(json!({ "a": after("echo", &["x"]) })).await, ["/steps/a/after"]);
    assert_eq!(faults(json!({})).await, ["/steps"]);
    let (_, list) = site.get("/api/workflows").await;
    assert_eq!(list["workflows"], json!([]), "nothing has started");
    assert_eq!(site.get("/api/workflows/absent").await.0, 404);
    worker.stop().await;
    site.stop().await;
}

#[derive(Serialize, Deserialize)]
struct Late {}

impl Job for Late {
    const NAME: &'static str = "late.work";
    const QUEUE: &'static str = "late";
}

async fn late(_: Late, _: Context<()>) -> Result<(), JobError> {
    Ok(())
}

async fn late_worker(broker: &Broker) -> testing::Running {
    testing::start(Worker::new(()).queue(Queue::new("late")).handle(late), broker).await.unwrap()
}

#[tokio::test]
async fn a_step_waits_for_a_queue_that_does_not_exist_and_shows_it() {
    let (site, worker) = Site::with_worker().await;
    let definition = json!({ "name": "w", "steps": {
        "a": work("echo"),
        "b": { "job": "late.work", "queue": "late", "payload": {}, "after": ["a"] },
    } });
    let id = start(&site, &definition).await;
    let workflow = reaches(&site, &id, "Waiting").await;
    assert_eq!((&workflow["waiting_for"], &workflow["queue"]), (&json!("queue"), &json!("late")));
    assert_eq!(workflow["steps"]["b"]["waiting_for"], "late");
    let late = late_worker(&site.broker).await;
    let workflow = reaches(&site, &id, "Completed").await;
    assert!(workflow["waiting_for"].is_null() && workflow["steps"]["b"]["waiting_for"].is_null());
    late.stop().await.unwrap();
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_workflow_starts_with_a_broker_alone_and_runs_once_a_server_is_there() {
    let broker = Broker::memory();
    let workflow = Workflow::new("w").id("w-1").step("a", echo()).step("b", echo()).after("a");
    assert_eq!(broker.publisher().start(&workflow).await.unwrap(), "w-1");
    let (_folder, store) = crate::site::sqlite();
    let site = Site::start(&broker, &store, crate::site::options()).await;
    let worker = site.work().await;
    reaches(&site, "w-1", "Completed").await;
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_workflow_that_is_still_in_the_broker_is_waited_for() {
    let (site, worker) = Site::with_worker().await;
    let start = async |id: &str| {
        let workflow = Workflow::new("w").id(id).step("a", echo());
        site.broker.publisher().start(&workflow).await.unwrap()
    };
    let (waited, _) = tokio::join!(site.services.wait_for_workflow("w-1", SOON), start("w-1"));
    assert_eq!(waited.unwrap().status, WorkflowStatus::Completed);
    let (followed, _) = tokio::join!(site.services.follow_workflow("w-2", None), start("w-2"));
    assert_eq!(followed.unwrap().next().await.unwrap().id, "w-2");
    let (status, problem) = site.get("/api/workflows/absent?wait=100ms").await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("once a server has read it from the broker"), "{problem}");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_message_that_is_no_workflow_becomes_a_dead_letter_with_the_reason_and_delays_no_other() {
    let (site, worker) = Site::with_worker().await;
    let queue = "leveret.v1.workflows";
    let long = json!({ "name": "w", "id": "w", "steps": "x".repeat(50_000) }).to_string();
    for (id, payload) in [("p1", "no JSON"), ("p2", r#"{"name": "w", "id": "w", "steps": {}}"#), ("p3", long.as_str())]
    {
        site.broker.publisher().publish_raw(START, queue, payload).id(id).await.unwrap();
    }
    let id = start(&site, &json!({ "name": "w", "steps": { "a": work("echo") } })).await;
    reaches(&site, &id, "Completed").await;
    let letter = site.dead_letter("p2").await;
    assert!(letter["error"].as_str().unwrap().contains("no steps"), "{letter}");
    assert_eq!((&letter["queue"], &letter["kind"]), (&json!(queue), &json!("decode")));
    site.dead_letter("p1").await;
    let error = site.dead_letter("p3").await["error"].as_str().map(str::len);
    assert_eq!(error, Some(ERROR_TEXT_LIMIT), "it repeats the text");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_failed_workflow_compensates_and_a_retry_before_that_lets_it_go_on() {
    let (site, worker) = Site::with_worker().await;
    let definition = json!({ "name": "w", "steps": {
        "a": { "job": "demo.work", "payload": { "act": "echo" }, "compensate": work("echo") },
        "b": after("fail", &["a"]),
        "c": after("echo", &["b"]),
    } });
    let id = start(&site, &definition).await;
    let workflow = reaches(&site, &id, "Failed").await;
    assert_eq!(
        (&workflow["steps"]["a"]["compensation"], &workflow["steps"]["c"]["status"]),
        (&json!("done"), &json!("Cancelled"))
    );
    assert_eq!(workflow["failed"], format!("{id}:b"));
    assert!(workflow["error"].as_str().unwrap().contains("on fire"), "{workflow}");
    let (status, problem) = site.post(&format!("/api/workflows/{id}/retry"), &json!({})).await;
    assert_eq!((status.as_u16(), &problem["workflow_status"]), (409, &json!("Failed")), "{problem}");
    let id =
        start(&site, &json!({ "name": "w", "steps": { "a": work("fail_once"), "b": after("echo", &["a"]) } })).await;
    reaches(&site, &id, "Failed").await;
    assert_eq!(site.post(&format!("/api/workflows/{id}/retry?step=x"), &json!({})).await.0, 404);
    assert_eq!(site.post(&format!("/api/workflows/{id}/retry?step=a"), &json!({})).await.0, 202);
    reaches(&site, &id, "Completed").await;
    let (_, audit) = site.get("/api/audit").await;
    // The purge of the letter of its former life is an entry too.
    let is_retry = |entry: &Value| entry["action"] == "workflow_retry";
    assert!(audit["entries"].as_array().unwrap().iter().any(is_retry), "{audit}");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn the_replay_of_a_steps_dead_letter_lets_the_workflow_go_on() {
    let (site, worker) = Site::with_worker().await;
    let id =
        start(&site, &json!({ "name": "w", "steps": { "a": work("fail_once"), "b": after("echo", &["a"]) } })).await;
    reaches(&site, &id, "Failed").await;
    site.dead_letter(&format!("{id}:a")).await;
    let retried = async || site.post(&format!("/api/tasks/{id}:a/retry"), &json!({})).await.0 == 202;
    eventually("the step's job is retried", SOON, retried).await;
    let workflow = reaches(&site, &id, "Completed").await;
    assert_eq!(workflow["steps"]["b"]["status"], "Completed");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_dead_letter_of_a_workflow_that_is_undone_is_not_replayed() {
    let (site, worker) = Site::with_worker().await;
    let steps = json!({ "a": work("fail_once") });
    let id = start(&site, &json!({ "name": "w", "steps": steps, "on_failure": work("echo") })).await;
    reaches(&site, &id, "Failed").await;
    site.dead_letter(&format!("{id}:a")).await;
    let (status, problem) = site.post(&format!("/api/tasks/{id}:a/retry"), &json!({})).await;
    assert!(!status.is_success() && problem.to_string().contains("is undone or cancelled"), "{status}: {problem}");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_cancelled_step_that_an_earlier_attempt_has_completed_is_compensated() {
    let (site, worker) = Site::with_worker().await;
    let steps = json!({
        "a": { "job": "demo.work", "payload": { "act": "lose_the_commit" }, "compensate": work("echo") },
    });
    let id = start(&site, &json!({ "name": "w", "steps": steps })).await;
    worker.one_started().await;
    assert_eq!(site.post(&format!("/api/workflows/{id}/cancel"), &json!({})).await.0, 202);
    let workflow = reaches(&site, &id, "Cancelled").await;
    assert_eq!(workflow["steps"]["a"]["compensation"], "done", "{workflow}");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_cancelled_workflow_stops_its_running_step_and_starts_no_other() {
    let (site, worker) = Site::with_worker().await;
    let id = start(&site, &json!({ "name": "w", "steps": { "a": work("gate"), "b": after("echo", &["a"]) } })).await;
    worker.one_started().await;
    eventually_eq("the step runs", SOON, json!("Running"), async || {
        site.get(&format!("/api/workflows/{id}")).await.1["steps"]["a"]["status"].clone()
    })
    .await;
    assert_eq!(site.post(&format!("/api/workflows/{id}/cancel"), &json!({})).await.0, 202);
    let workflow = reaches(&site, &id, "Cancelled").await;
    assert_eq!(workflow["steps"]["b"]["status"], "Cancelled");
    eventually_eq("the handler was stopped", SOON, json!("Cancelled"), async || {
        site.get(&format!("/api/tasks/{id}:a")).await.1["status"].clone()
    })
    .await;
    assert_eq!(site.post(&format!("/api/workflows/{id}/pause"), &json!({})).await.0, 409);
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_paused_workflow_starts_nothing_until_it_is_resumed() {
    let (site, worker) = Site::with_worker().await;
    let id = start(&site, &json!({ "name": "w", "steps": { "a": work("gate"), "b": after("echo", &["a"]) } })).await;
    worker.one_started().await;
    assert_eq!(site.post(&format!("/api/workflows/{id}/pause"), &json!({})).await.0, 202);
    worker.gate.open.add_permits(1);
    eventually_eq("the step ends", SOON, json!("Completed"), async || {
        site.get(&format!("/api/workflows/{id}")).await.1["steps"]["a"]["status"].clone()
    })
    .await;
    let workflow = reaches(&site, &id, "Waiting").await;
    assert_eq!((&workflow["waiting_for"], &workflow["steps"]["b"]["status"]), (&json!("pause"), &json!("Waiting")));
    assert_eq!(site.post(&format!("/api/workflows/{id}/resume"), &json!({})).await.0, 202);
    reaches(&site, &id, "Completed").await;
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_step_that_waits_for_an_operator_can_be_skipped() {
    let (site, worker) = Site::with_worker().await;
    let fail = NewJob::raw("demo.work", "demo", r#"{"act": "fail"}"#);
    let workflow = Workflow::new("w").id("w-1").step("a", fail).if_failed(IfFailed::Wait).step("b", echo()).after("a");
    site.broker.publisher().start(&workflow).await.unwrap();
    let shown = reaches(&site, "w-1", "Waiting").await;
    assert_eq!(shown["waiting_for"], "operator");
    assert_eq!(site.post("/api/workflows/w-1/skip", &json!({})).await.0, 202);
    let shown = reaches(&site, "w-1", "Completed").await;
    assert_eq!(shown["steps"]["a"]["status"], "Skipped");
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn a_workflow_fails_at_its_deadline() {
    let (site, worker) = Site::with_worker().await;
    let definition =
        json!({ "name": "w", "deadline": "1s", "steps": { "a": work("gate"), "b": after("echo", &["a"]) } });
    let id = start(&site, &definition).await;
    let workflow = reaches(&site, &id, "Failed").await;
    assert_eq!((&workflow["error_kind"], &workflow["failed"]), (&json!("deadline"), &json!(id)));
    worker.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn followers_receive_each_change_until_the_end() {
    let (site, worker) = Site::with_worker().await;
    let id = start(&site, &json!({ "name": "w", "steps": { "a": work("gate"), "b": after("echo", &["a"]) } })).await;
    worker.one_started().await;
    let response = site.send(Method::GET, &format!("/api/workflows/{id}/events"), None).await;
    assert_eq!(response.status(), 200);
    worker.gate.open.add_permits(1);
    let text = tokio::time::timeout(SOON, response.text()).await.unwrap().unwrap();
    let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!((&last["status"], &last["steps"]["b"]["status"]), (&json!("Completed"), &json!("Completed")));
    let (_, waited) = site.get(&format!("/api/workflows/{id}?wait=10s")).await;
    assert_eq!(waited["status"], "Completed");
    worker.stop().await;
    site.stop().await;
}
