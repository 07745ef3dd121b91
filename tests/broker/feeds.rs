//! Readers of whole queues, on a broker with faults.

use std::time::Duration;

use lapin::{BasicProperties, types::FieldTable};
use leveret::{
    Broker, Config,
    reader::{QueueReader, RawMessage, ReadMessage, Source, declare_status_queue},
    testing::{idle, start},
};
use leveret_harness::{RawClient, eventually, shared_node};
use leveret_tests::jobs::{Act, Log, publish, script, worker};
use tokio::time::{sleep, timeout};

use crate::{
    support::{LONG, Place, broker},
    wire::{Properties, Property, Wire, entry, text_entry},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_whose_consumer_is_cancelled_behind_messages_that_came_in_reads_on() {
    let vhost = shared_node().await.vhost().await;
    let raw = RawClient::connect(&vhost.url()).await.unwrap();
    let publish = async |body: &[u8]| {
        let confirmed = raw.publish("", "mail.dead", BasicProperties::default(), body).await.unwrap();
        assert!(confirmed.is_ack());
    };
    raw.declare_quorum("mail.dead", FieldTable::default()).await.unwrap();
    for body in [b"1", b"2", b"3"] {
        publish(body).await;
    }
    let mut feed = QueueReader::new(&broker(&vhost.url()), Source::DeadLetters("mail".into()), 100).unwrap();
    let first = timeout(LONG, feed.next(1)).await.unwrap();
    assert!(feed.is_listening().await);
    eventually("the others came in", LONG, async || raw.depth("mail.dead").await.unwrap() == Some(0)).await;
    raw.delete_queue("mail.dead").await.unwrap();
    // No event shows that the end of the consumer has arrived. If the queue is declared again at once, RabbitMQ 3.10
    // does not send it.
    sleep(Duration::from_secs(1)).await;
    raw.declare_quorum("mail.dead", FieldTable::default()).await.unwrap();
    let rest = timeout(LONG, feed.next(10)).await.unwrap();
    assert_eq!((first.messages().len(), rest.messages().len()), (1, 2));
    publish(b"4").await;
    let last = timeout(LONG, feed.next(10)).await.expect("the feed reads again");
    assert_eq!(last.messages()[0].message().payload(), b"4");
}

#[tokio::test(start_paused = true)]
async fn in_memory_events_and_what_has_no_queue_are_found_in_any_namespace() {
    let broker = Broker::memory_with(Config { namespace: "other.v7".into(), ..Config::default() });
    declare_status_queue(&broker).await.unwrap();
    let running = start(worker("jobs", |queue| queue, &Log::default()), &broker).await.unwrap();
    let job = script("tracked", [Act::Succeed]);
    publish(&broker, "jobs", &job).track().await.unwrap();
    publish(&broker, "nowhere", &job).delay(Duration::from_secs(5)).await.unwrap();
    idle(&broker).await;
    let next = async |source| timeout(LONG, QueueReader::new(&broker, source, 10).unwrap().next(10)).await.unwrap();
    let events = next(Source::StatusUpdates).await;
    let steps: Vec<_> =
        events.messages().iter().filter_map(ReadMessage::status_update).map(|event| event.transition.name()).collect();
    assert!(steps.contains(&"succeeded"), "{steps:?}");
    assert_eq!(next(Source::Unrouted).await.messages().len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_message_came_with_is_kept_though_it_cannot_be_read() {
    let place = Place::shared("unreadable").await;
    place.declare().await;
    let (mut wire, letters) = (Wire::connect(&place.url).await, format!("{}.dead", place.queue));
    let headers = [text_entry("tenant", b"acme"), entry(b"\xFF", b't', &[1])];
    let properties = Properties::default().with(Property::DeliveryMode, &[2]).headers(&headers).bytes();
    wire.publish("", letters.as_bytes(), &properties, b"{}").await;
    let mut feed = QueueReader::new(&place.broker, Source::DeadLetters(place.queue.clone()), 10).unwrap();
    let batch = timeout(LONG, feed.next(1)).await.unwrap();
    let message = batch.messages()[0].message();
    assert_eq!(message.unreadable_properties(), Some(properties.as_slice()));
    assert!(!format!("{:?}", message.fields()).contains("acme"), "it may be a secret");
    let kept = RawMessage::from_parts(&message.properties(), message.payload().to_vec()).unwrap();
    assert_eq!(kept.unreadable_properties(), Some(properties.as_slice()));
    place.broker.publisher().replay(&kept, &place.queue).await.unwrap();
    let taken = wire.take(&place.queue).await.unwrap();
    assert!(taken.properties.windows(properties.len()).any(|bytes| bytes == properties), "the replay carries them too");
    feed.ack(batch);
    feed.close().await;
}

#[tokio::test]
async fn a_batch_of_large_messages_is_small() {
    let broker = Broker::memory();
    let mut feed = QueueReader::new(&broker, Source::DeadLetters("mail".into()), 10).unwrap();
    // Makes the queue.
    assert!(timeout(Duration::from_millis(10), feed.next(1)).await.is_err());
    let message = RawMessage::from_parts(b"\0\0", vec![b' '; 1 << 20]).unwrap();
    for _ in 0..10 {
        broker.publisher().replay(&message, "mail.dead").await.unwrap();
    }
    let lengths = [feed.next(10).await.messages().len(), feed.next(10).await.messages().len()];
    assert_eq!(lengths, [8, 2]);
}
