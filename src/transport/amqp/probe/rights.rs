//! The rights of the user, found by requests that have no effect.

use lapin::{
    options::{BasicConsumeOptions, ExchangeUnbindOptions, QueueDeleteOptions},
    types::FieldTable,
};
use uuid::Uuid;

use crate::{
    message::{short, text},
    topology::Topology,
    transport::amqp::probe::{Probe, Refusal},
};

impl Probe {
    /// Checks whether the user may consume from a queue, without consuming.
    ///
    /// # Errors
    ///
    /// [`Refusal::Denied`] without read permission.
    pub async fn may_read(&mut self, queue: &str) -> Result<(), Refusal> {
        // The broker checks the permission first and then refuses the argument, so no consumer is created.
        let mut wrong = FieldTable::default();
        wrong.insert("x-priority".into(), text("none"));
        let tag = short(&format!("leveret-probe-{}", Uuid::now_v7()));
        let options = BasicConsumeOptions::default();
        let asked = self.ask(async |channel| channel.basic_consume(short(queue), tag, options, wrong).await.map(drop));
        match asked.await {
            Err(Refusal::Mismatch(_)) => Ok(()),
            Ok(()) => {
                self.close_channel().await;
                Ok(())
            }
            refused => refused,
        }
    }

    /// Checks whether the user may publish to an exchange, without publishing.
    ///
    /// # Errors
    ///
    /// [`Refusal::Denied`] without write permission.
    pub async fn may_write(&mut self, exchange: &str) -> Result<(), Refusal> {
        // Removing a binding between exchanges requires write permission on the destination first, even if the binding
        // does not exist.
        const SOURCE: &str = "amq.direct";
        let key = short(&format!("leveret-probe-{}", Uuid::now_v7()));
        let (options, none) = (ExchangeUnbindOptions::default(), FieldTable::default());
        let asked = self
            .ask(async |channel| channel.exchange_unbind(short(exchange), SOURCE.into(), key, options, none).await)
            .await;
        match asked {
            Err(Refusal::Denied(words)) if words.contains(SOURCE) => Ok(()),
            other => other,
        }
    }

    /// Checks whether the user may answer [requests](crate::Publisher::request): a worker publishes replies to the default
    /// exchange.
    ///
    /// ```
    /// # use leveret::probe::{Probe, Refusal};
    /// # async fn check(mut probe: Probe) -> Result<(), Refusal> {
    /// match probe.may_reply().await {
    ///     Ok(()) => println!("workers of this user can reply"),
    ///     Err(Refusal::Denied(reason)) => println!("they cannot: {reason}"),
    ///     Err(refusal) => return Err(refusal),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refusal::Denied`] without write permission on `amq.default`.
    pub async fn may_reply(&mut self) -> Result<(), Refusal> {
        match self.may_write("").await {
            // The broker checks the permission first, and then refuses bindings of this exchange.
            Err(Refusal::Denied(words)) if words.contains("default exchange") => Ok(()),
            other => other,
        }
    }

    /// Checks whether the user may send [requests](crate::Publisher::request) in a namespace, whose replies come to an
    /// exclusive queue of its process.
    ///
    /// ```
    /// # async fn check(mut probe: leveret::probe::Probe) {
    /// if let Err(refusal) = probe.may_request("leveret.v1").await {
    ///     println!("publishers of this user cannot send requests: {refusal}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Refusal::Denied`] without configure or read permission on `<namespace>.reply.*`.
    pub async fn may_request(&mut self, namespace: &str) -> Result<(), Refusal> {
        let queue = format!("{}{}", Topology::new(namespace).reply_prefix(), Uuid::new_v4());
        // RabbitMQ checks the permission first, and then takes the deletion of a missing queue for done.
        let options = QueueDeleteOptions::default();
        self.ask(async |channel| channel.queue_delete(short(&queue), options).await.map(drop)).await?;
        match self.may_read(&queue).await {
            Err(Refusal::Missing) => Ok(()),
            other => other,
        }
    }
}
