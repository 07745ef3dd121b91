//! Requests: the replies that a process waits for, and the reasons why there is none.

pub(crate) mod error;
pub(crate) mod replies;
