//! One publish: a job and its publisher, to be awaited.

use std::{
    future::IntoFuture,
    pin::Pin,
    time::{Duration, SystemTime},
};

use crate::publish::{
    header_value::HeaderValue, new_job::NewJob, publisher::Publisher, unique::IfTaken, with_result::PublishWithResult,
};
use crate::{error::PublishError, job::JobId};
#[cfg(any(test, feature = "internals"))]
use crate::{message::Message, topology::Target};

/// One publish of a [`NewJob`]. Its setters are those of the job. Awaiting it sends the job and waits for the confirm.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// # async fn doc(publisher: leveret::Publisher, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// publisher.publish(&job).at(SystemTime::now() + Duration::from_secs(60)).expires(Duration::from_secs(3600)).await?;
/// publisher.publish(&job).id("order-17").header("tenant", "acme").queue("email-bulk").await?;
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// If it is dropped before it completes, the job may or may not be published.
#[derive(Debug)]
#[must_use = "a job is published when this is awaited"]
pub struct Publish {
    pub(super) publisher: Publisher,
    pub(super) new: NewJob,
}

/// Defines setters of [`Publish`] as those of [`NewJob`].
macro_rules! setters {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        impl Publish {$(
            #[doc = concat!("See [`NewJob::", stringify!($name), "`](NewJob::", stringify!($name), ").")]
            pub fn $name(mut self, $($argument: $type),*) -> Self {
                self.new = self.new.$name($($argument),*);
                self
            }
        )*}
    };
}

setters! {
    delay(delay: Duration);
    at(time: SystemTime);
    priority(priority: u8);
    expires(time_to_live: Duration);
    id(id: impl Into<String>);
    track();
    unique(key: impl Into<String>, time_to_live: Duration);
    if_taken(then: IfTaken);
    label(label: impl Into<String>);
    correlation_id(id: impl Into<String>);
    content_type(content_type: impl Into<String>);
    header(name: impl Into<String>, value: impl Into<HeaderValue>);
    queue(queue: impl Into<String>);
    lanes();
}

impl Publish {
    /// Tracks the job, and returns a handle for its result instead of its id.
    ///
    /// ```no_run
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Job)] #[job(name = "resize", queue = "images")]
    /// # struct Resize { width: u32 }
    /// # #[derive(serde::Deserialize)] struct Thumbnail { key: String }
    /// # async fn doc(publisher: leveret::Publisher) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut resize = publisher.publish(&Resize { width: 64 }).with_result().await?;
    /// let thumbnail: Thumbnail = resize.result().await?;
    /// # let _ = thumbnail.key;
    /// # Ok(()) }
    /// ```
    pub fn with_result(self) -> PublishWithResult {
        PublishWithResult(self.track())
    }

    /// Builds the message without publishing it.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn into_message(self) -> Result<(JobId, Target, Message), PublishError> {
        let Self { publisher, new } = self;
        new.into_message(publisher.broker.config().payload_limit, publisher.now_ms())
    }
}

impl IntoFuture for Publish {
    type Output = Result<JobId, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { publisher, new } = self;
        // Separate functions would store all of this twice.
        Box::pin(async move { publisher.publish_now(new).await })
    }
}
