//! The queue through which this process waits for results of tracked jobs.
//!
//! It is exclusive, so that it cannot outlive its connection, and deleted with its consumer. It only receives the last
//! status update of each job.

use futures_util::TryFutureExt;
use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::transport::amqp::{
    Setup,
    connection::LiveConnection,
    declare::{ANSWERED_WITHIN, open, refusable},
};
use crate::{
    message::short,
    topology::{ENDS, events::UNUSED_MS},
    transport::session::OpenError,
};

/// Declares the queue, and returns its name.
pub(super) async fn declare(up: &LiveConnection, setup: &Setup) -> Result<String, OpenError> {
    let (queue, exchange) = (setup.topology.results(Uuid::now_v7()), setup.topology.status_exchange());
    let declaring = async {
        let channel = open(up).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(UNUSED_MS));
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(short(&queue), options, arguments).map_ok(drop);
        refusable(format!("queue {queue:?}"), declared).await?;
        for end in ENDS {
            let (key, options) = (short(&format!("job.{end}.#")), QueueBindOptions::default());
            let bound = channel.queue_bind(short(&queue), short(&exchange), key, options, FieldTable::default());
            refusable(format!("binding of {queue:?} to {exchange:?}"), bound).await?;
        }
        // The queue belongs to the connection, so it outlives this channel.
        channel.close(200, "declared".into()).await.map_err(|error| OpenError::Passing(error.to_string()))
    };
    let declared = tokio::select! {
        // A refusal that ends the connection is a better reason than the loss.
        biased;
        declared = timeout(ANSWERED_WITHIN, declaring) => declared,
        () = up.lost.cancelled() => return Err(OpenError::Passing("the connection was lost".to_owned())),
    };
    let silent = || OpenError::Passing(format!("no answer from the broker within {ANSWERED_WITHIN:?}"));
    declared.map_err(|_| silent())?.map(|()| queue)
}
