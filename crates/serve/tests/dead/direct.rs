//! Operations without a store.

use leveret::testing::dead_letters;
use leveret_serve::dead::{Error, direct, transfer};

use crate::stage::Stage;

#[tokio::test]
async fn a_whole_queue_comes_back() {
    let stage = Stage::new().await;
    stage.kill(1..=300).await;
    stage.fix();
    let summary = direct::replay(&stage.broker, "money", (None, None), 300, |_| ()).await.unwrap();
    assert_eq!((summary.done, summary.kept), (300, 0));
    assert_eq!(stage.charged().await, (1..=300).collect::<Vec<_>>());
    assert!(dead_letters(&stage.broker, "money").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rate_that_is_no_rate_is_refused_and_nothing_is_replayed() {
    let stage = Stage::new().await;
    stage.kill(1..=1).await;
    stage.fix();
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = direct::replay(&stage.broker, "money", (None, Some(rate)), 1, |_| ()).await.unwrap_err();
        assert!(matches!(error, Error::Options(_)) && error.to_string().starts_with("rate: "), "{error}");
    }
    assert_eq!(dead_letters(&stage.broker, "money").await.unwrap().len(), 1);
}

#[tokio::test]
async fn letters_that_die_again_are_not_replayed_again() {
    let stage = Stage::new().await;
    stage.kill(1..=3).await;
    let summary = direct::replay(&stage.broker, "money", (None, None), 3, |_| ()).await.unwrap();
    assert_eq!(summary.done, 3);
    leveret::testing::idle(&stage.broker).await;
    assert_eq!(dead_letters(&stage.broker, "money").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_letter_without_a_queue_is_requeued() {
    let stage = Stage::new().await;
    stage.kill(1..=250).await;
    let summary = direct::replay(&stage.broker, "money", (Some("nowhere"), None), 250, |_| ()).await.unwrap();
    assert_eq!(summary.done, 0);
    assert!(summary.kept >= 200 && summary.reasons[0].contains("nowhere"), "{summary:?}");
    assert_eq!(dead_letters(&stage.broker, "money").await.unwrap().len(), 250);
}

#[tokio::test]
async fn a_list_or_an_export_leaves_all_letters_in_the_queue() {
    let stage = Stage::new().await;
    stage.kill(1..=5).await;
    let listed = direct::list(&stage.broker, "money", 3).await.unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0].about.error, "account 1 is closed");
    let mut file = Vec::new();
    let summary = direct::export(&stage.broker, "money", 5, &mut file, |_| ()).await.unwrap();
    assert_eq!(summary.done, 5);
    assert_eq!(dead_letters(&stage.broker, "money").await.unwrap().len(), 5);
    let imported = transfer::import(&stage.store, file.as_slice(), "anna").await.unwrap();
    assert_eq!((imported.imported, imported.bad), (5, 0));
    assert!(stage.letters().await.iter().all(|letter| letter.queue == "money" && letter.kind == "permanent"));
}

#[tokio::test]
async fn a_purge_takes_as_many_as_were_counted() {
    let stage = Stage::new().await;
    stage.kill(1..=5).await;
    assert_eq!(direct::purge(&stage.broker, "money", 4, |_| ()).await.unwrap().done, 4);
    assert_eq!(dead_letters(&stage.broker, "money").await.unwrap().len(), 1);
}
