//! The subscription `order-mails`: each placed order is confirmed to its customer, unless a workflow confirms it.

use leveret::{Context, Event, JobResult};
use serde::{Deserialize, Serialize};

use super::deliver::{SMTP, deliver};
use crate::{
    address,
    mail::Mail,
    order::{ConfirmationError, ConfirmationLine, Customer, OrderConfirmation},
};

/// Name of the subscription.
pub const ORDER_MAILS: &str = "order-mails";

/// The part of the event `order.placed` that the mail shows. All amounts are euro cents.
///
/// ```
/// let event: leveret_email::OrderPlaced = serde_json::from_str(
///     r#"{"order": 17, "customer": "Ann <ann@example.org>", "lines": [{"sku": "TEA-0101", "quantity": 2, "cents": 890}],
///         "total_cents": 1780, "placed_at": "2026-11-21T15:00:00Z"}"#,
/// )?;
/// assert_eq!(event.confirmation()?.draft()?.subject, "Order 17 confirmed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "order.placed")]
pub struct OrderPlaced {
    /// Order number of the customer.
    pub order: i64,
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// The lines of the order.
    pub lines: Vec<OrderedLine>,
    /// Total of the order.
    pub total_cents: i64,
    /// True if this worker confirms the order to its customer, and false if a workflow does.
    #[serde(default = "yes")]
    pub confirm: bool,
}

fn yes() -> bool {
    true
}

/// One line of a placed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedLine {
    /// Article number.
    pub sku: String,
    /// Quantity, at least one.
    pub quantity: u32,
    /// Price of one.
    pub cents: i64,
}

impl OrderPlaced {
    /// Returns the order as `email.order_confirmation` takes it.
    ///
    /// # Errors
    ///
    /// The address of the customer is invalid.
    pub fn confirmation(self) -> Result<OrderConfirmation, ConfirmationError> {
        let customer = address::parse(&self.customer)?;
        let customer = Customer { name: customer.name.unwrap_or_default(), email: customer.email.to_string() };
        let line = |OrderedLine { sku, quantity, cents }| ConfirmationLine {
            description: String::new(),
            sku,
            quantity,
            unit_price_cents: cents,
        };
        Ok(OrderConfirmation {
            id: self.order.to_string(),
            customer,
            lines: self.lines.into_iter().map(line).collect(),
            currency: "EUR".to_owned(),
            shipping_cents: None,
            tax_cents: None,
            total_cents: self.total_cents,
            attachments: Vec::new(),
        })
    }
}

pub(crate) async fn mail_order(order: OrderPlaced, ctx: Context<Mail>) -> JobResult {
    if !order.confirm {
        ctx.skip_circuit(SMTP);
        return Ok(());
    }
    deliver(order.confirmation().and_then(|order| order.draft()), &ctx).await
}
