//! The probe, which tools use to inspect a broker.

use leveret::{
    Config,
    probe::{Probe, Refusal},
};
use leveret_harness::{
    Node, NodeOptions, Permissions, eventually_eq,
    lapin::{BasicProperties, options::QueueDeclareOptions, types::FieldTable},
    shared_node, unique,
};

use crate::support::{LONG, Place, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_shows_where_it_is_connected_and_no_password() {
    let vhost = shared_node().await.vhost().await;
    let user = unique("prober");
    vhost.node().add_user(&user, "hunter2", vhost.name(), Permissions::ALL).await.unwrap();
    let probe = Probe::connect(&vhost.url_for(&user, "hunter2"), &Config::default()).await.unwrap();
    for shown in [format!("{probe:?}"), format!("{probe:#?}")] {
        for part in [probe.host(), vhost.name(), user.as_str(), "RabbitMQ"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    probe.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_visited_oldest_first_up_to_the_limit_and_requeued() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "visited");
    place.declare().await;
    let raw = place.raw().await;
    for n in 0..3_u8 {
        raw.publish("leveret.v1.dead", &place.queue, BasicProperties::default(), &[n]).await.unwrap();
    }
    let depth = async || raw.depth(&format!("{}.dead", place.queue)).await.unwrap();
    eventually_eq("three dead letters", LONG, Some(3), depth).await;
    let mut probe = Probe::connect(&place.url, &Config::default()).await.unwrap();
    for (limit, expected) in [(2, vec![[0], [1]]), (9, vec![[0], [1], [2]])] {
        let mut seen = Vec::new();
        let read = probe.dead_letters(&place.queue, limit, |letter| seen.push(letter.payload)).await.unwrap();
        assert_eq!(read as usize, seen.len());
        assert_eq!(seen, expected);
        eventually_eq("they are requeued", LONG, Some(3), depth).await;
    }
    probe.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_connection_is_locked_and_the_probe_goes_on() {
    let vhost = shared_node().await.vhost().await;
    let place = Place::at(&vhost.url(), "locked");
    let raw = place.raw().await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    raw.channel().queue_declare("own".into(), exclusive, FieldTable::default()).await.unwrap();
    let mut probe = Probe::connect(&place.url, &Config::default()).await.unwrap();
    let refusal = probe.depth("own").await.unwrap_err();
    assert!(matches!(&refusal, Refusal::Locked(words) if words.contains("own")), "{refusal}");
    assert_eq!(probe.depth("none").await, Err(Refusal::Missing));
    probe.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_frames_have_no_room_for_a_job_is_refused_with_what_to_do() {
    let node = Node::start(NodeOptions::default().config("frame_max = 8192")).await;
    let refused = Probe::connect(&node.url(), &Config::default()).await.unwrap_err().to_string();
    let publisher = broker(&node.url()).publisher().fail_fast();
    let unpublished = publisher.publish_raw("j", "q", "{}").await.unwrap_err().to_string();
    for said in [refused, unpublished] {
        assert!(said.contains("frame_max is 8192: set it to 131072"), "{said}");
    }
}
