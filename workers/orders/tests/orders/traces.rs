//! Tests that an order and its event are in one trace across the outbox.

use std::process::Command;

use leveret::{Broker, Config, testing};
use leveret_harness::{Collector, Process, RawClient, eventually, lapin::types::AMQPValue, shared_node};
use leveret_orders::Shop;

use crate::test_shop::{Database, LONG, Mails, order};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

crate::on_both! { an_order_and_its_event_are_one_trace_which_is_exported_before_the_program_ends }

async fn an_order_and_its_event_are_one_trace_which_is_exported_before_the_program_ends(database: Database) {
    let (collector, amqp) = (Collector::start().await, shared_node().await.vhost().await.url());
    let broker = Broker::amqp(Config { amqp_url: vec![amqp.clone()], ..Config::default() }).unwrap();
    // The worker declares the subscription of the mails and stops, so that the events stay there.
    testing::start(Mails::default().worker(), &broker).await.unwrap().stop().await.unwrap();
    Shop::open(&database.url).await.unwrap().set_stock("tea", 5).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders-worker"));
    command.args(["--http-addr", "127.0.0.1:0", "--database-url", &database.url, "--amqp-url", &amqp]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()).env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let program = Process::spawn(command.env_remove("RUST_LOG"));

    let order = order("ann@example.org", &[("tea", 1)]);
    let publish = || broker.publisher().publish(&order).header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    eventually("the order is published", LONG, async || publish().await.is_ok()).await;
    let raw = RawClient::connect(&amqp).await.unwrap();
    eventually("the event is there", LONG, async || raw.depth("order-mails").await.unwrap() >= Some(1)).await;
    program.sigterm();
    assert!(program.wait_exit(LONG).await.success());

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.service == "orders-worker"), "{spans:?}");
    let find = |name: &str| spans.iter().find(|span| span.name == name && span.trace == TRACE).unwrap();
    let (process, publish) = (find("process leveret.v1.jobs:orders"), find("publish leveret.v1.jobs:order.placed"));
    assert_eq!(process.parent, PARENT);
    assert_eq!(publish.parent, process.id, "it is what the job was enqueued in");
    let event = raw.take("order-mails").await.unwrap().unwrap();
    let header = event.properties.headers().as_ref().unwrap().inner().get("traceparent");
    let expected = format!("00-{TRACE}-{}-01", process.id);
    assert_eq!(header, Some(&AMQPValue::LongString(expected.into())));
}
