//! Matches confirms and returned messages to their publishes.
//!
//! lapin resolves the publishes of one ack frame in no particular order, and attaches returned messages to whichever
//! confirm comes next. So returned messages are recognised by their target and id, and passed to their own publish.

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{Channel, Confirmation, ErrorKind, message::BasicReturnMessage, types::ShortString};
use tokio::sync::oneshot;

use crate::{
    message::Message,
    transport::{SendError, amqp::refused::topic_in},
};

/// The answer to a caller of the publishing task.
pub(super) type Answer = Result<(), Failure>;

/// The reason why a publish failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No queue received the message, and the broker returned it.
    Returned(Box<Message>),
    Other(SendError),
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Returned(_) => Self::Returned,
            Failure::Other(error) => error,
        }
    }
}

/// The target of a publish and the message's id, by which a returned message is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishTarget {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) id: Option<ShortString>,
}

/// A message that no queue received.
#[derive(Debug)]
pub(super) struct Returned {
    target: PublishTarget,
    message: Box<Message>,
}

/// A publish that the broker has answered.
pub(super) struct Resolved {
    pub(super) target: PublishTarget,
    pub(super) size: usize,
    pub(super) verdict: Verdict,
    /// The returned message that lapin attached, which may be another publish's.
    attached: Option<Returned>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Confirmed,
    Nacked,
    Returned(Box<Message>),
    /// The channel was lost; holds the broker's text if the broker closed it.
    Lost(Option<String>),
}

impl Resolved {
    pub(super) fn new(
        target: PublishTarget,
        size: usize,
        confirmed: lapin::Result<Confirmation>,
        answer: oneshot::Sender<Answer>,
    ) -> Self {
        let (verdict, attached) = match confirmed {
            Ok(Confirmation::Ack(returned)) => (Verdict::Confirmed, returned),
            Ok(Confirmation::Nack(returned)) => (Verdict::Nacked, returned),
            Ok(Confirmation::NotRequested) => (Verdict::Lost(None), None),
            Err(error) => {
                let text = match error.kind() {
                    ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => Some(refusal.to_string()),
                    _ => None,
                };
                (Verdict::Lost(text), None)
            }
        };
        Self { target, size, verdict, attached: attached.map(Returned::from), answer }
    }

    /// Claims the attached returned message, for a channel without other publishes.
    pub(super) fn claim_attached(&mut self) {
        if let Some(returned) = self.attached.take() {
            self.verdict = Verdict::Returned(returned.message);
        }
    }

    /// Answers the caller. If the broker closed the channel because of the only publish in flight, its exchange or its
    /// size, that publish was refused.
    pub(super) fn answer(self, alone: bool) {
        let about = |text: &str| match topic_in(text) {
            // The text names the exchange too, and other topics of it are not refused.
            Some(refused) => refused == (self.target.exchange.as_str(), self.target.key.as_str()),
            None => {
                text.contains(&format!("'{}'", shown(&self.target.exchange)))
                    || text.contains(&format!("message size {} ", self.size))
            }
        };
        let answer = match self.verdict {
            Verdict::Confirmed => Ok(()),
            Verdict::Nacked => Err(SendError::Nacked.into()),
            Verdict::Returned(message) => Err(Failure::Returned(message)),
            Verdict::Lost(Some(text)) if alone || about(&text) => Err(SendError::Refused(text).into()),
            Verdict::Lost(_) => Err(SendError::Uncertain.into()),
        };
        // A caller that has gone away ignores the answer.
        drop(self.answer.send(answer));
    }
}

/// Returns the exchange's name in the broker's texts, where the default exchange has one too.
pub(super) fn shown(exchange: &ShortString) -> &str {
    if exchange.as_str().is_empty() { "amq.default" } else { exchange.as_str() }
}

impl From<BasicReturnMessage> for Returned {
    fn from(returned: BasicReturnMessage) -> Self {
        let delivery = returned.delivery;
        let id = delivery.properties.message_id().clone();
        let target = PublishTarget { exchange: delivery.exchange, key: delivery.routing_key, id };
        Self { target, message: Box::new(Message { properties: delivery.properties, body: delivery.data.into() }) }
    }
}

/// Returns the other publishes that the broker has answered by now.
///
/// lapin resolves the publishes of one ack frame in no particular order and attaches returned messages in the order
/// they came, so a returned message may be attached to another publish. It does so under a lock that
/// `wait_for_confirms` takes too. After that call, if one publish of a frame is resolved, the rest of the frame is
/// resolved as well.
pub(super) fn drain<F: Future<Output = Resolved>>(
    channel: &Channel,
    in_flight: &mut FuturesUnordered<F>,
) -> Vec<Resolved> {
    drop(channel.wait_for_confirms().now_or_never());
    std::iter::from_fn(|| in_flight.next().now_or_never().flatten()).collect()
}

