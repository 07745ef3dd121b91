//! The elements of a plan: exchanges, queues and bindings in AMQP's terms, independent of a client library.

use std::fmt;

/// The routing of an exchange, as AMQP defines it.
///
/// ```
/// # use leveret::topology::ExchangeKind;
/// assert_eq!(ExchangeKind::Topic.as_str(), "topic");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By the whole routing key.
    Direct,
    /// To everything that is bound.
    Fanout,
    /// By the words of the routing key.
    Topic,
}

impl ExchangeKind {
    /// Returns the kind's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
        }
    }
}

/// A durable exchange that is never deleted automatically.
///
/// ```
/// # use leveret::topology::Topology;
/// let plan = Topology::new("leveret.v1").shared();
/// let due = plan.exchanges.iter().find(|exchange| exchange.name == "leveret.v1.due");
/// assert_eq!(due.unwrap().alternate.as_deref(), Some("leveret.v1.unrouted"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Its kind of routing.
    pub kind: ExchangeKind,
    /// The value of `alternate-exchange`, its only argument.
    pub alternate: Option<String>,
}

/// A durable queue that is never deleted automatically.
///
/// ```
/// # use leveret::topology::{Argument, QueueDeclaration, Topology};
/// let plan = Topology::new("leveret.v1").of_queue(&QueueDeclaration::new("email"));
/// let quorum = ("x-queue-type", Argument::Text("quorum".into()));
/// assert!(plan.queues.iter().all(|queue| queue.arguments.contains(&quorum)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// True if the queue is only checked, not declared: its user owns its arguments
    /// ([`Queue::existing`](crate::Queue::existing)).
    pub adopted: bool,
    /// True if the queue belongs to one connection and ends with it.
    pub exclusive: bool,
    /// The arguments of its declaration.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl QueuePlan {
    /// Returns the value of an argument, if the declaration has it.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&Argument> {
        self.arguments.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// The value of a queue's argument. Its text form has no quotes.
///
/// ```
/// # use leveret::topology::Argument;
/// assert_eq!(Argument::Text("quorum".into()).to_string(), "quorum");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A number of any width.
    Integer(i64),
    /// A boolean.
    Flag(bool),
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Flag(value) => value.fmt(f),
        }
    }
}

/// The destination of a binding.
///
/// ```
/// # use leveret::topology::Destination;
/// assert_eq!(Destination::Queue("email".into()).to_string(), "queue email");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The queue of that name.
    Queue(String),
    /// The exchange of that name.
    Exchange(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Exchange(name) => write!(f, "exchange {name}"),
        }
    }
}

/// A binding without arguments.
///
/// ```
/// # use leveret::topology::{QueueDeclaration, Topology};
/// let plan = Topology::new("leveret.v1").of_queue(&QueueDeclaration::new("email"));
/// let shown: Vec<_> = plan.bindings.iter().map(|binding| binding.to_string()).collect();
/// assert!(shown.contains(&"leveret.v1.jobs -[email]-> queue email".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Binding {
    /// The exchange.
    pub source: String,
    /// The routing key, or the pattern for it.
    pub key: String,
    /// The destination.
    pub destination: Destination,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -[{}]-> {}", self.source, self.key, self.destination)
    }
}

/// The declarations, in this order: exchanges, queues, bindings.
///
/// [`topology`](super) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// The queues.
    pub queues: Vec<QueuePlan>,
    /// The bindings between them.
    pub bindings: Vec<Binding>,
}

impl Plan {
    /// Appends the declarations of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.exchanges.append(&mut other.exchanges);
        self.queues.append(&mut other.queues);
        self.bindings.append(&mut other.bindings);
    }

    pub(super) fn exchange(&mut self, name: &str, kind: ExchangeKind, alternate: Option<&str>) {
        self.exchanges.push(Exchange { name: name.to_owned(), kind, alternate: alternate.map(str::to_owned) });
    }

    pub(super) fn queue(&mut self, name: &str, arguments: Vec<(&'static str, Argument)>) {
        self.queues.push(QueuePlan { name: name.to_owned(), adopted: false, exclusive: false, arguments });
    }

    pub(super) fn bind(&mut self, source: &str, key: &str, destination: Destination) {
        self.bindings.push(Binding { source: source.to_owned(), key: key.to_owned(), destination });
    }
}
