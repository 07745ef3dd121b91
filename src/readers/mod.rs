//! Readers of whole queues and streams, message by message, for tools and for workers that announce their jobs.

pub mod catalogue;
pub mod event_log;
pub mod reader;
