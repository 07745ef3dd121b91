//! Publishing: one task owns the channel, so that confirms are matched to publishes without a lock, and no caller that
//! goes away takes another's confirm with it.
//!
//! Whole publish-and-confirm futures are in flight, up to the window; a publish is never awaited by itself. While the
//! broker is blocked or away the task takes nothing, so that the wait is the caller's and memory stays bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Setup,
    connection::{Link, Up},
    declare,
};
use crate::{
    broker::{OpenError, SendError},
    message::{Message, short},
    topology::Target,
};

/// Bodies in flight may hold so much memory, whatever the window; one more than that may be sent.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// Requests that wait for room in the window.
const QUEUED_REQUESTS: usize = 64;
const REOPEN_DELAY: Duration = Duration::from_millis(200);

type Answer = Result<(), SendError>;

/// The handle on the publishing task, which starts with the first publish.
pub(super) struct PublishTask {
    link: Arc<Link>,
    setup: Arc<Setup>,
    requests: OnceCell<mpsc::Sender<Request>>,
    /// No more requests are taken; those that were are finished.
    finishing: CancellationToken,
    finished: CancellationToken,
}

struct Request {
    target: Target,
    message: Message,
    fate: Arc<Fate>,
    answer: oneshot::Sender<Answer>,
}

/// Whether a request has been sent, agreed on by its caller and the task.
struct Fate(AtomicU8);

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

impl Fate {
    /// Leaves the queued state for `to`; false if the other side was faster.
    fn decide(&self, to: u8) -> bool {
        self.0.compare_exchange(QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }
}

impl PublishTask {
    pub(super) fn new(link: Link, setup: Arc<Setup>) -> Self {
        let (finishing, finished) = (CancellationToken::new(), CancellationToken::new());
        Self { link: Arc::new(link), setup, requests: OnceCell::new(), finishing, finished }
    }

    pub(super) async fn send(&self, target: Target, message: Message, fail_fast: bool) -> Answer {
        if self.finishing.is_cancelled() {
            return Err(SendError::Closed);
        }
        if fail_fast && let Some(obstacle) = self.obstacle().await {
            return Err(obstacle);
        }
        let fate = Arc::new(Fate(AtomicU8::new(QUEUED)));
        let (answer, answered) = oneshot::channel();
        let request = Request { target, message, fate: Arc::clone(&fate), answer };
        let exchange = async {
            self.requests().await.send(request).await.map_err(|_| SendError::Closed)?;
            // The task drops an answer with its channel: what was sent by then is uncertain.
            answered
                .await
                .unwrap_or_else(|_| Err(if fate.is_sent() { SendError::Uncertain } else { SendError::Closed }))
        };
        match tokio::time::timeout(self.setup.config.publish_timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) if fate.decide(ABANDONED) => {
                let slow = || SendError::Unavailable("the broker is too slow".to_owned());
                Err(self.obstacle().await.unwrap_or_else(slow))
            }
            Err(_) => Err(SendError::Uncertain),
        }
    }

    /// What keeps a publish from being sent now.
    async fn obstacle(&self) -> Option<SendError> {
        match tokio::time::timeout(self.setup.config.publish_timeout, self.link.first_state()).await {
            Ok(Ok(up)) => up.blocked.borrow().clone().map(SendError::Blocked),
            Ok(Err(reason)) => Some(SendError::Unavailable(reason)),
            Err(_) => Some(SendError::Unavailable("the first connection takes too long".to_owned())),
        }
    }

    async fn requests(&self) -> &mpsc::Sender<Request> {
        let start = async || {
            let (sender, receiver) = mpsc::channel(QUEUED_REQUESTS);
            let task = Task {
                link: Arc::clone(&self.link),
                setup: Arc::clone(&self.setup),
                requests: receiver,
                finishing: self.finishing.clone(),
            };
            let finished = self.finished.clone().drop_guard();
            tokio::spawn(async move {
                task.run().await;
                drop(finished);
            });
            sender
        };
        self.requests.get_or_init(start).await
    }

    /// Takes no more and waits for what was taken, at most the publish timeout.
    pub(super) async fn finish(&self) {
        self.finishing.cancel();
        if self.requests.initialized() {
            let timeout = self.setup.config.publish_timeout;
            if tokio::time::timeout(timeout, self.finished.cancelled()).await.is_err() {
                tracing::warn!("closing with publishes that are not confirmed");
            }
        }
    }

    pub(super) async fn closed(&self) {
        self.link.closed().await;
    }
}

struct Task {
    link: Arc<Link>,
    setup: Arc<Setup>,
    requests: mpsc::Receiver<Request>,
    finishing: CancellationToken,
}

/// Why a channel is no longer published on.
enum Exit {
    /// The channel or its connection is gone.
    Lost,
    /// Everything is published that ever will be.
    Finished,
}

