//! Exchanges, queues, bindings and policies: as the workers declare them, and different.

use lapin::types::{AMQPValue, FieldTable};
use leveret::{Context, JobResult, RawEvent, Subscription, Worker, schedule::tokens, testing::start};
use leveret_harness::{eventually, lapin};
use leveret_tests::fires::{Fires, noting, schedule};

use crate::clinic::{Clinic, assert_says};

const LONG: std::time::Duration = std::time::Duration::from_secs(30);

#[tokio::test]
async fn a_broker_with_running_workers_is_well() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue).await;
    let visit = clinic.thorough_visit(&[]).await;
    visit.problems(&[]);
    assert_eq!(visit.findings("warning"), [], "{visit:#?}");
    let json = visit.json();
    assert_eq!(json["queues"], serde_json::json!(["email"]));
    assert_eq!((&json["broker"]["product"], &json["namespace"]), (&"RabbitMQ".into(), &"leveret.v1".into()));
    assert!(json["broker"]["version"].as_str().unwrap().starts_with(|first: char| first.is_ascii_digit()), "{json}");
    assert_eq!(visit.stderr, "");
    for (check, subject) in [("arguments", "email"), ("bindings", "leveret.v1"), ("consumers", "queue email")] {
        visit.says("ok", check, subject);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn lanes_by_priority_are_parts_of_their_queue() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue.lanes([6, 3, 1])).await;
    for arguments in [&[][..], &["--queue", "email"]] {
        let visit = clinic.thorough_visit(arguments).await;
        visit.problems(&[]);
        assert_eq!(visit.findings("warning"), [], "{visit:#?}");
        assert_eq!(visit.json()["queues"], serde_json::json!(["email"]));
        visit.says("ok", "consumers", "queue email.high");
    }
    running.stop().await.unwrap();
    clinic.raw().await.delete_queue("email.low").await.unwrap();
    let visit = clinic.thorough_visit(&[]).await;
    let said = visit.problems(&[("topology", "queue email")]);
    assert_says(&said[0], &["1 of 5 parts missing: queue email.low"]);
}

#[tokio::test]
async fn schedules_are_found_and_looked_at_too() {
    let clinic = Clinic::open().await;
    let (fires, broker) = (Fires::default(), clinic.broker());
    let worker = noting("email", &fires).schedule(schedule("digest", "@daily", "email"));
    let running = start(worker, &broker).await.unwrap();
    let visit = clinic.thorough_visit(&[]).await;
    visit.problems(&[]);
    assert_says(&visit.says("ok", "consumers", "schedule digest"), &["workers: 1"]);
    running.stop().await.unwrap();
    let said = clinic.thorough_visit(&[]).await.says("warning", "consumers", "schedule digest");
    assert_says(&said, &["no worker has it", "leveret.v1.schedule.digest"]);
    let raw = clinic.raw().await;
    raw.delete_queue("leveret.v1.schedule.digest").await.unwrap();
    let visit = clinic.visit(&["--queue", "email", "--schedule", "digest"]).await;
    assert_says(&visit.problems(&[("topology", "schedule digest")])[0], &["1 of 2 parts missing"]);
    raw.declare_quorum("leveret.v1.schedule.digest", FieldTable::default()).await.unwrap();
    let visit = clinic.thorough_visit(&["--queue", "email", "--schedule", "digest"]).await;
    let differs = ("arguments", "queue leveret.v1.schedule.digest");
    visit.problems(&[differs, differs, differs, ("bindings", "schedule digest")]);
}

#[tokio::test]
async fn a_visit_declares_nothing_and_leaves_no_consumer() {
    let clinic = Clinic::open().await;
    let visit = clinic.thorough_visit(&["--queue", "email"]).await;
    let said = visit.problems(&[("topology", "leveret.v1"), ("topology", "queue email")]);
    assert_says(&said[0], &["96 of 96 parts missing", "LEVERET_TOPOLOGY=declare"]);
    assert_eq!(clinic.raw().await.depth("email").await.unwrap(), None);
    clinic.declare().await;
    for _ in 0..2 {
        let visit = clinic.visit(&["--queue", "email"]).await;
        assert_says(&visit.says("warning", "consumers", "queue email"), &["has no consumer"]);
    }
}

#[tokio::test]
async fn a_missing_queue_is_named() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    clinic.raw().await.delete_queue("email.dead").await.unwrap();
    let visit = clinic.visit(&["--queue", "email"]).await;
    let said = visit.problems(&[("topology", "queue email")]);
    assert_says(&said[0], &["1 of 3 parts missing: queue email.dead"]);
}

/// A queue that the user declared, with the topology of the worker around it.
async fn with_other_arguments() -> Clinic {
    let clinic = Clinic::open().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(5));
    clinic.raw().await.declare_quorum("email", arguments).await.unwrap();
    let adopting = leveret::Queue::existing("email");
    clinic.work(|_| adopting).await.stop().await.unwrap();
    clinic
}

#[tokio::test]
async fn the_first_argument_that_differs_is_seen_without_the_management_api() {
    let clinic = with_other_arguments().await;
    let visit = clinic.visit(&["--queue", "email"]).await;
    let said = visit.problems(&[("arguments", "queue email")]);
    // The broker decides which one it compares first.
    assert_says(&said[0], &["x-", "differs from what the workers declare", "Queue::existing"]);
    clinic.visit(&["--existing", "email"]).await.problems(&[]);
}

