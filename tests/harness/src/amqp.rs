//! A raw client: any properties, bytes and arguments, for messages that the framework never publishes.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Result};

/// A connection with one confirming channel.
#[derive(Debug)]
pub struct RawClient {
    connection: Connection,
    channel: Channel,
}

impl RawClient {
    /// Connects to `url`.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached or refuses.
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// The channel, for anything not here. A channel error closes it for good.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Declares a durable quorum queue with further arguments.
    ///
    /// # Errors
    ///
    /// When the broker refuses.
    pub async fn declare_quorum(&self, queue: &str, mut arguments: FieldTable) -> Result<()> {
        let quorum = AMQPValue::LongString(LongString::from("quorum"));
        arguments.insert("x-queue-type".into(), quorum);
        self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.map(drop)
    }

    /// Publishes with `mandatory` and waits for the confirm, which holds the message when it was returned.
    ///
    /// # Errors
    ///
    /// When the channel or connection fails meanwhile.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Confirmation> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
    }

    /// Takes the first ready message out of `queue`.
    ///
    /// # Errors
    ///
    /// When there is no such queue; the channel is closed then.
    pub async fn take(&self, queue: &str) -> Result<Option<BasicGetMessage>> {
        self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await
    }

    /// The number of ready messages in `queue`, `None` when there is no such queue.
    ///
    /// # Errors
    ///
    /// When the connection fails.
    pub async fn depth(&self, queue: &str) -> Result<Option<u32>> {
        // A channel of its own, because a passive declaration of a missing queue closes it.
        let channel = self.connection.create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        match declared {
            Ok(queue) => {
                channel.close(200, "seen".into()).await?;
                Ok(Some(queue.message_count()))
            }
            Err(_) if self.connection.status().connected() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes `queue` and what is in it; without effect when there is none.
    ///
    /// # Errors
    ///
    /// When the broker refuses.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop)
    }

    /// Deletes an exchange, with its bindings.
    ///
    /// # Errors
    ///
    /// When the broker or the connection fails.
    pub async fn delete_exchange(&self, exchange: &str) -> Result<()> {
        self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
    }
}
