//! What tools that look at a broker rely on.

use leveret::probe::Probe;
use leveret_harness::{Permissions, shared_node, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_shows_where_it_is_connected_and_no_password() {
    let vhost = shared_node().await.vhost().await;
    let user = unique("prober");
    vhost.node().add_user(&user, "hunter2", vhost.name(), Permissions::ALL).await.unwrap();
    let probe = Probe::connect(&vhost.url_for(&user, "hunter2")).await.unwrap();
    for shown in [format!("{probe:?}"), format!("{probe:#?}")] {
        for part in [probe.host(), vhost.name(), user.as_str(), "RabbitMQ"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    probe.close().await;
}