impl Task {
    async fn run(mut self) {
        loop {
            let up = tokio::select! {
                up = self.link.up() => up,
                // What was not sent by now is told so by the drop of its answer.
                () = self.finishing.cancelled() => return,
            };
            let Ok(up) = up else { return };
            match open(&up, &self.setup).await {
                Ok(channel) => {
                    if matches!(self.publish_on(&up, &channel).await, Exit::Finished) {
                        return;
                    }
                    // An exchange may have gone missing.
                    *up.shared_topology.lock().await = false;
                }
                Err(reason) => {
                    tracing::warn!(reason, "cannot publish yet");
                    tokio::time::sleep(REOPEN_DELAY).await;
                }
            }
        }
    }

    /// Publishes on one channel until it is lost.
    async fn publish_on(&mut self, up: &Up, channel: &Channel) -> Exit {
        let mut blocked = up.blocked.subscribe();
        let mut in_flight = FuturesUnordered::new();
        let mut unclaimed = Vec::new();
        let (mut bytes, mut ended) = (0, false);
        loop {
            if ended && in_flight.is_empty() {
                return Exit::Finished;
            }
            let is_blocked = blocked.borrow_and_update().is_some();
            let room = in_flight.len() < usize::from(self.setup.config.publish_window) && bytes < WINDOW_BYTES;
            let event = tokio::select! {
                biased;
                Some(resolved) = in_flight.next() => Event::Resolved(resolved),
                () = up.lost.cancelled() => return Exit::Lost,
                _ = blocked.changed() => continue,
                () = self.finishing.cancelled(), if !self.requests.is_closed() => Event::Finish,
                request = self.requests.recv(), if room && !is_blocked && !ended => Event::Request(request),
            };
            match event {
                Event::Request(Some(request)) if request.answer.is_closed() || !request.fate.decide(SENT) => {}
                Event::Request(Some(request)) => {
                    bytes += request.message.body.len();
                    in_flight.push(self.publish(channel, request));
                }
                Event::Request(None) => ended = true,
                Event::Finish => {
                    self.requests.close();
                    ended |= is_blocked;
                }
                Event::Resolved(first) => match answer_all(channel, first, &mut in_flight, &mut unclaimed) {
                    Ok(answered) => bytes -= answered,
                    Err(ChannelLost) => return Exit::Lost,
                },
            }
        }
    }

    fn publish(&self, channel: &Channel, request: Request) -> impl Future<Output = Resolved> + use<> {
        let (exchange, key) = self.setup.topology.route(&request.target);
        let (exchange, key) = (short(&exchange), short(&key));
        let id = request.message.properties.message_id().clone();
        let channel = channel.clone();
        async move {
            let Message { properties, body } = request.message;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let publish = channel.basic_publish(exchange.clone(), key.clone(), options, &body, properties);
            let confirmed = match publish.await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Resolved::new(Place { exchange, key, id }, body.len(), confirmed, request.answer)
        }
    }
}

enum Event {
    Request(Option<Request>),
    Resolved(Resolved),
    Finish,
}

