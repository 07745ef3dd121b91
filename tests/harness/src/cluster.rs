//! A cluster of private nodes, each of which can be killed, stopped and brought back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::eventually::eventually;
use crate::node::{Distribution, Node, NodeOptions};

/// For an election, and for a member that comes back to have read its log.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// RabbitMQ nodes that form one cluster; a quorum queue has a member on each of three.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts `size` nodes, all with these options, and returns when they are one cluster.
    ///
    /// # Panics
    ///
    /// As [`Node::start`], and when they do not find each other.
    pub async fn start(size: usize, options: NodeOptions) -> Self {
        let distribution = Arc::new(Distribution::new());
        let name = |number: usize| format!("leveret{number}@localhost");
        // At its first start every node joins the first one, which has no peer to join.
        let options = options
            .config("cluster_formation.peer_discovery_backend = classic_config")
            .config(&format!("cluster_formation.classic_config.nodes.1 = {}", name(1)));
        let node = |number: usize| Node::new(name(number), Arc::clone(&distribution), &options);
        let cluster = Self { nodes: (1..=size).map(node).collect() };
        if let Some((first, others)) = cluster.nodes.split_first() {
            first.boot().await;
            join_all(others.iter().map(Node::boot)).await;
            let all = size.to_string();
            first.ctl(&["await_online_nodes", &all]).await.expect("the nodes must form one cluster");
        }
        cluster
    }

    /// All nodes, also those that are down.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Waits until the queue of the default vhost has a leader on a node that runs, and returns that node.
    ///
    /// # Panics
    ///
    /// When it has none within a minute: too few nodes run, or there is no such queue.
    pub async fn leader(&self, queue: &str) -> &Node {
        let mut leader = None;
        let elected = async || {
            let name = self.ask(&info(queue, "leader", "Info")).await;
            let is_leader = |node: &&Node| node.is_running() && name.as_deref() == Some(node.name());
            leader = self.nodes.iter().find(is_leader);
            leader.is_some()
        };
        eventually(&format!("{queue:?} has a leader"), SETTLED_WITHIN, elected).await;
        leader.expect("a leader was just found")
    }

    /// Waits until every member of the queue of the default vhost is online, and it has as many as there are nodes.
    ///
    /// # Panics
    ///
    /// When that is not so within a minute.
    pub async fn await_members(&self, queue: &str) {
        let wanted = Some(self.nodes.len().to_string());
        let online = async || self.ask(&info(queue, "online", "length(Info)")).await == wanted;
        eventually(&format!("all members of {queue:?} are online"), SETTLED_WITHIN, online).await;
    }

    /// [`Node::sync`] on every node that runs.
    ///
    /// # Errors
    ///
    /// As [`Node::ctl`].
    pub async fn sync(&self) -> io::Result<()> {
        join_all(self.running().map(Node::sync)).await.into_iter().collect()
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// The value of an Erlang expression in a running node. `None` while no node can evaluate it.
    async fn ask(&self, expression: &str) -> Option<String> {
        let value = self.running().next()?.eval(expression).await.ok()?;
        Some(value.trim_matches('\'').to_owned())
    }
}

/// An expression for what `value` makes of one piece of information on a quorum queue or a stream, bound to `Info`.
fn info(queue: &str, item: &str, value: &str) -> String {
    format!(
        r#"{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
           [{{{item}, Info}}] = rabbit_queue_type:info(Queue, [{item}]), {value}."#
    )
}
