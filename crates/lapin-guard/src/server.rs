//! The properties in the broker's greeting, which lapin does not pass on.

use crate::filter::{long_string, short_string, value_size};

/// The properties of the broker in its greeting, before any login. A property that the broker does not send is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerProperties {
    /// The product, such as `RabbitMQ`.
    pub product: String,
    /// The version, such as `4.1.3`.
    pub version: String,
    /// The name of the cluster.
    pub cluster_name: String,
    /// The SASL mechanisms, separated by spaces, such as `PLAIN AMQPLAIN`.
    pub mechanisms: String,
}

impl ServerProperties {
    /// Reads the server properties and mechanisms of `connection.start`, up to the first unreadable byte.
    pub(crate) fn read(arguments: &[u8]) -> Self {
        let mut server = Self::default();
        let Some((table, after)) = long_string(arguments) else { return server };
        if let Some((mechanisms, _)) = long_string(after) {
            server.mechanisms = String::from_utf8_lossy(mechanisms).into_owned();
        }
        let mut rest = table;
        while let Some((name, after)) = short_string(rest)
            && let Some((kind, value)) = after.split_first()
            && let Some((value, after)) = value_size(*kind, value).and_then(|size| value.split_at_checked(size))
        {
            let text = || String::from_utf8_lossy(value.get(4..).unwrap_or_default()).into_owned();
            match (name, kind) {
                (b"product", b'S') => server.product = text(),
                (b"version", b'S') => server.version = text(),
                (b"cluster_name", b'S') => server.cluster_name = text(),
                _ => {}
            }
            rest = after;
        }
        server
    }

    /// Returns whether the broker offers a login by client certificate, as far as it has listed its mechanisms.
    pub(crate) fn may_offer_external(&self) -> bool {
        self.mechanisms.is_empty() || self.mechanisms.split(' ').any(|mechanism| mechanism == "EXTERNAL")
    }
}
