//! The payload of `order.place`, and the mail that confirms it.
//!
//! Unknown fields are refused, so a misspelt field is an error. All amounts are euro cents.

use std::num::NonZeroU16;

use leveret::Job;
use leveret_email::{SendEmail, address, money::Currency};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::OrderError;

/// Maximum lines of one order, so that no sum can overflow.
const MAX_LINES: usize = 100;

/// Places an order: takes the stock, and mails a confirmation to the customer.
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
#[schemars(description = "Places an order: takes the stock, and mails a confirmation to the customer.")]
pub struct PlaceOrder {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// The lines of the order.
    #[schemars(length(min = 1, max = 100))]
    pub lines: Vec<OrderLine>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlacedOrder {
    /// Order number of the customer.
    pub number: i64,
    /// Total of the order.
    pub total_cents: i64,
}

/// Returns the id of the job that confirms the order of the job `job_id`.
#[must_use]
pub fn confirmation_id(job_id: &str) -> String {
    format!("{job_id}-mail")
}

impl PlaceOrder {
    /// Returns the total of the order.
    #[must_use]
    pub fn total_cents(&self) -> i64 {
        self.lines.iter().map(OrderLine::cents).sum()
    }

    /// Checks the order without a database, and returns the bare address of the customer.
    pub(crate) fn check(&self) -> Result<String, OrderError> {
        let count = self.lines.len();
        if !(1..=MAX_LINES).contains(&count) {
            return Err(OrderError::Lines { count, limit: MAX_LINES });
        }
        Ok(address::parse(&self.customer)?.email.to_string())
    }

    /// Returns the lines sorted by article, so that two transactions cannot deadlock.
    pub(crate) fn by_article(&self) -> Vec<&OrderLine> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_unstable_by_key(|line| line.sku.as_str());
        lines
    }

    pub(crate) fn confirmation(&self, placed: PlacedOrder) -> SendEmail {
        let mut text = "Thank you for your order.\n\n".to_owned();
        for line in &self.lines {
            text.push_str(&format!("{} x {}: {}\n", line.quantity, line.sku, Currency::EUR.format(line.cents())));
        }
        text.push_str(&format!("\nTotal: {}\n", Currency::EUR.format(placed.total_cents)));
        let subject = format!("Your order {}", placed.number);
        SendEmail::new(&self.customer, subject, text)
    }
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
    fn the_mail_says_what_was_ordered_and_what_it_costs() {
        let line = |sku: &str, quantity, cents| OrderLine { sku: sku.to_owned(), quantity, cents };
        let two = NonZeroU16::new(2).unwrap();
        let lines = vec![line("TEA-0101", two, 890), line("CRD-0001", NonZeroU16::MIN, 5)];
        let order = PlaceOrder { customer: "Ann <ann@example.org>".to_owned(), lines };
        let mail = order.confirmation(PlacedOrder { number: 17, total_cents: order.total_cents() });
        assert_eq!((mail.to.as_str(), mail.subject.as_str()), ("Ann <ann@example.org>", "Your order 17"));
        let expected = "2 x TEA-0101: 17.80 EUR\n1 x CRD-0001: 0.05 EUR\n\nTotal: 17.85 EUR\n";
        assert!(mail.text.ends_with(expected), "{}", mail.text);
    }

    #[test]
    fn the_largest_order_has_a_total() {
        let line = OrderLine { sku: "TEA-0101".to_owned(), quantity: NonZeroU16::MAX, cents: u32::MAX };
        let order = PlaceOrder { customer: "ann@example.org".to_owned(), lines: vec![line; MAX_LINES] };
        assert_eq!(order.total_cents(), 100 * 65_535 * 4_294_967_295);
        assert_eq!(order.check().unwrap(), "ann@example.org");
    }
}
