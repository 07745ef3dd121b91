//! The contents of the queues, and the output of the findings.

use lapin::BasicProperties;
use leveret_harness::{eventually_eq, lapin, unique};
use leveret_tests::jobs::{Act, Log, publish, script, worker};

use crate::clinic::{Clinic, assert_says};

const LONG: std::time::Duration = std::time::Duration::from_secs(30);

#[tokio::test]
async fn jobs_that_wait_for_a_consumer_that_is_not_there_are_a_problem() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    publish(&clinic.broker(), "email", &script("waiting", [Act::Succeed])).await.unwrap();
    let visit = clinic.visit(&["--queue", "email"]).await;
    let said = visit.problems(&[("consumers", "queue email")]);
    assert_says(&said[0], &["has no consumer; jobs waiting: 1", "start a worker"]);
    let job = clinic.raw().await.take("email").await.unwrap().unwrap();
    assert!(!job.delivery.redelivered, "the doctor does not touch jobs");
}

#[tokio::test]
async fn dead_letters_are_counted_by_kind_and_stay_in_their_queue() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue).await;
    let (broker, raw) = (clinic.broker(), clinic.raw().await);
    for _ in 0..2 {
        publish(&broker, "email", &script("refused", [Act::GiveUp("no such account".into())])).await.unwrap();
    }
    let properties = BasicProperties::default().with_type("test.script".into());
    raw.publish("leveret.v1.jobs", "email", properties, b"not JSON").await.unwrap();
    let depth = async || raw.depth("email.dead").await.unwrap();
    eventually_eq("three dead letters", LONG, Some(3), depth).await;
    let visit = clinic.visit(&["--queue", "email"]).await;
    visit.problems(&[]);
    let said = visit.says("warning", "dead-letters", "queue email");
    assert_says(&said, &["dead letters: 3, all read: permanent 2, decode 1", "leveret-error"]);
    eventually_eq("they are requeued", LONG, Some(3), depth).await;
    let said = clinic.visit(&["--queue", "email", "--sample", "1"]).await;
    assert_says(&said.says("warning", "dead-letters", "queue email"), &["dead letters: 3; of the oldest 1: "]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_without_a_queue_is_a_problem() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let raw = clinic.raw().await;
    raw.publish("leveret.v1.dead", &unique("gone"), BasicProperties::default(), b"{}").await.unwrap();
    let visit = clinic.visit(&["--queue", "email"]).await;
    let said = visit.problems(&[("unrouted", "queue leveret.v1.unrouted")]);
    assert_says(&said[0], &["dead letters: 1"]);
}

#[tokio::test]
async fn a_delay_ladder_that_is_stuck_is_a_problem() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let raw = clinic.raw().await;
    // Jobs for a deleted queue, without the queue for unrouted messages.
    raw.delete_queue("leveret.v1.unrouted").await.unwrap();
    for _ in 0..300 {
        raw.publish("leveret.v1.delay.00.in", "due.gone", BasicProperties::default(), b"{}").await.unwrap();
    }
    let found = async || {
        let visit = clinic.thorough_visit(&["--queue", "email"]).await;
        let ladder = visit.findings("problem").into_iter().find(|(check, _, _)| check == "ladder");
        ladder.map(|(_, subject, said)| (subject, said.contains("| at most 32 on the way | 300 |")))
    };
    let wanted = Some(("queue leveret.v1.delay.00".to_owned(), true));
    eventually_eq("the level is found stuck", LONG, wanted, found).await;
}

#[tokio::test]
async fn the_table_shows_the_same_for_people() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    clinic.raw().await.delete_queue("email.suspect").await.unwrap();
    let visit = clinic.visit(&["--queue", "email", "--output", "table"]).await;
    assert_eq!((visit.code, visit.stderr.as_str()), (1, ""), "{visit:#?}");
    assert_says(
        &visit.stdout,
        &[
            "ok       version      RabbitMQ ",
            "problem  topology     queue email: 1 of 3 parts missing: queue email.suspect\n",
            "                      -> start a worker once",
            "\n1 problem, 1 warning, 1 note, ",
        ],
    );
}

#[tokio::test]
async fn times_that_contradict_each_other_are_a_problem() {
    let clinic = Clinic::open().await;
    clinic.declare().await;
    let visit = clinic.visit(&["--queue", "email", "--handler-timeout", "1h", "--heartbeat", "60s"]).await;
    let said = visit.problems(&[("times", "settings")]);
    assert_says(&said[0], &["--handler-timeout", "LEVERET_CONSUMER_TIMEOUT"]);
    visit.says("warning", "times", "LEVERET_HEARTBEAT");
}

#[tokio::test]
async fn two_workers_that_announce_one_job_in_different_forms_are_reported() {
    let clinic = Clinic::open().await;
    let running = clinic.work(|queue| queue).await;
    let other = worker("email-2", |queue| queue.timeout(std::time::Duration::from_secs(7)), &Log::default());
    let other = leveret::testing::start(other, &clinic.broker()).await.unwrap();
    // The second announces itself while it works.
    let found = async || {
        let visit = clinic.visit(&["--queue", "email"]).await;
        visit.findings("warning").into_iter().map(|(check, subject, _)| (check, subject)).collect::<Vec<_>>()
    };
    eventually_eq("it is found", LONG, vec![("catalogue".to_owned(), "job test.script".to_owned())], found).await;
    let said = clinic.visit(&["--queue", "email"]).await.says("warning", "catalogue", "job test.script");
    assert_says(&said, &["queues email, email-2", "rename"]);
    other.stop().await.unwrap();
    running.stop().await.unwrap();
}
