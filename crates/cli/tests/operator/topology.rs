//! `leveret topology export`.

use std::{collections::BTreeSet, path::Path, process::Command};

use leveret::{
    Broker, Config, Queue, Worker,
    catalogue::Catalogue,
    testing::{Running, start},
};
use leveret_harness::{RawClient, eventually, shared_node};
use leveret_tests::fires::{Fires, noting, schedule};
use serde_json::Value;

use crate::post::{LONG, Said, say};

/// The program against a broker.
pub(crate) async fn export(url: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.env("AMQP_URL", url).args(["topology", "export"]).args(arguments);
    say(command, Vec::new()).await
}

/// A broker handle that declares what is missing.
pub(crate) fn owner(url: &str) -> Broker {
    Broker::amqp(Config { amqp_url: vec![url.to_owned()], ..Config::default() }).unwrap()
}

/// Starts a worker, and returns once the catalogue contains its job.
async fn started<S: Send + Sync + 'static>(worker: Worker<S>, broker: &Broker, job: &str) -> Running {
    let running = start(worker, broker).await.unwrap();
    Catalogue::follow(broker).wait_for(job).await;
    running
}

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)).unwrap()
}

#[tokio::test]
async fn what_deploy_declares_is_what_the_workers_declare() {
    let vhost = shared_node().await.vhost().await;
    let broker = owner(&vhost.url());
    let folder = tempfile::tempdir().unwrap();
    let mail = leveret_email::MailSettings {
        smtp_url: None,
        smtp_ca_file: None,
        smtp_timeout: 30,
        mail_dir: Some(folder.path().to_owned()),
        mail_attachment_dir: None,
        mail_attachment_limit: 2_000_000,
        mail_from: "Leveret <leveret@localhost>".to_owned(),
    };
    let email = leveret_email::worker(leveret_email::Mail::new(&mail).unwrap());
    let place = folder.path().to_owned();
    let reports = leveret_reports::Reports {
        data_dir: place.clone(),
        output_dir: place,
        max_groups: 10,
        yield_every: std::time::Duration::from_secs(30),
    };
    let email = started(email, &broker, "email.send").await;
    let reports = started(leveret_reports::worker(reports, 2), &broker, "report.generate").await;
    let shop =
        leveret_orders::Shop::open(&format!("sqlite:{}", folder.path().join("orders.db").display())).await.unwrap();
    let relay = shop.relay(&broker);
    let orders = started(leveret_orders::worker(shop, relay.waker()), &broker, "order.place").await;
    // Both copies of the event are announced under its topic.
    let catalogue = Catalogue::follow(&broker);
    let subscriptions = async || catalogue.entries().iter().filter(|entry| entry.event).count();
    eventually("both subscriptions are announced", LONG, async || subscriptions().await == 2).await;
    for (path, arguments) in [
        ("rabbitmq/definitions.json", &["--users"][..]),
        ("kubernetes/overlays/operator/topology.yaml", &["--users", "--format", "k8s"]),
        // A worker scales on its jobs: its subscriptions are no deployments of their own.
        (
            "kubernetes/overlays/keda/scaling.yaml",
            &["--format", "keda", "--queue", "email", "--queue", "orders", "--queue", "reports"],
        ),
    ] {
        let arguments = [&["--vhost", "/", "--status"], arguments].concat();
        let exported = export(&vhost.url(), &arguments).await.ends(0).stdout;
        assert!(
            exported == file(path),
            "deploy/{path} is not what `leveret topology export {}` writes",
            arguments.join(" ")
        );
    }
    email.stop().await.unwrap();
    orders.stop().await.unwrap();
    reports.stop().await.unwrap();
}

#[tokio::test]
async fn the_export_equals_the_definitions_of_the_broker() {
    let vhost = shared_node().await.vhost().await;
    let (broker, fires) = (owner(&vhost.url()), Fires::default());
    let lanes = noting("fires", &fires).queue(Queue::new("fires").lanes([3, 2, 1]).single_active());
    let lanes = lanes.schedule(schedule("close-year", "0 6 1 1 *", "fires"));
    let running = started(lanes, &broker, "test.fire").await;
    let adopting = noting("of.others", &fires).queue(Queue::existing("of.others"));
    let raw = RawClient::connect(&vhost.url()).await.unwrap();
    raw.declare_quorum("of.others", lapin::types::FieldTable::default()).await.unwrap();
    let adopting = start(adopting, &broker).await.unwrap();
    let catalogue = Catalogue::follow(&broker);
    let announced = async || catalogue.entries().iter().any(|entry| entry.existing);
    eventually("the adopted queue is announced", LONG, announced).await;

    let name = vhost.name().to_owned();
    let exported = export(&vhost.url(), &[]).await.ends(0).json();
    let seen = vhost.node().ctl(&["export_definitions", "-", "--format", "json"]).await.unwrap();
    let seen: Value = serde_json::from_str(seen.trim()).unwrap();
    for kind in ["exchanges", "queues", "bindings"] {
        let of_us = |entry: &&Value| entry["vhost"] == name.as_str() && entry["name"] != "of.others";
        let had: BTreeSet<_> = seen[kind].as_array().unwrap().iter().filter(of_us).map(plain).collect();
        let wanted: BTreeSet<_> = exported[kind].as_array().unwrap().iter().map(plain).collect();
        assert_eq!(wanted.symmetric_difference(&had).next(), None, "one of the {kind} is only on one side");
        assert!(!had.is_empty(), "{kind}");
    }
    running.stop().await.unwrap();
    adopting.stop().await.unwrap();
}

/// An entry without the type of the queue, which its arguments contain too.
fn plain(entry: &Value) -> String {
    let mut entry = entry.clone();
    if entry["type"] == "quorum" || entry["type"] == "stream" {
        entry.as_object_mut().unwrap().remove("type");
    }
    entry.to_string()
}

#[tokio::test]
async fn a_broker_without_announced_jobs_is_distinguished_from_an_unreachable_one() {
    let vhost = shared_node().await.vhost().await;
    let none = export(&vhost.url(), &[]).await.ends(5);
    assert!(none.stderr.contains("--queue"), "{none:?}");
    export("amqp://127.0.0.1:1", &[]).await.ends(3);
    let offline = export("amqp://127.0.0.1:1/the%20shop", &["--queue", "email"]).await.ends(0).json();
    assert_eq!(offline["queues"][0]["vhost"], "the shop");
}
