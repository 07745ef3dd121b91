//! One connection to RabbitMQ, from the end of its handshake to its loss.

use std::{process, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use lapin_guard::Guard;
use tokio::sync::{SetOnce, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{HOST, PROGRAM},
    transport::{
        SendError,
        amqp::{
            Address, FRAME_MAX, Setup,
            reconnector::{CLOSED, State},
        },
    },
};

/// Longest wait for the broker's answer to a close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The role of the connection for direct replies. RabbitMQ ends it at a forged reply-to, so each publisher of jobs can make
/// it end. Its losses say nothing about the broker: they are not counted, and a repeated one is logged once a minute.
pub(super) const REPLY: &str = "reply";
/// Interval of checks of a connection that has reported nothing.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A live connection, until `lost` is cancelled.
#[derive(Debug)]
pub(super) struct LiveConnection {
    pub(super) connection: Connection,
    /// The host and port of the settings.
    pub(super) address: String,
    /// The longest silence of the broker.
    longest_silence: Duration,
    guard: Guard,
    pub(super) lost: CancellationToken,
    /// The broker's reason for blocking publishes.
    pub(super) blocked: watch::Sender<Option<String>>,
    /// The reason for replacing it with a new connection.
    retire: SetOnce<String>,
    /// The index of its address.
    index: usize,
}

impl LiveConnection {
    /// Wraps a connection to the address of that index.
    pub(super) fn new(connection: Connection, guard: Guard, address: &Address, index: usize) -> Self {
        Self {
            connection,
            address: address.to_string(),
            longest_silence: Duration::from_secs(address.heartbeat.into()) * 2,
            guard,
            lost: CancellationToken::new(),
            blocked: watch::channel(None).0,
            retire: SetOnce::new(),
            index,
        }
    }

    /// Returns the index of the address to try first after this connection. The node of a retired connection may answer
    /// without working, for example while it is separated from its cluster.
    pub(super) fn next_index(&self) -> usize {
        if self.retire.initialized() { self.index + 1 } else { 0 }
    }

    /// Waits until publishes cannot be sent on this connection, and returns the reason.
    pub(super) async fn obstacle(&self) -> SendError {
        let mut blocked = self.blocked.subscribe();
        tokio::select! {
            () = self.lost.cancelled() => SendError::Unavailable("the connection was lost".to_owned()),
            // The sender is a field of `self`, so it is not dropped.
            Ok(reason) = blocked.wait_for(Option::is_some) => {
                SendError::Blocked(reason.clone().unwrap_or_default())
            }
        }
    }

    /// Opens a channel.
    ///
    /// lapin never reuses the id of a channel that the broker has closed, although it selects that id again. It also
    /// keeps channels that failed to open for this reason, until no id is left. So the first such failure replaces the
    /// connection.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        let opening = async {
            let opened = self.connection.create_channel().await;
            if let Err(error) = &opened
                && self.is_replaceable(error)
            {
                self.retire(&format!("lapin cannot reuse the id of a closed channel: {error}"));
            }
            opened
        };
        self.unless_lost(opening).await
    }

    /// Retires the connection: a new one replaces it, at the next address if there are several.
    pub(super) fn retire(&self, reason: &str) {
        // An earlier reason has priority.
        drop(self.retire.set(format!("retired: {reason}")));
    }

    /// Returns whether a channel failed to open that a new connection would open.
    fn is_replaceable(&self, error: &lapin::Error) -> bool {
        self.connection.status().connected() && !matches!(error.kind(), ErrorKind::ChannelsLimitReached)
    }

    /// Returns the result of `work`, unless the connection is lost before. lapin drops commands that are in progress at
    /// its end, and their futures would never complete.
    pub(super) async fn unless_lost<T>(&self, work: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
        tokio::select! {
            done = work => done.map_err(|error| error.to_string()),
            () = self.lost.cancelled() => Err("the connection was lost".to_owned()),
        }
    }
}

