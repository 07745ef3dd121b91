//! Tests of the steps of a checkout: money and stock are taken once, and given back once.

use leveret::{Job, NewJob};
use leveret_harness::eventually_eq;
use leveret_orders::{ChargePayment, OrderLine, PlaceOrder, RefundPayment, ReleaseStock, ReserveStock, checkout};

use crate::test_shop::{Database, LONG, TestShop, order};

crate::on_both! {
    a_charge_takes_its_money_once_and_a_refund_gives_it_back_once,
    a_charge_above_the_credit_takes_nothing,
    a_payment_pays_one_order_and_is_not_refunded_then,
    reserved_stock_is_used_by_one_order_or_released,
}

/// Publishes the job under each of these ids, and waits until they have ended so.
async fn run<J: Job>(shop: &TestShop, job: &J, ids: &[&str], outcomes: &[(&str, u64)]) {
    let ended = async || outcomes.iter().map(|(name, _)| shop.finished(J::NAME, J::QUEUE, name)).collect::<Vec<_>>();
    let before = ended().await;
    for id in ids {
        crate::test_shop::publish(&shop.broker, NewJob::of(job).id(*id)).await;
    }
    let expected: Vec<_> = before.iter().zip(outcomes).map(|(before, (_, more))| before + more).collect();
    eventually_eq("they have ended", LONG, expected, ended).await;
}

async fn a_charge_takes_its_money_once_and_a_refund_gives_it_back_once(database: Database) {
    let shop = TestShop::new(&database, &[]).await;
    shop.shop.set_credit("ann@example.org", 1_000).await.unwrap();
    let charge = ChargePayment { customer: "Ann <ann@example.org>".to_owned(), cents: 400 };
    run(&shop, &charge, &["c", "c", "c"], &[("succeeded", 1), ("duplicate", 2)]).await;
    assert_eq!(shop.shop.credit("ann@example.org").await.unwrap(), Some(600));
    let refund = RefundPayment { charge_id: "c".to_owned() };
    run(&shop, &refund, &["r", "r"], &[("succeeded", 1), ("duplicate", 1)]).await;
    run(&shop, &refund, &["other"], &[("succeeded", 1)]).await;
    let (shop, _) = shop.close().await;
    assert_eq!(shop.credit("ann@example.org").await.unwrap(), Some(1_000));
}

async fn a_charge_above_the_credit_takes_nothing(database: Database) {
    let shop = TestShop::new(&database, &[]).await;
    shop.shop.set_credit("ann@example.org", 1_000).await.unwrap();
    let charge = |customer: &str, cents| ChargePayment { customer: customer.to_owned(), cents };
    run(&shop, &charge("ann@example.org", 1_001), &["a"], &[("dead", 1)]).await;
    run(&shop, &charge("bob@example.org", 1), &["b"], &[("dead", 1)]).await;
    run(&shop, &charge("ann@example.org", 1_000), &["c"], &[("succeeded", 1)]).await;
    let (shop, _) = shop.close().await;
    assert_eq!(shop.credit("ann@example.org").await.unwrap(), Some(0));
    assert_eq!(shop.credit("bob@example.org").await.unwrap(), None);
}

async fn a_payment_pays_one_order_and_is_not_refunded_then(database: Database) {
    let shop = TestShop::new(&database, &[("tea", 10)]).await;
    shop.shop.set_credit("ann@example.org", 1_000).await.unwrap();
    let charge = ChargePayment { customer: "ann@example.org".to_owned(), cents: 500 };
    run(&shop, &charge, &["c"], &[("succeeded", 1)]).await;
    let place = |teas| PlaceOrder { payment: Some("c".to_owned()), ..order("ann@example.org", &[("tea", teas)]) };
    run(&shop, &place(2), &["too-much"], &[("dead", 1)]).await;
    let of_another = PlaceOrder { customer: "bob@example.org".to_owned(), ..place(1) };
    run(&shop, &of_another, &["of-another"], &[("dead", 1)]).await;
    run(&shop, &place(1), &["p"], &[("succeeded", 1)]).await;
    run(&shop, &place(1), &["again"], &[("dead", 1)]).await;
    run(&shop, &RefundPayment { charge_id: "c".to_owned() }, &["r"], &[("succeeded", 1)]).await;
    let (shop, _) = shop.close().await;
    assert_eq!(shop.credit("ann@example.org").await.unwrap(), Some(500));
    assert_eq!(shop.stock("tea").await.unwrap(), Some(9));
}

async fn reserved_stock_is_used_by_one_order_or_released(database: Database) {
    let shop = TestShop::new(&database, &[("tea", 10)]).await;
    let lines = |count| order("ann@example.org", &[("tea", count)]).lines;
    run(&shop, &ReserveStock { lines: lines(4) }, &["r1", "r1"], &[("succeeded", 1), ("duplicate", 1)]).await;
    run(&shop, &ReserveStock { lines: lines(7) }, &["r2"], &[("dead", 1)]).await;
    let reservation = Some("r1".to_owned());
    let place = PlaceOrder { reservation, ..order("ann@example.org", &[("tea", 4)]) };
    let other = PlaceOrder { lines: lines(3), ..place.clone() };
    run(&shop, &other, &["p0"], &[("dead", 1)]).await;
    run(&shop, &place, &["p1", "p2"], &[("succeeded", 1), ("dead", 1)]).await;
    let release = |reservation: &str| ReleaseStock { reservation: reservation.to_owned() };
    run(&shop, &release("r1"), &["f1"], &[("succeeded", 1)]).await;
    assert_eq!(shop.shop.stock("tea").await.unwrap(), Some(6), "an order has used it");
    run(&shop, &ReserveStock { lines: lines(6) }, &["r3"], &[("succeeded", 1)]).await;
    run(&shop, &release("r3"), &["f3", "again"], &[("succeeded", 2)]).await;
    let twice = order("ann@example.org", &[("tea", 1), ("tea", 2)]);
    run(&shop, &ReserveStock { lines: twice.lines.clone() }, &["r4"], &[("succeeded", 1)]).await;
    assert_eq!(shop.shop.stock("tea").await.unwrap(), Some(3), "an article may be in two lines");
    run(&shop, &release("r4"), &["f4"], &[("succeeded", 1)]).await;
    let (shop, mails) = shop.close().await;
    assert_eq!(shop.stock("tea").await.unwrap(), Some(6));
    let placed = mails.all();
    assert_eq!(placed.values().map(|event| event.confirm).collect::<Vec<_>>(), [false], "the workflow confirms it");
}

#[test]
fn a_checkout_that_cannot_run_is_refused_before_it_starts() {
    let date = jiff::civil::date(2026, 11, 30);
    let refused = |number: &str, order: &PlaceOrder| checkout(number, order, "shop", date).unwrap_err().to_string();
    let good = order("ann@example.org", &[("tea", 1)]);
    let none: Vec<OrderLine> = Vec::new();
    assert!(refused("17", &PlaceOrder { lines: none, ..good.clone() }).contains("0 lines"));
    assert!(refused("17", &PlaceOrder { customer: "ann".to_owned(), ..good.clone() }).contains("mail address"));
    let long = "1".repeat(101);
    for number in ["", "a/b", "a\\b", ".hidden", "-f", "1 2", "\u{202e}17", &long] {
        assert!(refused(number, &good).contains("must have 1 to 100"), "{number:?}");
    }
}