/// Passes each returned message to its own publish. Returns the publishes to answer now, and those that may still get a
/// returned message from the next ack frame.
///
/// A returned message precedes the ack of its own publish, so it is kept in `unclaimed` until that publish is resolved.
pub(super) fn attribute(
    mut held: Vec<Resolved>,
    mut later: Vec<Resolved>,
    unclaimed: &mut Vec<Returned>,
) -> (Vec<Resolved>, Vec<Resolved>) {
    let mut all: Vec<&mut Resolved> = held.iter_mut().chain(later.iter_mut()).collect();
    unclaimed.extend(all.iter_mut().filter_map(|resolved| resolved.attached.take()));
    for returned in std::mem::take(unclaimed) {
        let is_owner =
            |other: &Resolved| matches!(other.verdict, Verdict::Confirmed) && other.target == returned.target;
        match all.iter_mut().find(|other| is_owner(other)) {
            Some(owner) => owner.verdict = Verdict::Returned(returned.message),
            None => unclaimed.push(returned),
        }
    }
    (held, later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(id: &str, attached: Option<&str>) -> (Resolved, oneshot::Receiver<Answer>) {
        let target = |id: &str| PublishTarget { exchange: "e".into(), key: "k".into(), id: Some(id.into()) };
        let (answer, answered) = oneshot::channel();
        let verdict = Verdict::Confirmed;
        let returned =
            |id| Returned { target: target(id), message: Box::new(Message::new("j", &id.into(), vec![], 0)) };
        (Resolved { target: target(id), size: 0, verdict, attached: attached.map(returned), answer }, answered)
    }

    /// Returns the id of the message that was returned to a caller; `None` after a confirm.
    fn returned_id(mut answered: oneshot::Receiver<Answer>) -> Option<String> {
        match answered.try_recv().unwrap() {
            Ok(()) => None,
            Err(Failure::Returned(message)) => Some(message.id().unwrap().to_owned()),
            Err(Failure::Other(error)) => panic!("{error:?}"),
        }
    }

    #[test]
    fn a_returned_message_reaches_its_own_publish_wherever_lapin_attached_it() {
        for (first, second) in [(Some("b"), None), (None, Some("b"))] {
            let (a, a_answer) = resolved("a", first);
            let (b, b_answer) = resolved("b", second);
            let (now, later) = attribute(vec![a], vec![b], &mut Vec::new());
            now.into_iter().chain(later).for_each(|resolved| resolved.answer(false));
            assert_eq!((returned_id(a_answer), returned_id(b_answer).as_deref()), (None, Some("b")));
        }
    }

    #[test]
    fn of_the_publishes_that_a_refused_topic_takes_along_only_its_own_is_refused() {
        let text =
            "ACCESS_REFUSED - write access to topic 'bad' in exchange topic 'e' in vhost '/' refused for user 'u'";
        let answer_to = |key: &str| {
            let (mut resolved, mut answered) = resolved("a", None);
            resolved.target.key = key.into();
            resolved.verdict = Verdict::Lost(Some(text.to_owned()));
            resolved.answer(false);
            answered.try_recv().unwrap()
        };
        assert!(matches!(answer_to("bad"), Err(Failure::Other(SendError::Refused(_)))));
        assert!(matches!(answer_to("good"), Err(Failure::Other(SendError::Uncertain))));
    }

    #[test]
    fn a_returned_message_waits_for_its_own_publish_to_be_resolved() {
        let mut unclaimed = Vec::new();
        let (carrier, carried) = resolved("a", Some("b"));
        attribute(vec![carrier], Vec::new(), &mut unclaimed).0.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!(returned_id(carried), None);
        let (owner, owned) = resolved("b", None);
        attribute(vec![owner], Vec::new(), &mut unclaimed).0.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!((returned_id(owned).as_deref(), unclaimed.len()), (Some("b"), 0));
    }

    #[test]
    fn two_publishes_of_one_id_share_their_returned_messages() {
        let (one, first) = resolved("a", Some("a"));
        let (two, second) = resolved("a", Some("a"));
        let (now, _) = attribute(vec![one, two], Vec::new(), &mut Vec::new());
        now.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!((returned_id(first).as_deref(), returned_id(second).as_deref()), (Some("a"), Some("a")));
    }
}