#[tokio::test]
async fn every_argument_that_differs_is_seen_with_the_management_api() {
    let clinic = with_other_arguments().await;
    let visit = clinic.thorough_visit(&[]).await;
    let problems = visit.findings("problem");
    let limit = problems.iter().find(|(_, _, said)| said.starts_with("x-delivery-limit")).unwrap();
    assert_says(&limit.2, &["| 100 | 5 |"]);
    // Dead-letter exchange, key and strategy, overflow, leader locator.
    assert_eq!(problems.len(), 6, "{visit:#?}");
    assert!(problems.iter().all(|(check, subject, _)| check == "arguments" && subject == "queue email"), "{visit:#?}");
}

#[tokio::test]
async fn a_single_active_queue_is_known_by_the_flag_or_by_its_arguments() {
    let clinic = Clinic::open().await;
    clinic.work(leveret::Queue::single_active).await.stop().await.unwrap();
    clinic.thorough_visit(&[]).await.problems(&[]);
    clinic.visit(&["--single-active", "email"]).await.problems(&[]);
    let said = clinic.visit(&["--queue", "email"]).await.problems(&[("arguments", "queue email")]);
    assert_says(&said[0], &["x-single-active-consumer", "| none | true |"]);
}

#[tokio::test]
async fn a_missing_binding_and_a_foreign_one_are_named() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let raw = clinic.raw().await;
    let none = FieldTable::default;
    raw.channel().queue_unbind("email".into(), "leveret.v1.due".into(), "#.email".into(), none()).await.unwrap();
    raw.declare_quorum("audit", none()).await.unwrap();
    let options = lapin::options::QueueBindOptions::default();
    raw.channel().queue_bind("audit".into(), "leveret.v1.jobs".into(), "email".into(), options, none()).await.unwrap();
    let visit = clinic.thorough_visit(&[]).await;
    let said = visit.problems(&[("bindings", "queue email")]);
    assert_says(&said[0], &["leveret.v1.due -[#.email]-> queue email"]);
    let said = visit.says("warning", "bindings", "exchange leveret.v1.jobs");
    assert_says(&said, &["leveret.v1.jobs -[email]-> queue audit"]);
}

#[tokio::test]
async fn a_broad_policy_that_drops_jobs_is_reported_once() {
    let clinic = Clinic::open().await;
    // First, because the API's statistics of a queue lag behind.
    clinic.node.set_policy(&clinic.vhost, "broad", ".*", r#"{"overflow": "drop-head"}"#).await.unwrap();
    clinic.declare().await;
    let visit = clinic.thorough_visit(&[]).await;
    let said = visit.problems(&[("policies", "policy broad")]);
    assert_says(
        &said[0],
        &["sets overflow to drop-head on email.suspect, email, leveret.v1.delay.00 and 27 more", "clear_policy"],
    );
}

#[tokio::test]
async fn two_schedules_of_one_name_are_a_problem() {
    let clinic = Clinic::open().await;
    let fires = Fires::default();
    let worker = |queue: &str| noting(queue, &fires).schedule(schedule("cleanup", "@daily", queue));
    let first = start(worker("email"), &clinic.broker()).await.unwrap();
    let led = async || tokens(&clinic.broker()).await.is_ok_and(|tokens| tokens.len() == 1);
    eventually("the first leads", LONG, led).await;
    clinic.thorough_visit(&[]).await.problems(&[]);
    let second = start(worker("other"), &clinic.broker()).await.unwrap();
    let known = async || tokens(&clinic.broker()).await.is_ok_and(|tokens| tokens[0].rival.is_some());
    eventually("the leader knows of the other", LONG, known).await;
    let visit = clinic.thorough_visit(&[]).await;
    let said = visit.problems(&[("consumers", "schedule cleanup")]);
    assert_says(&said[0], &["two schedules have this name", "queue email", "queue other", "Schedule::new"]);
    for running in [first, second] {
        running.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_topic_of_a_subscription_that_is_not_bound_is_named() {
    async fn note(_: RawEvent, _ctx: Context<()>) -> JobResult {
        Ok(())
    }
    let clinic = Clinic::open().await;
    let worker = Worker::new(()).subscribe(Subscription::new("audit").pattern("order.*").pattern("mail.*"), note);
    start(worker, &clinic.broker()).await.unwrap().stop().await.unwrap();
    let visit = clinic.thorough_visit(&[]).await;
    assert!(!visit.findings("warning").iter().any(|(check, ..)| check == "bindings"), "{visit:#?}");
    let (queue, topics) = ("audit".into(), "leveret.v1.topics".into());
    let unbound =
        clinic.raw().await.channel().queue_unbind(queue, topics, "order.*".into(), FieldTable::default()).await;
    unbound.unwrap();
    let said = clinic.thorough_visit(&[]).await.says("warning", "bindings", "queue audit");
    assert_says(&said, &["1 topic of its handlers not bound", "order.*", "none", "LEVERET_TOPOLOGY=declare"]);
}
