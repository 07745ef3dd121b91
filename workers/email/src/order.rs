//! The payload of `email.order_confirmation`, its checks and its mail.
//!
//! The worker adds up the order again, so that the total in the mail matches its lines.

use askama::Template;
use leveret::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{address, compose::MailDraft, error::MailError, money::Currency, text::one_line};

/// An order as the shop publishes it.
///
/// All amounts are whole numbers of the currency's smallest unit (cents; yen; fils), so `1250` is 12.50 EUR and
/// 1,250 JPY. Negative amounts are discounts and refunds. Unknown fields are refused, so a misspelt field is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "email.order_confirmation", queue = "email", schema)]
#[serde(deny_unknown_fields)]
pub struct OrderConfirmation {
    /// The order number of the customer.
    pub id: String,
    /// The customer.
    pub customer: Customer,
    /// The lines of the order, at least one.
    pub lines: Vec<ConfirmationLine>,
    /// ISO 4217 code, such as `EUR`.
    pub currency: String,
    /// Shipping, if it is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping_cents: Option<i64>,
    /// Tax, if the lines do not include it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax_cents: Option<i64>,
    /// The total: lines + shipping + tax.
    pub total_cents: i64,
    /// Names of files in `MAIL_ATTACHMENT_DIR`, such as `invoice-17.pdf`; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
}

/// The person who ordered and receives the mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// Name, in any script.
    pub name: String,
    /// Bare mail address.
    pub email: String,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmationLine {
    /// Article number.
    pub sku: String,
    /// Description of the article. Without one the mail shows its number alone.
    pub description: String,
    /// Quantity, at least one.
    pub quantity: u32,
    /// Price of one.
    pub unit_price_cents: i64,
}

/// Error of an order that cannot be confirmed. A later attempt fails too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfirmationError {
    /// The mail address of the customer is invalid.
    #[error("the mail address of the customer is invalid")]
    Customer(#[from] MailError),
    /// The currency is not an ISO 4217 code.
    #[error("currency {0:?} is not an ISO 4217 code of three capital letters")]
    Currency(String),
    /// The order has no lines.
    #[error("the order has no lines")]
    NoLines,
    /// The quantity of a line is 0.
    #[error("line {line} ({sku:?}) has quantity 0")]
    NoQuantity {
        /// Number of the line, counted from 1.
        line: usize,
        /// Article number.
        sku: String,
    },
    /// The amount of a line is too large.
    #[error("line {line} ({sku:?}) is too large: {quantity} times {unit_price_cents}")]
    LineTooLarge {
        /// Number of the line, counted from 1.
        line: usize,
        /// Article number.
        sku: String,
        /// Quantity.
        quantity: u32,
        /// Price of one.
        unit_price_cents: i64,
    },
    /// The sum is too large.
    #[error("the sum of lines, shipping and tax is too large")]
    SumTooLarge,
    /// The stated total differs from the sum.
    #[error("the order states a total of {stated} cents, but its lines, shipping and tax add up to {sum}")]
    WrongTotal {
        /// Stated total.
        stated: i64,
        /// Computed sum.
        sum: i64,
    },
    /// The template failed.
    #[error("the mail cannot be rendered")]
    Render(#[from] askama::Error),
}

impl OrderConfirmation {
    /// Checks the order and renders its mail.
    ///
    /// # Errors
    /// [`ConfirmationError`]; no later attempt can succeed.
    pub fn draft(&self) -> Result<MailDraft, ConfirmationError> {
        let to = address::mailbox(&self.customer.name, &self.customer.email)?;
        let currency =
            Currency::parse(&self.currency).ok_or_else(|| ConfirmationError::Currency(self.currency.clone()))?;
        let view = ConfirmationView {
            id: one_line(&self.id),
            name: one_line(&self.customer.name),
            lines: self.line_views(currency)?,
            shipping: self.shipping_cents.map(|amount| currency.format(amount)),
            tax: self.tax_cents.map(|amount| currency.format(amount)),
            total: currency.format(self.checked_total()?),
            attachments: self.attachments.iter().map(|name| one_line(name)).collect::<Vec<_>>().join(", "),
        };
        let draft = MailDraft::new(to, format!("Order {} confirmed", view.id), TextTemplate(&view).render()?);
        Ok(MailDraft { html: Some(HtmlTemplate(&view).render()?), attachments: self.attachments.clone(), ..draft })
    }

    fn line_views(&self, currency: Currency) -> Result<Vec<ConfirmationLineView>, ConfirmationError> {
        let view = |(index, line): (usize, &ConfirmationLine)| {
            let amount = line.amount(index + 1)?;
            Ok(ConfirmationLineView {
                sku: one_line(&line.sku),
                description: one_line(&line.description),
                quantity: line.quantity,
                price: currency.format(line.unit_price_cents),
                amount: currency.format(amount),
            })
        };
        self.lines.iter().enumerate().map(view).collect()
    }

    fn checked_total(&self) -> Result<i64, ConfirmationError> {
        if self.lines.is_empty() {
            return Err(ConfirmationError::NoLines);
        }
        let mut sum = 0_i64;
        for (index, line) in self.lines.iter().enumerate() {
            sum = sum.checked_add(line.amount(index + 1)?).ok_or(ConfirmationError::SumTooLarge)?;
        }
        for extra in [self.shipping_cents, self.tax_cents].into_iter().flatten() {
            sum = sum.checked_add(extra).ok_or(ConfirmationError::SumTooLarge)?;
        }
        if sum != self.total_cents {
            return Err(ConfirmationError::WrongTotal { stated: self.total_cents, sum });
        }
        Ok(sum)
    }
}

impl ConfirmationLine {
    fn amount(&self, line: usize) -> Result<i64, ConfirmationError> {
        if self.quantity == 0 {
            return Err(ConfirmationError::NoQuantity { line, sku: self.sku.clone() });
        }
        self.unit_price_cents.checked_mul(i64::from(self.quantity)).ok_or_else(|| ConfirmationError::LineTooLarge {
            line,
            sku: self.sku.clone(),
            quantity: self.quantity,
            unit_price_cents: self.unit_price_cents,
        })
    }
}

/// Values of the templates, each on one line, with formatted amounts.
struct ConfirmationView {
    id: String,
    name: String,
    lines: Vec<ConfirmationLineView>,
    shipping: Option<String>,
    tax: Option<String>,
    total: String,
    /// Names of the attached files; empty without.
    attachments: String,
}

struct ConfirmationLineView {
    sku: String,
    description: String,
    quantity: u32,
    price: String,
    amount: String,
}

#[derive(Template)]
#[template(path = "order_confirmation.txt")]
struct TextTemplate<'a>(&'a ConfirmationView);

/// The HTML template, which askama escapes because of the extension of the file.
#[derive(Template)]
#[template(path = "order_confirmation.html")]
struct HtmlTemplate<'a>(&'a ConfirmationView);

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
