//! The lanes of a job queue: each is a queue of its own on the broker, and they share one dead-letter queue.

use crate::{
    message::Message,
    topology::{HIGH, LOW, QueueDeclaration, SUSPECT},
};

/// The priority of a job without one, as in RabbitMQ.
const NORMAL: u8 = 4;

/// The part of a job queue that a consumer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    /// Jobs of high priority, if the queue has [`lanes`](crate::Queue::lanes).
    High,
    /// Jobs of low priority, if the queue has lanes.
    Low,
    /// The suspect queue: jobs that may have crashed a process, one at a time.
    Suspect,
}

impl Lane {
    /// Returns the name of the broker's queue behind this lane of the queue `name`.
    pub(crate) fn of(self, name: &str) -> String {
        match self {
            Self::Main => name.to_owned(),
            Self::High => format!("{name}{HIGH}"),
            Self::Low => format!("{name}{LOW}"),
            Self::Suspect => format!("{name}{SUSPECT}"),
        }
    }

    /// Returns the name of the broker's queue behind this lane of `queue`.
    pub(crate) fn queue_name(self, queue: &QueueDeclaration) -> String {
        self.of(queue.name())
    }

    /// Returns the lane for a job of this priority, on a queue with lanes.
    pub(crate) fn for_priority(priority: Option<u8>) -> Self {
        match priority.unwrap_or(NORMAL) {
            ..NORMAL => Self::Low,
            NORMAL => Self::Main,
            _ => Self::High,
        }
    }

    /// Returns the lane to which a job of this lane is delivered after a delay.
    pub(crate) fn back(self, queue: &QueueDeclaration, message: &Message) -> Self {
        match self {
            Self::Suspect if queue.has_lanes() => Self::for_priority(*message.properties.priority()),
            Self::Suspect => Self::Main,
            own => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Argument, Topology};

    #[test]
    fn priority_five_and_above_is_high_below_four_is_low_and_none_is_normal() {
        let lanes = [None, Some(0), Some(3), Some(4), Some(5), Some(255)].map(Lane::for_priority);
        assert_eq!(lanes, [Lane::Main, Lane::Low, Lane::Low, Lane::Main, Lane::High, Lane::High]);
    }

    #[test]
    fn lanes_share_a_dead_letter_queue() {
        let plan = Topology::new("ns").of_queue(&QueueDeclaration::new("email").lanes());
        let names: Vec<_> = plan.queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["email.dead", "email.suspect", "email", "email.high", "email.low"]);
        for lane in &plan.queues[1..] {
            assert_eq!(lane.argument("x-dead-letter-routing-key"), Some(&Argument::Text("email".into())));
        }
        let due = |word: &str| plan.bindings.iter().any(|binding| binding.source == "ns.due" && binding.key == word);
        assert!(due("#.email") && due("#.email%2Ehigh") && due("#.email%2Elow"));
    }
}
