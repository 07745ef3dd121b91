//! Events in the outbox: they are rows of its table, and a relay emits them.

use std::time::SystemTime;

use leveret::{EventOptions, JobId, NewEvent, StoredEvent, time::at_unix_ms};

use super::{
    claim::ClaimedJob,
    enqueue::{Outbox, Row, check, first, insert},
};
use crate::{Error, Result, db::Connection};

/// The job's name in the row of an event, whose queue is the topic.
pub(super) const EVENT: &str = "leveret.event";

impl Outbox {
    /// Writes a reference to an [`Event`](leveret::Event) or a [`NewEvent`] in a transaction, and returns its id. A
    /// [`Relay`](crate::Relay) emits the event if, and only if, the transaction commits.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize, leveret::Event)] #[event(topic = "order.placed")]
    /// # struct OrderPlaced { order: String }
    /// # async fn doc(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret::NewEvent;
    /// use leveret_sql::Outbox;
    ///
    /// let mut tx = pool.begin().await?;
    /// // … the order's row, in the same transaction …
    /// let placed = OrderPlaced { order: "17".into() };
    /// Outbox::emit(&mut tx, NewEvent::of(&placed).id("order-17-placed")).await?;         // or just &placed
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue), whose time limit and cancel safety hold here too.
    pub async fn emit(on: &mut impl Connection, event: impl Into<NewEvent>) -> Result<JobId> {
        first(insert(on, vec![row(None, event.into())?]).await?)
    }

    /// Like [`emit`](Self::emit), in the order of a key of 1 to 255 bytes: the event is emitted after all entries that
    /// were written before it with the same key, jobs included. See [`enqueue_ordered`](Self::enqueue_ordered).
    ///
    /// ```
    /// # async fn doc(pool: sqlx::PgPool, event: impl leveret::Event) -> Result<(), Box<dyn std::error::Error>> {
    /// use leveret_sql::Outbox;
    ///
    /// let mut tx = pool.begin().await?;
    /// Outbox::emit_ordered(&mut tx, "customer-7", &event).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue).
    pub async fn emit_ordered(
        on: &mut impl Connection,
        order_key: impl Into<String>,
        event: impl Into<NewEvent>,
    ) -> Result<JobId> {
        first(insert(on, vec![row(Some(order_key.into()), event.into())?]).await?)
    }
}

/// Refuses here what an emit would refuse later, when the caller no longer waits.
fn row(order_key: Option<String>, event: NewEvent) -> Result<Row> {
    let StoredEvent { id, topic, payload, enqueued_at, options } =
        event.into_stored(SystemTime::now()).map_err(Error::InvalidJob)?;
    check("event id", id.as_str(), order_key.as_deref())?;
    Row::new((id, EVENT.into(), topic, payload), &options, order_key, enqueued_at)
}

/// The event of a row.
///
/// # Errors
///
/// The reason why its options do not decode.
pub(super) fn event(row: ClaimedJob, payload: Vec<u8>) -> std::result::Result<NewEvent, String> {
    let options: EventOptions = serde_json::from_str(&row.options)
        .map_err(|error| format!("the options of the event do not decode: {error}"))?;
    let (id, topic, enqueued_at) = (row.id.as_str().into(), row.queue.into(), at_unix_ms(row.enqueued_at));
    Ok(StoredEvent { id, topic, payload, enqueued_at, options }.into())
}
