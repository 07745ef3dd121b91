//! Shows each fault of lapin without the guard, and that the guard prevents it. A test that fails for lapin alone means
//! that this version of lapin no longer has the fault.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod broker;
mod connecting;
mod frames;
#[cfg(feature = "tls")]
mod tls;

use std::time::Duration;

use async_rs::Runtime;
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use lapin_guard::{Guard, Options};

/// The time after which a wait counts as a hang.
const LONG: Duration = Duration::from_secs(20);

/// The way in which a test connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    LapinAlone,
    Guard,
}

fn uri(text: &str) -> AMQPUri {
    text.parse().unwrap()
}

async fn connect(by: By, uri: &AMQPUri) -> Result<(Connection, Option<Guard>), String> {
    let properties = ConnectionProperties::default();
    match by {
        By::LapinAlone => {
            let connecting = Connection::connect_uri_with_runtime(uri.clone(), properties, Runtime::tokio_current());
            connecting.await.map(|connection| (connection, None)).map_err(|error| error.to_string())
        }
        By::Guard => {
            let connected = lapin_guard::connect(uri, properties, &Options::default()).await;
            connected.map(|(connection, guard)| (connection, Some(guard))).map_err(|error| error.to_string())
        }
    }
}
