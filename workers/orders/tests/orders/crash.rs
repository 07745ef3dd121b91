//! Tests a killed worker: every order, its pick list and its copy for the mail exist once.

use std::{collections::BTreeSet, process::Command, time::Duration};

use leveret::{Broker, Config, testing};
use leveret_harness::{Process, eventually, eventually_eq, shared_node};
use leveret_orders::{Shop, event_id};

use crate::test_shop::{Database, LONG, Mails, order, place};

crate::on_both! { a_worker_that_is_killed_again_and_again_places_every_order_once }

const ORDERS: usize = 400;
const KILLS: usize = 4;

fn orders_worker(database: &Database, amqp: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders-worker"));
    command.args(["--http-addr", "127.0.0.1:0", "--database-url", &database.url, "--amqp-url", amqp]);
    // The lease of a killed relay ends after 4 s.
    command.args(["--publish-timeout", "2s"]);
    Process::spawn(command.env_remove("RUST_LOG"))
}

async fn a_worker_that_is_killed_again_and_again_places_every_order_once(database: Database) {
    let amqp = shared_node().await.vhost().await.url();
    let (http_addr, publish_timeout) = (([127, 0, 0, 1], 0).into(), Duration::from_secs(10));
    let broker =
        Broker::amqp(Config { amqp_url: vec![amqp.clone()], http_addr, publish_timeout, ..Config::default() }).unwrap();
    let shop = Shop::open(&database.url).await.unwrap();
    shop.set_stock("tea", 1000).await.unwrap();
    let mails = Mails::default();
    let mailing = testing::start(mails.worker(), &broker).await.unwrap();

    let mut program = orders_worker(&database, &amqp);
    let ids: Vec<_> = (0..ORDERS).map(|number| format!("order-{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        place(&broker, id, &order(&format!("ann{}@example.org", number % 5), &[("tea", 1)])).await;
    }
    for kill in 1..=KILLS {
        // Kills the worker before all orders are placed.
        let some = i64::try_from(ORDERS * kill / (KILLS + 2)).unwrap();
        eventually("some are placed", LONG, async || shop.stock("tea").await.unwrap() <= Some(1000 - some)).await;
        program.sigkill();
        program.wait_exit(LONG).await;
        program = orders_worker(&database, &amqp);
    }
    let expected: BTreeSet<_> = ids.iter().map(|id| event_id(id)).collect();
    eventually_eq("all copies for mails have come", LONG, ORDERS, async || mails.all().len()).await;
    assert_eq!(mails.all().into_keys().collect::<BTreeSet<_>>(), expected);
    assert_eq!(shop.stock("tea").await.unwrap(), Some(1000 - ORDERS as i64));
    for id in &ids {
        let orders = shop.orders(id).await.unwrap();
        assert_eq!(orders.len(), 1, "{id}");
        let lists = async || shop.pick_lists(orders[0].number).await.unwrap().len();
        eventually_eq("it has a pick list", LONG, 1, lists).await;
    }
    program.sigterm();
    assert!(program.wait_exit(LONG).await.success());
    mailing.stop().await.unwrap();
}
