//! The trait `Event` and its derive.

use serde::{Serialize, de::DeserializeOwned};

/// Something that has happened: plain data that is published under a topic. Every subscription to the topic gets its own
/// copy.
///
/// The wire form is the JSON of the type itself, with [`TOPIC`](Self::TOPIC) as routing key and in the AMQP property
/// `type`.
///
/// The [derive](derive@Event) implements the trait. An implementation by hand is for topics that stand in a constant:
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// const ORDER_PLACED: &str = "order.placed";
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPlaced {
///     order: String,
/// }
///
/// impl leveret::Event for OrderPlaced {
///     const TOPIC: &'static str = ORDER_PLACED;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "the trait `Event` is not implemented for `{Self}`",
    note = "derive it: `#[derive(Serialize, Deserialize, leveret::Event)]` and `#[event(topic = \"…\")]`"
)]
pub trait Event: Serialize + DeserializeOwned + Send + 'static {
    /// The topic: 1 to 255 bytes, in words of `a-z`, `A-Z`, `0-9`, `_` and `-` that single dots separate. Topics that start
    /// with `leveret.` are reserved.
    ///
    /// Subscriptions to the old topic do not get events of a renamed type.
    const TOPIC: &'static str;
}

/// Implements [`Event`](trait@Event) for a struct or an enum.
///
/// ```
/// use leveret::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "order.placed")]
/// struct OrderPlaced {
///     order: String,
///     customer: u64,
/// }
///
/// assert_eq!(OrderPlaced::TOPIC, "order.placed");
/// ```
///
/// # Arguments
///
/// `#[event(…)]` stands on the type and takes:
///
/// | argument | default | meaning |
/// |---|---|---|
/// | `topic = "order.placed"` | required | The [topic](const@Event::TOPIC). |
/// | `crate = path::to::leveret` | `::leveret` | The path of this crate, for crates that re-export it. |
pub use leveret_macros::Event;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, Event)]
    #[event(crate = crate, topic = "com.example.Order-1.placed")]
    struct Placed;

    #[derive(Serialize, Deserialize, Event)]
    #[event(crate = crate)]
    #[event(topic = "stock.changed")]
    enum Changed<T> {
        Up(T),
        Down { by: T },
    }

    #[test]
    fn a_derived_event_has_the_topic_of_its_attribute() {
        fn of<T: Serialize + DeserializeOwned + Send + 'static>() -> &'static str {
            Changed::<T>::TOPIC
        }
        assert_eq!((Placed::TOPIC, of::<u8>()), ("com.example.Order-1.placed", "stock.changed"));
    }
}
