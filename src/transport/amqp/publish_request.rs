//! One publish, from its caller's request to the broker's answer.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use futures_util::FutureExt;
use lapin::{
    Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::sync::oneshot;

use crate::transport::amqp::{
    confirm::{Answer, PublishTarget, Resolved},
    connection::LiveConnection,
    in_flight::InFlight,
};
use crate::{message::Message, transport::SendError};

pub(super) struct PublishRequest {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) message: Box<Message>,
    /// True if a message that no queue receives is an error.
    pub(super) mandatory: bool,
    pub(super) fate: Arc<Fate>,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl PublishRequest {
    /// Returns whether to send it; its caller may have gone away.
    pub(super) fn is_wanted(&self) -> bool {
        !self.answer.is_closed() && self.fate.decide(SENT)
    }

    /// Answers without sending.
    pub(super) fn answer(self, error: SendError) {
        // A caller that has gone away ignores the answer.
        drop(self.answer.send(Err(error.into())));
    }
}

/// The fate of a request, sent or not, as agreed between its caller and the task.
#[derive(Default)]
pub(super) struct Fate(AtomicU8);

/// The default: the request waits to be sent.
const QUEUED: u8 = 0;
pub(super) const SENT: u8 = 1;
pub(super) const ABANDONED: u8 = 2;

impl Fate {
    /// Leaves the queued state for `to`; false if the other side was faster.
    pub(super) fn decide(&self, to: u8) -> bool {
        self.0.compare_exchange(QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }
}

/// Sends a request, unless its caller has gone away.
pub(super) fn send<F: Future<Output = Resolved>>(
    in_flight: &mut InFlight<F>,
    request: PublishRequest,
    publish: impl FnOnce(PublishRequest) -> F,
) {
    if request.is_wanted() {
        in_flight.push(request.message.body.len(), publish(request));
    }
}

pub(super) async fn publish(channel: &Channel, request: PublishRequest) -> Resolved {
    let PublishRequest { exchange, key, mut message, mandatory, answer, .. } = request;
    let id = message.properties.message_id().clone();
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let properties = mem::take(&mut message.properties);
    let confirmed = match channel.basic_publish(exchange.clone(), key.clone(), options, &message.body, properties).await
    {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Resolved::new(PublishTarget { exchange, key, id }, message.body.len(), confirmed, answer)
}

/// Publishes on a channel of its own, because the broker may close it.
pub(super) async fn publish_alone(up: Arc<LiveConnection>, request: PublishRequest) -> Option<Resolved> {
    match confirming(&up).await {
        Ok(channel) if request.is_wanted() => {
            let mut resolved = publish(&channel, request).await;
            resolved.claim_attached();
            drop(channel.close(200, "done".into()).now_or_never());
            Some(resolved)
        }
        Ok(_) => None,
        Err(reason) => {
            request.answer(SendError::Unavailable(reason));
            None
        }
    }
}

/// Opens a channel with publisher confirms.
pub(super) async fn confirming(up: &LiveConnection) -> Result<Channel, String> {
    let channel = up.channel().await?;
    up.unless_lost(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}
