//! The broker that the tests of one process share.
//!
//! Choosing an isolation (measured on RabbitMQ 3.10, two cores): [`unique`](crate::unique) queue names in one
//! vhost cost nothing but 0.03 s for declaring a delay ladder that is already there. A vhost of its own costs
//! 0.05 s, and 0.3 to 0.5 s more for the ladder in it: for tests of what a vhost shares, such as policies,
//! permissions, unrouted jobs or wrong arguments. A [`Node`] costs 5 s: for tests that kill or configure it.

use tokio::sync::{Mutex, OnceCell};

use crate::names::unique;
use crate::node::{Node, NodeOptions};

/// Made at once, because one call of `rabbitmqctl` costs more than ten vhosts.
const VHOSTS_AT_ONCE: usize = 8;

/// The broker for tests that neither stop nor configure it.
#[derive(Debug)]
pub struct SharedNode {
    given: Option<String>,
    node: OnceCell<Node>,
    spare_vhosts: Mutex<Vec<String>>,
}

/// A vhost that no other test uses. It stays until its node goes: deleting one costs more than keeping it.
#[derive(Debug, Clone)]
pub struct TestVhost {
    name: String,
    node: &'static Node,
}

/// The broker of this test process: that of `AMQP_URL` when it is set, else a [`Node`] started on first use.
pub async fn shared_node() -> &'static SharedNode {
    static SHARED: OnceCell<SharedNode> = OnceCell::const_new();
    let shared = SHARED
        .get_or_init(async || SharedNode {
            given: std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty()),
            node: OnceCell::new(),
            spare_vhosts: Mutex::default(),
        })
        .await;
    if shared.given.is_none() {
        shared.node().await;
    }
    shared
}

impl SharedNode {
    /// The address for tests with [`unique`](crate::unique) names.
    ///
    /// # Panics
    ///
    /// Never on what [`shared_node`] returned.
    pub fn url(&self) -> String {
        let own = || self.node.get().map(Node::url);
        self.given.clone().or_else(own).expect("a started node where none is given")
    }

    /// The node of this process, started on first use: `AMQP_URL` may name a broker that the tests do not administer.
    pub async fn node(&'static self) -> &'static Node {
        self.node.get_or_init(async || Node::start(NodeOptions::default()).await).await
    }

    /// A fresh vhost on [`Self::node`], with no permission for anyone but `guest`.
    ///
    /// # Panics
    ///
    /// When it cannot be created.
    pub async fn vhost(&'static self) -> TestVhost {
        let node = self.node().await;
        let mut spare = self.spare_vhosts.lock().await;
        if spare.is_empty() {
            *spare = create_vhosts(node).await;
        }
        let name = spare.pop().expect("a vhost just created");
        TestVhost { name, node }
    }
}

impl TestVhost {
    /// Its name on the broker.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its node, for [`Node::ctl`].
    pub fn node(&self) -> &'static Node {
        self.node
    }

    /// Its address for the user `guest`, who may do everything in it.
    pub fn url(&self) -> String {
        self.url_for("guest", "guest")
    }

    /// Its address for another user.
    pub fn url_for(&self, user: &str, password: &str) -> String {
        self.node.url_for(user, password, &self.name)
    }
}

async fn create_vhosts(node: &Node) -> Vec<String> {
    let names: Vec<_> = (0..VHOSTS_AT_ONCE).map(|_| unique("test")).collect();
    let binaries = names.iter().map(|name| format!("<<\"{name}\">>"));
    let binaries = binaries.collect::<Vec<_>>().join(",");
    let create = format!(
        r#"[begin
            ok = rabbit_vhost:add(Name, <<"harness">>),
            ok = rabbit_auth_backend_internal:set_permissions(
                <<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"harness">>)
        end || Name <- [{binaries}]]."#
    );
    node.eval(&create).await.expect("new vhosts");
    names
}
