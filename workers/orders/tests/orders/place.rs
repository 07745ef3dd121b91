//! Tests that an order is one row, less stock and one event, of which each subscription has one copy.

use leveret_harness::eventually_eq;
use leveret_orders::event_id;

use crate::test_shop::{Database, LONG, TestShop, order};

crate::on_both! {
    an_order_is_a_row_less_stock_a_pick_list_and_a_copy_for_the_mail,
    an_order_that_comes_again_is_there_once,
    an_event_that_comes_again_makes_no_second_pick_list,
    orders_at_once_sell_what_there_is_and_no_more,
    a_shop_that_opens_again_has_what_it_had,
}

async fn an_order_is_a_row_less_stock_a_pick_list_and_a_copy_for_the_mail(database: Database) {
    let shop_test = TestShop::new(&database, &[("tea", 10), ("cup", 3)]).await;
    shop_test.place("a", &order("Ann <ann@example.org>", &[("tea", 2), ("cup", 1)])).await;
    eventually_eq("it is placed", LONG, 1, async || shop_test.ended("succeeded")).await;
    let (shop, mails) = shop_test.close().await;
    let placed = shop.orders("a").await.unwrap();
    assert_eq!(placed.iter().map(|order| order.total_cents).collect::<Vec<_>>(), [1500]);
    assert_eq!((shop.stock("tea").await.unwrap(), shop.stock("cup").await.unwrap()), (Some(8), Some(2)));
    let mails = mails.all();
    assert_eq!(mails.keys().collect::<Vec<_>>(), ["a-placed"]);
    let (event, number) = (&mails["a-placed"], placed[0].number);
    assert_eq!((event.order, event.customer.as_str(), event.total_cents), (number, "Ann <ann@example.org>", 1500));
    assert_eq!(shop.pick_lists(number).await.unwrap(), ["1 x cup\n2 x tea"]);
}

async fn an_order_that_comes_again_is_there_once(database: Database) {
    let shop_test = TestShop::new(&database, &[("tea", 10)]).await;
    for _ in 0..5 {
        shop_test.place("a", &order("ann@example.org", &[("tea", 1)])).await;
    }
    shop_test.place("b", &order("ann@example.org", &[("tea", 1)])).await;
    eventually_eq("all have ended", LONG, (2, 4), async || {
        (shop_test.ended("succeeded"), shop_test.ended("duplicate"))
    })
    .await;
    let (shop, mails) = shop_test.close().await;
    assert_eq!((shop.orders("a").await.unwrap().len(), shop.orders("b").await.unwrap().len()), (1, 1));
    assert_eq!(shop.stock("tea").await.unwrap(), Some(8));
    assert_eq!(mails.all().len(), 2);
}

async fn an_event_that_comes_again_makes_no_second_pick_list(database: Database) {
    let shop_test = TestShop::new(&database, &[("tea", 10)]).await;
    shop_test.place("a", &order("ann@example.org", &[("tea", 1)])).await;
    eventually_eq("it is picked", LONG, 1, async || shop_test.picked("succeeded")).await;
    eventually_eq("the other copy has come", LONG, 1, async || shop_test.mails.all().len()).await;
    let event = shop_test.mails.all().remove("a-placed").unwrap();
    shop_test.broker.publisher().emit(&event).id(event_id("a")).await.unwrap();
    eventually_eq("it is known", LONG, 1, async || shop_test.picked("duplicate")).await;
    let (shop, mails) = shop_test.close().await;
    assert_eq!((shop.pick_lists(event.order).await.unwrap().len(), mails.all().len()), (1, 1));
}

/// Half of the orders have their articles in reverse order, which would deadlock without sorting.
async fn orders_at_once_sell_what_there_is_and_no_more(database: Database) {
    let shop_test = TestShop::new(&database, &[("tea", 30), ("cup", 40)]).await;
    let lines = [[("tea", 1), ("cup", 1)], [("cup", 1), ("tea", 1)]];
    let ids: Vec<_> = (0..50).map(|number| format!("order-{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        shop_test.place(id, &order(&format!("ann{}@example.org", number % 7), &lines[number % 2])).await;
    }
    let ended = async || (shop_test.ended("succeeded"), shop_test.ended("dead"));
    eventually_eq("all have ended", LONG, (30, 20), ended).await;
    assert_eq!(shop_test.ended("retried"), 0);
    let (shop, mails) = shop_test.close().await;
    assert_eq!((shop.stock("tea").await.unwrap(), shop.stock("cup").await.unwrap()), (Some(0), Some(10)));
    let mails = mails.all();
    assert_eq!(mails.len(), 30);
    for id in &ids {
        let orders = shop.orders(id).await.unwrap();
        for order in &orders {
            assert_eq!(shop.pick_lists(order.number).await.unwrap().len(), 1, "{id}");
        }
        let rows = orders.len();
        assert_eq!(rows, usize::from(mails.contains_key(&event_id(id))), "{id}");
    }
}

async fn a_shop_that_opens_again_has_what_it_had(database: Database) {
    let shop_test = TestShop::new(&database, &[("tea", 10)]).await;
    shop_test.place("a", &order("ann@example.org", &[("tea", 1)])).await;
    eventually_eq("it is placed", LONG, 1, async || shop_test.ended("succeeded")).await;
    shop_test.close().await.0.close().await;
    let shop_test = TestShop::new(&database, &[]).await;
    shop_test.place("a", &order("ann@example.org", &[("tea", 1)])).await;
    eventually_eq("it is known", LONG, 1, async || shop_test.ended("duplicate")).await;
    let (shop, mails) = shop_test.close().await;
    assert_eq!(shop.stock("tea").await.unwrap(), Some(9));
    assert!(mails.all().is_empty());
}
