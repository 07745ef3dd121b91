//! The waiting messages of a queue in memory.

use std::collections::{BTreeMap, VecDeque};

use crate::message::Message;

/// Waiting messages by priority, the highest first. Messages without a priority have 4, as in RabbitMQ from 4.3 on.
#[derive(Default)]
pub(super) struct Ready(BTreeMap<u8, VecDeque<Waiting>>);

impl Ready {
    const NONE: u8 = 4;

    fn lane(&mut self, waiting: &Waiting) -> &mut VecDeque<Waiting> {
        self.0.entry(waiting.message.properties.priority().unwrap_or(Self::NONE)).or_default()
    }

    pub(super) fn push_back(&mut self, waiting: Waiting) {
        self.lane(&waiting).push_back(waiting);
    }

    pub(super) fn push_front(&mut self, waiting: Waiting) {
        self.lane(&waiting).push_front(waiting);
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        self.0.values_mut().rev().find_map(VecDeque::pop_front)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(VecDeque::is_empty)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(VecDeque::len).sum()
    }
}

pub(super) struct Waiting {
    pub(super) message: Message,
    pub(super) delivery_count: u64,
    pub(super) redelivered: bool,
}
