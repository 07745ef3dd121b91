//! The objects of a schedule: its queue, and the stream that all schedules share.

use crate::topology::{
    Argument, Destination, Plan, QueuePlan, Stream, Topology,
    arguments::{kept_arguments, stream_arguments},
    schedule_key,
};

/// Size of the kept history: about fifty thousand tokens.
const STREAM_BYTES: i64 = 16 * 1024 * 1024;

impl Topology {
    /// Returns the queue that holds the token of a schedule. The one worker that consumes it leads; the others stand
    /// by.
    #[must_use]
    pub fn schedule(&self, schedule: &str) -> String {
        format!("{}.schedule.{schedule}", self.namespace)
    }

    /// Returns the stream of the tokens of all schedules.
    #[must_use]
    pub fn schedules(&self) -> String {
        self.stream(Stream::Schedules)
    }

    /// Returns the objects of a schedule, with the stream that it shares with others.
    #[must_use]
    pub fn of_schedule(&self, schedule: &str) -> Plan {
        let (name, stream) = (self.schedule(schedule), self.schedules());
        let mut plan = Plan::default();
        let mut kept = stream_arguments(Stream::Schedules);
        kept.push(("x-max-length-bytes", Argument::Integer(STREAM_BYTES)));
        plan.queue(&stream, kept);
        let mut arguments = kept_arguments();
        arguments.push(("x-single-active-consumer", Argument::Flag(true)));
        plan.queues.push(QueuePlan { name: name.clone(), adopted: false, exclusive: false, arguments });
        plan.bind(&self.status_exchange(), "schedule.token.#", Destination::Queue(stream));
        plan.bind(&self.status_exchange(), &schedule_key("*", schedule), Destination::Queue(name));
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::arguments::text;

    #[test]
    fn a_token_goes_to_its_queue_and_to_the_stream_that_all_share() {
        let plan = Topology::new("ns").of_schedule("a.b");
        let shown: Vec<_> = plan.bindings.iter().map(ToString::to_string).collect();
        let token = "ns.events -[schedule.token.#]-> queue ns.schedules";
        assert_eq!(shown, [token, "ns.events -[schedule.*.a%2Eb]-> queue ns.schedule.a.b"]);
        let queue = plan.queues.iter().find(|queue| queue.name == "ns.schedule.a.b").unwrap();
        assert_eq!(queue.argument("x-single-active-consumer"), Some(&Argument::Flag(true)));
        assert_eq!(queue.argument("x-delivery-limit"), Some(&Argument::Integer(1_000_000)));
        let stream = plan.queues.iter().find(|queue| queue.name == "ns.schedules").unwrap();
        assert_eq!(stream.argument("x-queue-type"), Some(&text("stream")));
    }
}
