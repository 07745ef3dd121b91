use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::{sleep, timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn stub(jobs: u64) -> Stub {
    let feed = Feed { queue: "fed".to_owned(), job: "bench.noop".to_owned(), body: Bytes::from_static(b"{}"), jobs };
    Stub::start(feed).unwrap()
}

async fn connect(stub: &Stub) -> (Connection, Channel) {
    let connection = Connection::connect(&stub.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Consumer {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, consumer.next()).await.expect("a delivery comes").unwrap().unwrap()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(consumer).await);
    }
    taken
}

fn number(delivery: &Delivery) -> u64 {
    job_number(delivery.properties.message_id().as_ref().unwrap().as_str()).unwrap()
}

async fn ack(channel: &Channel, tag: u64, multiple: bool) {
    channel.basic_ack(tag, BasicAckOptions { multiple }).await.unwrap();
}

/// Waits until the stub has handled all commands of this channel, and lapin has passed on all earlier messages.
async fn settled(channel: &Channel) {
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
}

async fn fault(stub: &Stub) -> ClientFault {
    let watch = async {
        loop {
            match stub.acked() {
                Ok(_) => sleep(Duration::from_millis(1)).await,
                Err(fault) => break fault,
            }
        }
    };
    timeout(PATIENCE, watch).await.expect("the fault is noticed")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_delivered_within_the_prefetch_and_not_more() {
    let stub = stub(5);
    let (_connection, channel) = connect(&stub).await;
    let mut other = consume(&channel, "other", 3).await;
    let mut consumer = consume(&channel, "fed", 3).await;
    let first = take(&mut consumer, 3).await;
    settled(&channel).await;
    assert!(consumer.next().now_or_never().is_none(), "more than the prefetch");
    assert_eq!(first.iter().map(|delivery| delivery.delivery_tag).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(first.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((first[0].data.as_slice(), first[0].redelivered), (b"{}".as_slice(), false));
    assert_eq!(first[0].properties.kind().as_ref().unwrap().as_str(), "bench.noop");
    ack(&channel, 2, false).await;
    assert_eq!(number(&next(&mut consumer).await), 3);
    settled(&channel).await;
    assert!(consumer.next().now_or_never().is_none(), "more than the prefetch");
    ack(&channel, 4, true).await;
    assert_eq!(number(&next(&mut consumer).await), 4);
    ack(&channel, 5, false).await;
    settled(&channel).await;
    assert!(other.next().now_or_never().is_none(), "a delivery to a queue that has no jobs");
    assert_eq!(stub.acked(), Ok(5));
    let counts = stub.finish().unwrap();
    assert_eq!((counts.delivered, counts.redelivered, counts.acked, counts.ack_frames), (5, 0, 5, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_a_tag_that_is_not_open_is_a_fault_that_every_later_call_returns() {
    for (tag, multiple) in [(1, false), (2, true), (4, false), (4, true)] {
        let stub = stub(3);
        let (_connection, channel) = connect(&stub).await;
        let mut consumer = consume(&channel, "fed", 3).await;
        take(&mut consumer, 3).await;
        ack(&channel, 2, true).await;
        ack(&channel, tag, multiple).await;
        let expected = ClientFault::UnknownTag { tag };
        assert_eq!(fault(&stub).await, expected);
        assert_eq!(stub.acked(), Err(expected.clone()));
        assert_eq!(stub.finish(), Err(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_rejected_for_good_is_a_fault() {
    let stub = stub(2);
    let (_connection, channel) = connect(&stub).await;
    take(&mut consume(&channel, "fed", 2).await, 2).await;
    channel.basic_nack(2, BasicNackOptions { multiple: false, requeue: false }).await.unwrap();
    assert_eq!(fault(&stub).await, ClientFault::Rejected { job: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unacknowledged_jobs_of_a_lost_channel_are_redelivered_in_order_before_new_ones() {
    for cut in [false, true] {
        let stub = stub(6);
        let (_lost, channel) = connect(&stub).await;
        let mut consumer = consume(&channel, "fed", 4).await;
        take(&mut consumer, 4).await;
        ack(&channel, 2, false).await;
        next(&mut consumer).await;
        let lost = if cut { stub.cut() } else { stub.close_channels() };
        assert_eq!(lost, 1);
        let (_connection, channel) = connect(&stub).await;
        let mut consumer = consume(&channel, "fed", 0).await;
        let again: Vec<_> =
            take(&mut consumer, 5).await.iter().map(|again| (number(again), again.redelivered)).collect();
        assert_eq!(again, [(0, true), (2, true), (3, true), (4, true), (5, false)], "cut: {cut}");
        ack(&channel, 5, true).await;
        settled(&channel).await;
        let counts = stub.finish().unwrap();
        assert_eq!((counts.delivered, counts.redelivered, counts.acked), (10, 4, 6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_confirmed_and_what_is_declared_is_there() {
    let stub = stub(0);
    let (connection, channel) = connect(&stub).await;
    let (none, kind) = (FieldTable::default(), lapin::ExchangeKind::Direct);
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("e".into(), kind, passive, none.clone()).await.unwrap();
    let queue = channel.queue_declare("q".into(), QueueDeclareOptions::default(), none.clone()).await.unwrap();
    assert_eq!(queue.name().as_str(), "q");
    channel.queue_bind("q".into(), "e".into(), "k".into(), QueueBindOptions::default(), none).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for body in [vec![], vec![1; 300_000]] {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let publish = channel.basic_publish("e".into(), "k".into(), options, &body, properties).await.unwrap();
        assert_eq!(timeout(PATIENCE, publish).await.unwrap().unwrap(), Confirmation::Ack(None));
    }
    channel.close(200, "bye".into()).await.unwrap();
    connection.close(200, "bye".into()).await.unwrap();
    assert_eq!(stub.finish().unwrap().published, 2);
}
