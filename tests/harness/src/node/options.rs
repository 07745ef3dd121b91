//! The settings of a node.

/// The settings of a node. By default it has no plugins and speaks no TLS.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    pub(super) plugins: Vec<String>,
    pub(super) config: Vec<String>,
    pub(super) tls: Option<NodeTls>,
    pub(super) feature_flags: Option<Vec<String>>,
}

/// The certificates and the key of a node that speaks TLS, as PEM.
#[derive(Debug, Clone)]
pub struct NodeTls {
    /// The CA whose client certificates the node accepts.
    pub authority: String,
    /// The node's certificate, which must be for `localhost`, followed by the intermediate certificates.
    pub certificate: String,
    /// The private key of `certificate`.
    pub key: String,
    /// Clients must present a certificate. Otherwise they may.
    pub mutual: bool,
}

impl NodeOptions {
    /// Enables a plugin. The management and the Prometheus plugin listen on [`Node::http_port`](super::Node::http_port).
    #[must_use]
    pub fn plugin(mut self, name: &str) -> Self {
        self.plugins.push(name.to_owned());
        self
    }

    /// Adds a line to `rabbitmq.conf`, such as `consumer_timeout = 2000`.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.config.push(line.to_owned());
        self
    }

    /// Enables these feature flags and no others when the node starts for the first time.
    #[must_use]
    pub fn feature_flags(mut self, names: &[&str]) -> Self {
        self.feature_flags = Some(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// Makes the node speak TLS as well, at [`Node::tls_url`](super::Node::tls_url). The management plugin then speaks
    /// TLS only.
    #[must_use]
    pub fn tls(mut self, tls: NodeTls) -> Self {
        self.tls = Some(tls);
        self
    }
}
