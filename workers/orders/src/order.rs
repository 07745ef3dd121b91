//! The payloads of `order.place`, `stock.reserve` and `stock.release`, and the event of a placed order.
//!
//! Unknown fields of a job are refused, so a misspelt field is an error. All amounts are euro cents.

use std::num::NonZeroU16;

use jiff::{Timestamp, Unit};
use leveret::{Event, Job};
use leveret_email::address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::OrderError;

/// Maximum lines of one order, so that no sum can overflow.
const MAX_LINES: usize = 100;

/// Places an order: takes the stock unless it is reserved, and emits the event `order.placed`.
///
/// ```
/// use leveret_orders::PlaceOrder;
///
/// let order: PlaceOrder = serde_json::from_str(
///     r#"{"customer": "Ann <ann@example.org>", "lines": [{"sku": "TEA-0101", "quantity": 2, "cents": 890}]}"#,
/// )?;
/// assert_eq!(order.total_cents(), 1780);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "order.place", queue = "orders", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Places an order: takes the stock unless it is reserved, and emits the event `order.placed`.")]
pub struct PlaceOrder {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// The lines of the order.
    #[schemars(length(min = 1, max = 100))]
    pub lines: Vec<OrderLine>,
    /// Id of the `stock.reserve` that took the stock of exactly these lines, if the order is part of a
    /// [checkout](crate::checkout()), which also confirms it to the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<String>,
    /// Id of the `payment.charge` that took the total, if the order is paid. A payment pays one order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
}

/// Takes the stock of an order that is placed later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "stock.reserve", queue = "orders", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Takes the stock of an order that is placed later.")]
pub struct ReserveStock {
    /// The lines of the order.
    #[schemars(length(min = 1, max = 100))]
    pub lines: Vec<OrderLine>,
}

/// Gives the stock of a reservation back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "stock.release", queue = "orders", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Gives the stock of a reservation back.")]
pub struct ReleaseStock {
    /// Id of the job that reserved it.
    pub reservation: String,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderLine {
    /// Article number.
    pub sku: String,
    /// Quantity, at least one.
    pub quantity: NonZeroU16,
    /// Price of one.
    pub cents: u32,
}

/// A placed order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedOrder {
    /// Number of the order in the shop. A checkout gives the customer its own number.
    pub number: i64,
    /// Total of the order.
    pub total_cents: i64,
}

/// An order was placed. Consumers ignore fields that they do not know, so that the event can get more.
///
/// ```
/// let event: leveret_orders::OrderPlaced = serde_json::from_str(
///     r#"{"order": 17, "customer": "Ann <ann@example.org>", "lines": [{"sku": "TEA-0101", "quantity": 2, "cents": 890}],
///         "total_cents": 1780, "placed_at": "2026-11-21T15:00:00Z"}"#,
/// )?;
/// assert_eq!(event.total_cents, 1780);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
pub struct OrderPlaced {
    /// Order number of the customer.
    pub order: i64,
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// The lines of the order.
    pub lines: Vec<OrderLine>,
    /// Total of the order.
    pub total_cents: i64,
    /// Time in UTC, as RFC 3339.
    pub placed_at: String,
    /// True if the subscription `order-mails` confirms the order to its customer, and false if a workflow does.
    #[serde(default = "yes")]
    pub confirm: bool,
}

fn yes() -> bool {
    true
}

/// Returns the id of the event of the order that the job `job_id` places.
#[must_use]
pub fn event_id(job_id: &str) -> String {
    format!("{job_id}-placed")
}

impl PlaceOrder {
    /// Returns the total of the order.
    #[must_use]
    pub fn total_cents(&self) -> i64 {
        self.lines.iter().map(OrderLine::cents).sum()
    }

    /// Checks the order without a database, and returns the bare address of the customer.
    pub(crate) fn check(&self) -> Result<String, OrderError> {
        check_lines(&self.lines)?;
        Ok(address::parse(&self.customer)?.email.to_string())
    }

    /// Returns the event of this order.
    pub(crate) fn placed(self, placed: PlacedOrder) -> OrderPlaced {
        let (Self { customer, lines, reservation, .. }, PlacedOrder { number: order, total_cents }) = (self, placed);
        let now = Timestamp::now();
        let placed_at = now.round(Unit::Millisecond).unwrap_or(now).to_string();
        OrderPlaced { order, customer, lines, total_cents, placed_at, confirm: reservation.is_none() }
    }
}

/// Checks the number of lines.
pub(crate) fn check_lines(lines: &[OrderLine]) -> Result<(), OrderError> {
    let count = lines.len();
    if (1..=MAX_LINES).contains(&count) { Ok(()) } else { Err(OrderError::Lines { count, limit: MAX_LINES }) }
}

/// Returns the lines sorted by article, so that two transactions cannot deadlock.
pub(crate) fn by_article(lines: &[OrderLine]) -> Vec<&OrderLine> {
    let mut lines: Vec<_> = lines.iter().collect();
    lines.sort_unstable_by_key(|line| line.sku.as_str());
    lines
}

/// Returns article and quantity of each line, sorted.
pub(crate) fn quantities(lines: &[OrderLine]) -> Vec<(String, i64)> {
    let mut quantities: Vec<_> = lines.iter().map(|line| (line.sku.clone(), line.quantity.get().into())).collect();
    quantities.sort_unstable();
    quantities
}

impl OrderLine {
    fn cents(&self) -> i64 {
        i64::from(self.quantity.get()) * i64::from(self.cents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_has_the_fields_that_other_services_read() {
        let line = |sku: &str, quantity, cents| OrderLine { sku: sku.to_owned(), quantity, cents };
        let lines = vec![line("TEA-0101", NonZeroU16::new(2).unwrap(), 890), line("CRD-0001", NonZeroU16::MIN, 5)];
        let order =
            PlaceOrder { customer: "Ann <ann@example.org>".to_owned(), lines, reservation: None, payment: None };
        let event = order.clone().placed(PlacedOrder { number: 17, total_cents: order.total_cents() });
        let at: Timestamp = event.placed_at.parse().unwrap();
        assert!(event.placed_at.ends_with('Z') && at.duration_until(Timestamp::now()).as_secs() < 60, "{event:?}");
        let expected = serde_json::json!({
            "order": 17,
            "customer": "Ann <ann@example.org>",
            "lines": [
                { "sku": "TEA-0101", "quantity": 2, "cents": 890 },
                { "sku": "CRD-0001", "quantity": 1, "cents": 5 },
            ],
            "total_cents": 1785,
            "placed_at": event.placed_at,
            "confirm": true,
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    }

    #[test]
    fn the_largest_order_has_a_total() {
        let line = OrderLine { sku: "TEA-0101".to_owned(), quantity: NonZeroU16::MAX, cents: u32::MAX };
        let order = PlaceOrder {
            customer: "ann@example.org".to_owned(),
            lines: vec![line; MAX_LINES],
            reservation: None,
            payment: None,
        };
        assert_eq!(order.total_cents(), 100 * 65_535 * 4_294_967_295);
        assert_eq!(order.check().unwrap(), "ann@example.org");
    }
}
