//! The event as this worker reads it. The orders worker has a type of its own: the two share the topic and the JSON.

use jiff::{Timestamp, tz::TimeZone};
use leveret::Event;
use serde::{Deserialize, Serialize};

/// An order was placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
pub struct OrderPlaced {
    /// Number of the order.
    pub order: i64,
    /// The customer.
    pub customer: String,
    /// The articles.
    pub lines: Vec<Line>,
    /// Sum of the lines, in cents.
    pub total_cents: i64,
    /// The time of the order.
    pub placed_at: PlacedAt,
}

/// One article of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Article number.
    pub sku: String,
    /// Number of pieces.
    pub quantity: i64,
    /// Price of one piece, in cents.
    pub cents: i64,
}

/// A time in RFC 3339. An event with another text does not decode, and stops the projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlacedAt(Timestamp);

impl PlacedAt {
    /// Returns the day in UTC, such as `2026-11-30`.
    ///
    /// ```
    /// let at = leveret_analytics::PlacedAt::try_from("2026-12-01T00:30:00+02:00".to_owned())?;
    /// assert_eq!(at.day(), "2026-11-30");
    /// # Ok::<_, jiff::Error>(())
    /// ```
    #[must_use]
    pub fn day(self) -> String {
        self.0.to_zoned(TimeZone::UTC).date().to_string()
    }
}

impl TryFrom<String> for PlacedAt {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

impl From<PlacedAt> for String {
    fn from(at: PlacedAt) -> Self {
        at.0.to_string()
    }
}
