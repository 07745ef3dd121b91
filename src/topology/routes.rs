//! The exchange and routing key of each publish target.

use lapin::types::ShortString;

use crate::topology::{Stream, Target, Topology, entry_of, schedule_key};
use crate::{
    message::short,
    topology::delay::{self, DelayEntry, Wait},
};

/// The entry exchanges of a namespace, as publishes name them.
#[derive(Debug)]
pub(crate) struct Routes {
    jobs: ShortString,
    dead: ShortString,
    status: ShortString,
    /// The default exchange, which routes to queues by their names.
    default: ShortString,
    topics: ShortString,
    workflows: ShortString,
    catalogue: ShortString,
    cancelled: ShortString,
    /// For each level, the exchange that starts a chain there and the exchange of its fast path.
    levels: Vec<(ShortString, ShortString)>,
}

impl Routes {
    pub(crate) fn new(topology: &Topology) -> Self {
        let levels = topology.levels().map(|name| (short(&name), short(&entry_of(&name)))).collect();
        Self {
            jobs: short(&topology.jobs()),
            dead: short(&topology.dead()),
            status: short(&topology.status_exchange()),
            default: ShortString::default(),
            topics: short(&topology.topics()),
            workflows: short(&topology.workflows()),
            catalogue: short(&topology.stream(Stream::Catalogue)),
            cancelled: short(&topology.stream(Stream::Cancelled)),
            levels,
        }
    }

    /// Returns the exchange and routing key that lead to `target`.
    pub(crate) fn to(&self, target: &Target) -> (ShortString, ShortString) {
        let (exchange, key) = match target {
            Target::Queue(queue) | Target::Delayed(queue, Wait::None) => (&self.jobs, short(queue)),
            Target::Workflows => (&self.jobs, self.workflows.clone()),
            Target::Dead(queue) => (&self.dead, short(queue)),
            Target::StatusUpdate(step, queue) => {
                (&self.status, short(&format!("job.{step}.{}", delay::topic_word(queue))))
            }
            Target::Reply(queue) | Target::DirectReply(queue) => (&self.default, short(queue)),
            Target::Stream(Stream::Catalogue) => (&self.catalogue, ShortString::default()),
            Target::Stream(Stream::Cancelled) => (&self.cancelled, ShortString::default()),
            Target::Stream(Stream::EventLog) => (&self.topics, ShortString::default()),
            Target::Stream(Stream::Schedules) => (&self.status, short("schedule.token")),
            Target::Topic(topic) => (&self.topics, short(topic)),
            Target::Schedule(kind, schedule) => (&self.status, short(&schedule_key(kind, schedule))),
            Target::Delayed(queue, Wait::Units(units)) => match delay::entry(*units, queue) {
                DelayEntry::Fast { level, key } => (&self.levels[usize::from(level)].1, short(&key)),
                DelayEntry::Chain { level, key } => (&self.levels[usize::from(level)].0, short(&key)),
            },
        };
        (exchange.clone(), key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_route() {
        let routes = Routes::new(&Topology::new("leveret.v1"));
        let route = |target| routes.to(&target);
        let pair = |exchange: &str, key: &str| (exchange.into(), key.into());
        assert_eq!(route(Target::Queue("email".into())), pair("leveret.v1.jobs", "email"));
        assert_eq!(route(Target::Workflows), pair("leveret.v1.jobs", "leveret.v1.workflows"));
        assert_eq!(route(Target::Dead("email".into())), pair("leveret.v1.dead", "email"));
        let fast = route(Target::after("a.b", Wait::Units(16)));
        assert_eq!(fast, pair("leveret.v1.delay.04.in", "due.a%2Eb"));
        assert_eq!(route(Target::after("email", Wait::Units(17))).0.as_str(), "leveret.v1.delay.04");
        assert_eq!(route(Target::StatusUpdate("dead", "a.b".into())), pair("leveret.v1.events", "job.dead.a%2Eb"));
        assert_eq!(route(Target::Topic("order.placed".into())), pair("leveret.v1.topics", "order.placed"));
        assert_eq!(route(Target::Stream(Stream::Cancelled)), pair("leveret.v1.cancelled", ""));
        assert_eq!(Target::after("email", Wait::None), Target::Queue("email".into()));
    }
}
