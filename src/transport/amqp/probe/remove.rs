//! Removes what a service has left behind.

use lapin::{options::QueueDeleteOptions, types::FieldTable};

use crate::{
    message::short,
    transport::amqp::probe::{Probe, Refusal},
};

impl Probe {
    /// Deletes a queue with its messages and bindings. Returns how many messages it had. RabbitMQ deletes a quorum queue
    /// also while it has consumers or messages, so look at its [`depth`](Self::depth) before.
    ///
    /// # Errors
    ///
    /// [`Refusal::Missing`] if there is no such queue, [`Refusal::Denied`] without configure permission.
    pub async fn delete_queue(&mut self, queue: &str) -> Result<u32, Refusal> {
        // RabbitMQ takes the deletion of a missing queue for done.
        self.depth(queue).await?;
        self.ask(async |channel| channel.queue_delete(short(queue), QueueDeleteOptions::default()).await).await
    }

    /// Removes a binding of a queue, if it exists.
    ///
    /// # Errors
    ///
    /// [`Refusal::Denied`] without write permission on the queue or read permission on the exchange.
    pub async fn unbind_queue(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Refusal> {
        let (queue, exchange, key) = (short(queue), short(exchange), short(key));
        self.ask(async |channel| channel.queue_unbind(queue, exchange, key, FieldTable::default()).await).await
    }
}
