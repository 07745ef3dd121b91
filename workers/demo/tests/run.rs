//! Tests of a run of the demo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use leveret::{Broker, Config};
use leveret_demo::{
    ledger::Ledger,
    progress::{Progress, ProgressDisplay},
    run::{DemoRun, EARLY},
    summary::JobCounts,
};
use leveret_harness::shared_node;

#[tokio::test(flavor = "multi_thread")]
async fn every_job_of_the_demo_ends_as_its_input_says() {
    ends_as_its_input_says(Broker::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_of_the_demo_ends_so_on_rabbitmq_too() {
    let amqp_url = vec![shared_node().await.vhost().await.url()];
    ends_as_its_input_says(Broker::amqp(Config { amqp_url, ..Config::default() }).unwrap()).await;
}

async fn ends_as_its_input_says(broker: Broker) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let output = tempfile::tempdir().unwrap();
    let ledger = Ledger::default();
    let progress = Progress::start(ProgressDisplay::default(), &ledger);
    let mut demo = DemoRun::start(&broker, None, &data, output.path(), ledger).await.unwrap();
    demo.run(&progress).await.unwrap();
    demo.drain().await.unwrap();

    let summary = demo.summary().await.unwrap();
    assert!(summary.is_complete());
    // The first failure opens the circuit. Other early jobs may have started before.
    let retried = summary.rows[0].1.retried;
    assert!((1..=EARLY).contains(&retried), "{retried}");
    let counts = |jobs, succeeded, retried, dead| JobCounts { jobs, succeeded, retried, dead, open: 0 };
    assert_eq!(
        summary.rows,
        [
            ("email.order_confirmation", counts(240, 238, retried, 2)),
            ("email.send", counts(4, 2, 0, 2)),
            ("order.place", counts(6, 5, 0, 1)),
            ("order.placed@order-mails", counts(5, 5, 0, 0)),
            ("order.placed@warehouse", counts(5, 5, 0, 0)),
            ("report.generate", counts(9, 7, 0, 2)),
        ]
    );
    let shop = &summary.shop;
    assert_eq!((shop.orders, shop.pick_lists, summary.duplicates, summary.mails.1), (5, 5, 1, 245));
    assert_eq!(summary.reports.1.len(), 7);
    assert_eq!(shop.days.iter().map(|day| day.orders).sum::<i64>(), 5);
    let (revenue, best) = (shop.days.iter().map(|day| day.cents).sum::<i64>(), &shop.top_products);
    assert!(best.iter().map(|product| product.cents).sum::<i64>() == revenue && revenue > 0, "{shop:?}");

    let reasons: Vec<_> = summary.dead.iter().map(|dead| (dead.label.as_str(), dead.reason.as_str())).collect();
    for (label, word) in [
        ("t-2026-00074", "5.1.1"),
        ("mail-3", "5.1.1"),
        ("mail-4", "accounts(at)example.com"),
        ("purchase-4", "12 of \"POT-0003\" are ordered"),
        ("strikes-by-warning.pdf", "\"Pilot Warned\""),
        ("strikes-of-2026.csv", "birdstrikes-2026.csv"),
    ] {
        assert!(reasons.iter().any(|(of, reason)| *of == label && reason.contains(word)), "{label}: {reasons:#?}");
    }
    assert!(summary.dead.iter().all(|dead| dead.kind == "permanent"), "{:#?}", summary.dead);
}
