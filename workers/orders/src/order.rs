//! The payload of `order.place`, and the mail that confirms it.
//!
//! Unknown fields are refused, so a misspelt order ends as a dead letter that says so. All amounts are euro cents.

use std::num::NonZeroU16;

use leveret::Job;
use leveret_email::{SendEmail, address};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::OrderError;

/// Most lines of one order, so that no sum can overflow.
const MOST_LINES: usize = 100;

/// Places an order: the stock is taken, and the customer gets a mail.
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
#[schemars(description = "Places an order: the stock is taken, and the customer gets a mail.")]
pub struct PlaceOrder {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// What is ordered.
    #[schemars(length(min = 1, max = 100))]
    pub lines: Vec<Line>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Article number.
    pub sku: String,
    /// How many; at least one.
    pub quantity: NonZeroU16,
    /// Price of one.
    pub cents: u32,
}

/// An order that was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Its number, as the customer knows it.
    pub number: i64,
    /// What the customer pays.
    pub total_cents: i64,
}

/// The id of the job that confirms the order which the job of this id placed.
#[must_use]
pub fn confirmation_id(job_id: &str) -> String {
    format!("{job_id}-mail")
}

impl PlaceOrder {
    /// What the customer pays.
    #[must_use]
    pub fn total_cents(&self) -> i64 {
        self.lines.iter().map(Line::cents).sum()
    }

    /// Checks what can be told without a database; returns the customer's bare address.
    pub(crate) fn check(&self) -> Result<String, OrderError> {
        let count = self.lines.len();
        if !(1..=MOST_LINES).contains(&count) {
            return Err(OrderError::Lines { count, limit: MOST_LINES });
        }
        Ok(address::parse(&self.customer)?.email.to_string())
    }

    /// The lines in one order for all, so that two orders cannot wait for each other's articles.
    pub(crate) fn by_article(&self) -> Vec<&Line> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_unstable_by_key(|line| line.sku.as_str());
        lines
    }

    pub(crate) fn confirmation(&self, placed: Placed) -> SendEmail {
        let mut text = "Thank you for your order.\n\n".to_owned();
        for line in &self.lines {
            text.push_str(&format!("{} x {}: {}\n", line.quantity, line.sku, euros(line.cents())));
        }
        text.push_str(&format!("\nTotal: {}\n", euros(placed.total_cents)));
        let subject = format!("Your order {}", placed.number);
        SendEmail::new(&self.customer, subject, text)
    }
}

impl Line {
    fn cents(&self) -> i64 {
        i64::from(self.quantity.get()) * i64::from(self.cents)
    }
}

fn euros(cents: i64) -> String {
    format!("{}.{:02} EUR", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mail_says_what_was_ordered_and_what_it_costs() {
        let line = |sku: &str, quantity, cents| Line { sku: sku.to_owned(), quantity, cents };
        let two = NonZeroU16::new(2).unwrap();
        let lines = vec![line("TEA-0101", two, 890), line("CRD-0001", NonZeroU16::MIN, 5)];
        let order = PlaceOrder { customer: "Ann <ann@example.org>".to_owned(), lines };
        let mail = order.confirmation(Placed { number: 17, total_cents: order.total_cents() });
        assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("Ann <ann@example.org>", "Your order 17"));
        let expected = "2 x TEA-0101: 17.80 EUR\n1 x CRD-0001: 0.05 EUR\n\nTotal: 17.85 EUR\n";
        assert!(mail.text.ends_with(expected), "{}", mail.text);
    }

    #[test]
    fn the_largest_order_has_a_total() {
        let line = Line { sku: "TEA-0101".to_owned(), quantity: NonZeroU16::MAX, cents: u32::MAX };
        let order = PlaceOrder { customer: "ann@example.org".to_owned(), lines: vec![line; MOST_LINES] };
        assert_eq!(order.total_cents(), 100 * 65_535 * 4_294_967_295);
        assert_eq!(order.check().unwrap(), "ann@example.org");
    }
}
