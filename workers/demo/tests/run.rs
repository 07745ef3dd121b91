//! Tests of a run of the demo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use leveret::{Broker, Config};
use leveret_demo::{
    api::JobApi,
    ledger::Ledger,
    progress::{Progress, ProgressDisplay},
    run::{DemoRun, EARLY},
    summary::{JobCounts, RunSummary},
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
    let api = JobApi::start(&broker, ([127, 0, 0, 1], 0).into(), None).await.unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let output = tempfile::tempdir().unwrap();
    let ledger = Ledger::default();
    let progress = Progress::start(ProgressDisplay::default(), &ledger);
    let mut demo = DemoRun::start(&broker, api.store(), &data, output.path(), ledger).await.unwrap();
    demo.run(&progress).await.unwrap();
    demo.drain().await.unwrap();

    let summary = demo.summary().await.unwrap();
    api.stop().await.unwrap();
    assert!(summary.is_complete());
    // The first failure opens the circuit. Other early jobs may have started before.
    let retried = summary.rows[0].1.retried;
    assert!((1..=EARLY).contains(&retried), "{retried}");
    let counts = |jobs, succeeded, retried, dead| JobCounts { jobs, succeeded, retried, dead, open: 0 };
    assert_eq!(
        summary.rows,
        [
            ("email.order_confirmation", counts(241, 239, retried, 2)),
            ("email.send", counts(6, 4, 0, 2)),
            ("invoice.generate", counts(2, 2, 0, 0)),
            ("order.place", counts(7, 6, 0, 1)),
            ("order.placed@order-mails", counts(6, 6, 0, 0)),
            ("order.placed@warehouse", counts(6, 6, 0, 0)),
            ("payment.charge", counts(3, 2, 0, 1)),
            ("payment.refund", counts(1, 1, 0, 0)),
            ("report.generate", counts(9, 7, 0, 2)),
            ("stock.reserve", counts(2, 1, 0, 1)),
        ]
    );
    let shop = &summary.shop;
    assert_eq!((shop.orders, shop.pick_lists, summary.duplicates, summary.mails.1), (6, 6, 1, 248));
    assert_eq!(summary.reports.1.len(), 9);
    assert_eq!(shop.days.iter().map(|day| day.orders).sum::<i64>(), 6);
    let (revenue, best) = (shop.days.iter().map(|day| day.cents).sum::<i64>(), &shop.top_products);
    assert!(best.iter().map(|product| product.cents).sum::<i64>() == revenue && revenue > 0, "{shop:?}");

    checkouts_end_as_their_credit_and_stock_say(&demo, &summary, output.path()).await;

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

async fn checkouts_end_as_their_credit_and_stock_say(demo: &DemoRun, summary: &RunSummary, output: &Path) {
    let ends: Vec<_> =
        summary.checkouts.iter().map(|end| (end.status, end.error.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        ends,
        [
            ("Completed", ""),
            ("Failed", "59.00 EUR are to pay, and the credit of liam@example.com is 10.00 EUR"),
            ("Failed", "9 of \"TIN-0042\" are ordered, and 2 are in stock"),
        ]
    );
    let confirmation = fs::read_to_string(output.join("mail/checkout1_confirm.eml")).unwrap();
    assert!(confirmation.contains("application/pdf"), "{confirmation}");
    assert_eq!(demo.credit("zoe.obrien@example.com").await.unwrap(), Some(20_000 - 5_970));
    assert_eq!(demo.credit("jose.nunez@example.com").await.unwrap(), Some(20_000), "the payment is refunded");
}
