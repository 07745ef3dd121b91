//! Background tasks of a worker, beside its consumers.

use std::any::Any;

use futures_util::future::BoxFuture;

use crate::{error::Error, publish::publisher::Publisher, shutdown::Stop};

/// An extension of a worker, such as its schedules.
pub(crate) trait Background: Any + Send {
    /// Checks the setup and returns the tasks to run. `publisher` is the worker's own.
    fn start(self: Box<Self>, publisher: &Publisher, stop: &Stop) -> Result<Tasks, Error>;
}

/// The tasks of one [`Background`].
pub(crate) struct Tasks {
    /// The worker waits for these when it drains.
    pub(crate) awaited: Vec<BoxFuture<'static, Result<(), Error>>>,
    /// The worker drops these when it ends.
    pub(crate) dropped: Vec<BoxFuture<'static, ()>>,
}