/// Returns why this broker is unusable, if its frames are too small. A job's headers may fill most of a frame, and a
/// frame that is too large ends the connection.
pub(super) fn too_small(connection: &Connection) -> Option<String> {
    let most = connection.configuration().frame_max();
    (1..FRAME_MAX).contains(&most).then(|| {
        format!("the broker's frame_max is {most}: set it to {FRAME_MAX} in rabbitmq.conf, which is RabbitMQ's default")
    })
}

/// Runs one connection; returns why it ended.
pub(super) async fn run(
    role: &'static str,
    setup: &Setup,
    up: Arc<LiveConnection>,
    state: &watch::Sender<State>,
) -> String {
    setup.metrics.connected.inc();
    let mut events = Box::pin(up.connection.events_listener());
    drop(state.send_replace(Ok(Arc::clone(&up))));
    let reason = loop {
        let event = tokio::select! {
            reason = ended_here(setup, &up) => {
                up.lost.cancel();
                close(&up).await;
                break reason;
            }
            event = events.next() => event,
            () = tokio::time::sleep(CHECK_INTERVAL) => {
                if !up.connection.status().connected() {
                    break format!("{:?}", up.connection.status());
                }
                // lapin would notice as well, up to half a heartbeat later.
                let silence = up.guard.silent_for();
                if silence > up.longest_silence {
                    break format!("no frame received for {} s, not even a heartbeat", silence.as_secs());
                }
                continue;
            }
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => set_blocked(setup, &up, Some(reason)),
            Some(Event::ConnectionUnblocked) => set_blocked(setup, &up, None),
            // lapin reports closed channels here too; their owners handle those.
            Some(Event::Error(error)) if !up.connection.status().connected() => break error.to_string(),
            Some(_) => {}
            None => break "the connection ended".to_owned(),
        }
    };
    ended(setup, &up);
    if reason != CLOSED {
        log_loss(role, setup, &reason);
    }
    reason
}

fn log_loss(role: &'static str, setup: &Setup, reason: &str) {
    let log = || tracing::warn!(role, error = reason, "lost the connection to the broker");
    if role == REPLY {
        // The reason may have a part of the forged name.
        return setup.log_throttle.log(format!("{role}: lost"), log);
    }
    setup.metrics.reconnects.inc();
    log();
}

pub(super) fn ended(setup: &Setup, up: &LiveConnection) {
    up.lost.cancel();
    setup.metrics.connected.dec();
    if up.blocked.send_replace(None).is_some() {
        setup.metrics.blocked.dec();
    }
}

/// Waits until this process ends the connection, and returns the reason.
async fn ended_here(setup: &Setup, up: &LiveConnection) -> String {
    tokio::select! {
        () = setup.closed.cancelled() => CLOSED.to_owned(),
        reason = up.retire.wait() => reason.clone(),
    }
}

async fn close(up: &LiveConnection) {
    let close = up.connection.close(200, "closed".into());
    if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, close).await, Ok(Ok(()))) {
        tracing::debug!("the connection was gone before it was closed");
    }
}

fn set_blocked(setup: &Setup, up: &LiveConnection, reason: Option<String>) {
    let before = up.blocked.send_replace(reason.clone());
    match (before, reason) {
        (None, Some(reason)) => {
            setup.metrics.blocked.inc();
            tracing::warn!(error = reason, "the broker blocks publishes");
        }
        (Some(_), None) => {
            setup.metrics.blocked.dec();
            tracing::info!("the broker accepts publishes again");
        }
        _ => {}
    }
}

/// Returns the client properties that RabbitMQ lists of a connection.
pub(super) fn properties(role: &str, address: &Address) -> ConnectionProperties {
    let (program, host, pid) = (PROGRAM.as_str(), HOST.as_str(), process::id().to_string());
    let name = || format!("{program}@{host}#{pid} {role}");
    let name = address.connection_name.clone().unwrap_or_else(name);
    let properties_of_process = [
        ("product", "Leveret"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("program", program),
        ("host", host),
        ("pid", pid.as_str()),
        ("role", role),
    ];
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    properties_of_process
        .into_iter()
        .fold(properties, |properties, (key, value)| properties.with_client_property(key.into(), value.into()))
}
