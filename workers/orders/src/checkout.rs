//! The workflow of an order that is paid: charge, then stock and invoice at the same time, then the order, then its
//! confirmation.
//!
//! ```text
//! charge ─┬─ reserve ─┬─ place ── confirm
//!         └─ invoice ─┘
//! ```
//!
//! If the charge is refused, nothing else runs. If the stock is too small or the invoice cannot be written, the reserved
//! stock is released and the charge refunded. In both cases the customer gets a mail. A confirmation that cannot be
//! delivered does not undo the order. A cancellation after `place` refunds nothing, because the payment has paid the order.

use jiff::civil::Date;
use leveret::workflow::{IfFailed, StepRef, Workflow};
use leveret_email::{
    OrderConfirmation, SendEmail, address,
    order::{ConfirmationLine, Customer},
};
use leveret_reports::{GenerateInvoice, InvoiceLine};

use crate::{
    error::OrderError,
    order::{OrderLine, PlaceOrder, ReleaseStock, ReserveStock},
    payment::{ChargePayment, RefundPayment},
};

/// Maximum bytes of a number, with which all ids that contain it are within their limits.
const NUMBER_LIMIT: usize = 100;

/// Returns the workflow that places an order under this order number, which is also its id: a second start with the same
/// number places no second order, and a number is used once. `seller` and `date` are for the invoice.
///
/// ```
/// use leveret_orders::{PlaceOrder, checkout};
///
/// let order: PlaceOrder = serde_json::from_str(
///     r#"{"customer": "Ann <ann@example.org>", "lines": [{"sku": "TEA-0101", "quantity": 2, "cents": 890}]}"#,
/// )?;
/// let workflow = checkout("T-2026-17", &order, "Tea shop", jiff::civil::date(2026, 11, 30))?;
/// assert_eq!(workflow.step_list().len(), 5);
/// // In production: publisher.start(&workflow).await?
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The order or its number is wrong.
pub fn checkout(number: &str, order: &PlaceOrder, seller: &str, date: Date) -> Result<Workflow, OrderError> {
    order.check()?;
    check_number(number)?;
    let (lines, customer, cents) = (order.lines.clone(), order.customer.clone(), order.total_cents());
    let job_id = |step: &str| StepRef::step(number, step).job_id().to_string();
    let invoice = invoice(number, order, seller, date);
    let confirmation = confirmation(number, order, invoice.file_name())?;
    let (reservation, payment) = (Some(job_id("reserve")), Some(job_id("charge")));
    let place = PlaceOrder { reservation, payment, ..order.clone() };
    let failed = format!(
        "Hello,\n\nwe could not place your order {number}. If we have charged you, we refund the amount.\n\n\
         Please write to us if you have questions.\n"
    );
    let failed = SendEmail::new(&*customer, format!("Order {number} could not be placed"), failed);
    let workflow = Workflow::new("checkout")
        .id(number)
        .step("charge", &ChargePayment { customer, cents })
        .compensate(&RefundPayment { charge_id: job_id("charge") })
        .step("reserve", &ReserveStock { lines })
        .after("charge")
        .compensate(&ReleaseStock { reservation: job_id("reserve") })
        .step("invoice", &invoice)
        .after("charge")
        .step("place", &place)
        .after(["reserve", "invoice"])
        .step("confirm", &confirmation)
        .after("place")
        .if_failed(IfFailed::Skip)
        .on_failure(&failed);
    workflow.check()?;
    Ok(workflow)
}

/// The number is part of the ids of jobs and of the event, and of the name of the invoice.
fn check_number(number: &str) -> Result<(), OrderError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let begins = number.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins && number.len() <= NUMBER_LIMIT && number.bytes().all(allowed) {
        return Ok(());
    }
    Err(OrderError::Number { number: number.to_owned() })
}

fn invoice(number: &str, order: &PlaceOrder, seller: &str, date: Date) -> GenerateInvoice {
    let line = |line: &OrderLine| InvoiceLine {
        article: line.sku.clone(),
        quantity: line.quantity.get(),
        cents: line.cents.into(),
    };
    GenerateInvoice {
        number: number.to_owned(),
        date: date.to_string(),
        seller: seller.to_owned(),
        customer: order.customer.clone(),
        lines: order.lines.iter().map(line).collect(),
        total_cents: order.total_cents(),
    }
}

fn confirmation(number: &str, order: &PlaceOrder, invoice: String) -> Result<OrderConfirmation, OrderError> {
    let customer = address::parse(&order.customer)?;
    let line = |line: &OrderLine| ConfirmationLine {
        sku: line.sku.clone(),
        description: String::new(),
        quantity: line.quantity.get().into(),
        unit_price_cents: line.cents.into(),
    };
    Ok(OrderConfirmation {
        id: number.to_owned(),
        customer: Customer { name: customer.name.unwrap_or_default(), email: customer.email.to_string() },
        lines: order.lines.iter().map(line).collect(),
        currency: "EUR".to_owned(),
        shipping_cents: None,
        tax_cents: None,
        total_cents: order.total_cents(),
        attachments: vec![invoice],
    })
}
