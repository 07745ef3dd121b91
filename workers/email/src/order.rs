//! An order, checked and rendered as the mail that confirms it.
//!
//! The sums are done again here: a customer must never read a total that its own lines contradict.

use askama::Template;
use leveret::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{address, compose::Draft, error::MailError, money::Currency, text::one_line};

/// An order as the shop publishes it.
///
/// All amounts are whole numbers of the currency's smallest unit (cents; yen; fils), so `1250` is 12.50 EUR and
/// 1,250 JPY. Negative amounts are discounts and refunds. Unknown fields are refused, so a misspelt one cannot be missing
/// from the mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "email.order_confirmation", queue = "email", schema)]
#[serde(deny_unknown_fields)]
pub struct OrderConfirmation {
    /// The order's number, as the customer knows it.
    pub id: String,
    /// Who ordered.
    pub customer: Customer,
    /// What was ordered; at least one line.
    pub lines: Vec<Line>,
    /// ISO 4217 code, such as `EUR`.
    pub currency: String,
    /// Shipping, when it is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping_cents: Option<i64>,
    /// Tax, when it comes on top of the lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax_cents: Option<i64>,
    /// What the customer pays: lines + shipping + tax.
    pub total_cents: i64,
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
pub struct Line {
    /// Article number.
    pub sku: String,
    /// What it is.
    pub description: String,
    /// How many; at least one.
    pub quantity: u32,
    /// Price of one.
    pub unit_price_cents: i64,
}

/// What makes an order impossible to confirm; no later attempt can change it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The customer cannot be written to.
    #[error("the customer cannot be written to")]
    Customer(#[from] MailError),
    /// Not an ISO 4217 code.
    #[error("currency {0:?} is not an ISO 4217 code of three capital letters")]
    Currency(String),
    /// Nothing was ordered.
    #[error("the order has no lines")]
    NoLines,
    /// A line orders none of its article.
    #[error("line {line} ({sku:?}) has quantity 0")]
    NoQuantity {
        /// Counted from 1.
        line: usize,
        /// Its article.
        sku: String,
    },
    /// A line comes to more than an amount can hold.
    #[error("line {line} ({sku:?}) is too large: {quantity} times {unit_price_cents}")]
    LineTooLarge {
        /// Counted from 1.
        line: usize,
        /// Its article.
        sku: String,
        /// How many.
        quantity: u32,
        /// Price of one.
        unit_price_cents: i64,
    },
    /// The sum comes to more than an amount can hold.
    #[error("the lines, shipping and tax add up to more than an amount can hold")]
    SumTooLarge,
    /// The stated total is not the sum.
    #[error("the order states a total of {stated} cents, but its lines, shipping and tax add up to {sum}")]
    WrongTotal {
        /// As stated.
        stated: i64,
        /// As added up.
        sum: i64,
    },
    /// A template failed.
    #[error("the mail cannot be rendered")]
    Render(#[from] askama::Error),
}

impl OrderConfirmation {
    /// Checks the order and renders its mail.
    ///
    /// # Errors
    /// [`OrderError`], always the order's own fault.
    pub fn draft(&self) -> Result<Draft, OrderError> {
        let to = address::mailbox(&self.customer.name, &self.customer.email)?;
        let currency = Currency::parse(&self.currency).ok_or_else(|| OrderError::Currency(self.currency.clone()))?;
        let view = View {
            id: one_line(&self.id),
            name: one_line(&self.customer.name),
            lines: self.line_views(currency)?,
            shipping: self.shipping_cents.map(|amount| currency.format(amount)),
            tax: self.tax_cents.map(|amount| currency.format(amount)),
            total: currency.format(self.checked_total()?),
        };
        let draft = Draft::new(to, format!("Order {} confirmed", view.id), Text(&view).render()?);
        Ok(Draft { html: Some(Html(&view).render()?), ..draft })
    }

    fn line_views(&self, currency: Currency) -> Result<Vec<LineView>, OrderError> {
        let view = |(index, line): (usize, &Line)| {
            let amount = line.amount(index + 1)?;
            Ok(LineView {
                sku: one_line(&line.sku),
                description: one_line(&line.description),
                quantity: line.quantity,
                price: currency.format(line.unit_price_cents),
                amount: currency.format(amount),
            })
        };
        self.lines.iter().enumerate().map(view).collect()
    }

    fn checked_total(&self) -> Result<i64, OrderError> {
        if self.lines.is_empty() {
            return Err(OrderError::NoLines);
        }
        let mut sum = 0_i64;
        for (index, line) in self.lines.iter().enumerate() {
            sum = sum.checked_add(line.amount(index + 1)?).ok_or(OrderError::SumTooLarge)?;
        }
        for extra in [self.shipping_cents, self.tax_cents].into_iter().flatten() {
            sum = sum.checked_add(extra).ok_or(OrderError::SumTooLarge)?;
        }
        if sum != self.total_cents {
            return Err(OrderError::WrongTotal { stated: self.total_cents, sum });
        }
        Ok(sum)
    }
}

impl Line {
    fn amount(&self, line: usize) -> Result<i64, OrderError> {
        if self.quantity == 0 {
            return Err(OrderError::NoQuantity { line, sku: self.sku.clone() });
        }
        self.unit_price_cents.checked_mul(i64::from(self.quantity)).ok_or_else(|| OrderError::LineTooLarge {
            line,
            sku: self.sku.clone(),
            quantity: self.quantity,
            unit_price_cents: self.unit_price_cents,
        })
    }
}

/// What the templates show: every value one line, every amount written out.
struct View {
    id: String,
    name: String,
    lines: Vec<LineView>,
    shipping: Option<String>,
    tax: Option<String>,
    total: String,
}

struct LineView {
    sku: String,
    description: String,
    quantity: u32,
    price: String,
    amount: String,
}

#[derive(Template)]
#[template(path = "order_confirmation.txt")]
struct Text<'a>(&'a View);

/// Escaped by askama, because of the file's extension.
#[derive(Template)]
#[template(path = "order_confirmation.html")]
struct Html<'a>(&'a View);

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
