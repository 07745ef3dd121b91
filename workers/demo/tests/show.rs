//! The demo, run as a person runs it, on the in-memory broker.

use std::path::Path;

use leveret::Broker;
use leveret_demo::{
    ledger::Ledger,
    progress::{Display, Progress},
    show::{EARLY, Show},
    summary::Counts,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_job_of_the_demo_ends_as_its_input_says() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let output = tempfile::tempdir().unwrap();
    let (broker, ledger) = (Broker::memory(), Ledger::default());
    let progress = Progress::start(Display::default(), &ledger);
    let mut show = Show::start(&broker, None, &data, output.path(), ledger).unwrap();
    show.play(&progress).await.unwrap();
    show.drain().await.unwrap();

    let summary = show.summary();
    assert!(summary.is_complete());
    let counts = |jobs, succeeded, retried, dead| Counts { jobs, succeeded, retried, dead, open: 0 };
    assert_eq!(
        summary.rows,
        [
            ("email.order_confirmation", counts(240, 238, EARLY, 2)),
            ("email.send", counts(4, 2, 0, 2)),
            ("report.generate", counts(9, 7, 0, 2)),
        ]
    );
    assert_eq!(summary.mails.1, 240);
    assert_eq!(summary.reports.1.len(), 7);

    let reasons: Vec<_> = summary.dead.iter().map(|dead| (dead.label.as_str(), dead.reason.as_str())).collect();
    for (label, word) in [
        ("t-2026-00074", "5.1.1"),
        ("mail-3", "5.1.1"),
        ("mail-4", "accounts(at)example.com"),
        ("strikes-by-warning.pdf", "\"Pilot Warned\""),
        ("strikes-of-2026.csv", "birdstrikes-2026.csv"),
    ] {
        assert!(reasons.iter().any(|(of, reason)| *of == label && reason.contains(word)), "{label}: {reasons:#?}");
    }
    assert!(summary.dead.iter().all(|dead| dead.kind == "permanent"), "{:#?}", summary.dead);
}
