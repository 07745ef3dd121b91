//! Clusters of private nodes.

use leveret_harness::lapin::BasicProperties;
use leveret_harness::lapin::types::FieldTable;
use leveret_harness::{Cluster, NodeOptions, RawClient, eventually_eq, unique};

use crate::SOON;

#[tokio::test]
async fn a_confirmed_message_survives_the_kill_of_its_queues_leader() {
    let cluster = Cluster::start(3, NodeOptions::default()).await;
    let queue = unique("replicated");
    let client = RawClient::connect(&cluster.nodes()[0].url()).await.unwrap();
    client.declare_quorum(&queue, FieldTable::default()).await.unwrap();
    cluster.await_members(&queue).await;
    let durable = BasicProperties::default().with_delivery_mode(2);
    assert!(client.publish("", &queue, durable, b"still here").await.unwrap().is_ack());
    cluster.sync().await.unwrap();

    let leader = cluster.leader(&queue).await;
    leader.kill9().await;
    let next = cluster.leader(&queue).await;
    assert_ne!(next.name(), leader.name());
    let client = RawClient::connect(&next.url()).await.unwrap();
    let message = async || client.take(&queue).await.unwrap().map(|message| message.delivery.data);
    eventually_eq("the message is there", SOON, Some(b"still here".to_vec()), message).await;

    leader.restart().await;
    cluster.await_members(&queue).await;
}