async fn open(up: &Up, setup: &Setup) -> Result<Channel, String> {
    declare::ensure_shared(up, setup).await.map_err(|error| match error {
        OpenError::Fatal(error) => error.to_string(),
        OpenError::Passing(reason) => reason,
    })?;
    let channel = up.unless_lost(up.connection.create_channel()).await?;
    up.unless_lost(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

/// The broker or the network ended the channel.
struct ChannelLost;

/// Answers `first` and whatever else the broker has answered by now; returns the size of their bodies.
fn answer_all<F: Future<Output = Resolved>>(
    channel: &Channel,
    first: Resolved,
    in_flight: &mut FuturesUnordered<F>,
    unclaimed: &mut Vec<Place>,
) -> Result<usize, ChannelLost> {
    let alone = in_flight.is_empty();
    let (mut bytes, mut lost) = (0, false);
    let mut held = vec![first];
    while !held.is_empty() {
        let (now, later) = attribute(held, drain(channel, in_flight), unclaimed);
        for resolved in now {
            bytes += resolved.size;
            lost |= matches!(resolved.verdict, Verdict::Lost(_));
            resolved.answer(alone);
        }
        held = later;
    }
    if lost { Err(ChannelLost) } else { Ok(bytes) }
}

/// Where a message was published to and its id: what a returned message is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    exchange: ShortString,
    key: ShortString,
    id: Option<ShortString>,
}

/// A publish that the broker has answered.
struct Resolved {
    place: Place,
    size: usize,
    verdict: Verdict,
    /// The returned message that lapin attached, which may be another publish's.
    attached: Option<Place>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Confirmed,
    Nacked,
    Returned,
    /// The channel was lost, in the broker's words if it closed it.
    Lost(Option<String>),
}

impl Resolved {
    fn new(place: Place, size: usize, confirmed: lapin::Result<Confirmation>, answer: oneshot::Sender<Answer>) -> Self {
        let (verdict, attached) = match confirmed {
            Ok(Confirmation::Ack(returned)) => (Verdict::Confirmed, returned),
            Ok(Confirmation::Nack(returned)) => (Verdict::Nacked, returned),
            Ok(Confirmation::NotRequested) => (Verdict::Lost(None), None),
            Err(error) => {
                let words = match error.kind() {
                    ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => Some(refusal.to_string()),
                    _ => None,
                };
                tracing::warn!(%error, "the publishing channel was lost with publishes in flight");
                (Verdict::Lost(words), None)
            }
        };
        Self { place, size, verdict, attached: attached.map(place_of), answer }
    }

    /// Tells the caller. A channel that the broker closed over the only publish in flight, or over its exchange, refused
    /// that one.
    fn answer(self, alone: bool) {
        let answer = match self.verdict {
            Verdict::Confirmed => Ok(()),
            Verdict::Nacked => Err(SendError::Nacked),
            Verdict::Returned => Err(SendError::Returned),
            Verdict::Lost(Some(words)) if alone || words.contains(&format!("'{}'", self.place.exchange)) => {
                Err(SendError::Refused(words))
            }
            Verdict::Lost(_) => Err(SendError::Uncertain),
        };
        // A caller that has gone away wants no answer.
        drop(self.answer.send(answer));
    }
}

fn place_of(returned: BasicReturnMessage) -> Place {
    let delivery = returned.delivery;
    let id = delivery.properties.message_id().clone();
    Place { exchange: delivery.exchange, key: delivery.routing_key, id }
}

/// What else the broker has answered by now.
///
/// lapin resolves the publishes of one ack frame in no particular order and attaches returned messages in the order
/// they came, so a returned message may sit at a neighbour. It does so under a lock that `wait_for_confirms` takes too:
/// after that call, the rest of a frame of which one publish is resolved is resolved as well.
fn drain<F: Future<Output = Resolved>>(channel: &Channel, in_flight: &mut FuturesUnordered<F>) -> Vec<Resolved> {
    drop(channel.wait_for_confirms().now_or_never());
    std::iter::from_fn(|| in_flight.next().now_or_never().flatten()).collect()
}

/// Gives each returned message to the publish it belongs to, and returns what can be answered now and what may still
/// get a returned message from the next ack frame.
///
/// A returned message comes before its own publish's ack, so one whose owner is not yet resolved is kept in `unclaimed`.
fn attribute(
    mut held: Vec<Resolved>,
    mut later: Vec<Resolved>,
    unclaimed: &mut Vec<Place>,
) -> (Vec<Resolved>, Vec<Resolved>) {
    let mut all: Vec<&mut Resolved> = held.iter_mut().chain(later.iter_mut()).collect();
    unclaimed.extend(all.iter_mut().filter_map(|carrier| carrier.attached.take()));
    unclaimed.retain(|place| {
        let owner = all.iter_mut().find(|other| other.verdict == Verdict::Confirmed && other.place == *place);
        match owner {
            Some(owner) => {
                owner.verdict = Verdict::Returned;
                false
            }
            None => true,
        }
    });
    (held, later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(id: &str, attached: Option<&str>) -> (Resolved, oneshot::Receiver<Answer>) {
        let place = |id: &str| Place { exchange: "e".into(), key: "k".into(), id: Some(id.into()) };
        let (answer, answered) = oneshot::channel();
        let verdict = Verdict::Confirmed;
        (Resolved { place: place(id), size: 0, verdict, attached: attached.map(place), answer }, answered)
    }

    #[test]
    fn a_returned_message_reaches_its_own_publish_wherever_lapin_attached_it() {
        for (first, second) in [(Some("b"), None), (None, Some("b"))] {
            let (a, mut a_answer) = resolved("a", first);
            let (b, mut b_answer) = resolved("b", second);
            let (now, later) = attribute(vec![a], vec![b], &mut Vec::new());
            now.into_iter().chain(later).for_each(|resolved| resolved.answer(false));
            assert_eq!(a_answer.try_recv(), Ok(Ok(())));
            assert_eq!(b_answer.try_recv(), Ok(Err(SendError::Returned)));
        }
    }

    #[test]
    fn a_returned_message_waits_for_its_own_publish_to_be_resolved() {
        let mut unclaimed = Vec::new();
        let (carrier, mut carried) = resolved("a", Some("b"));
        attribute(vec![carrier], Vec::new(), &mut unclaimed).0.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!(carried.try_recv(), Ok(Ok(())));
        let (owner, mut owned) = resolved("b", None);
        attribute(vec![owner], Vec::new(), &mut unclaimed).0.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!((owned.try_recv(), unclaimed), (Ok(Err(SendError::Returned)), Vec::new()));
    }

    #[test]
    fn two_publishes_of_one_id_share_their_returned_messages() {
        let (one, mut first) = resolved("a", Some("a"));
        let (two, mut second) = resolved("a", Some("a"));
        let (now, _) = attribute(vec![one, two], Vec::new(), &mut Vec::new());
        now.into_iter().for_each(|resolved| resolved.answer(false));
        assert_eq!(first.try_recv(), Ok(Err(SendError::Returned)));
        assert_eq!(second.try_recv(), Ok(Err(SendError::Returned)));
    }
}
