//! The payload of `invoice.generate`, and its checks.
//!
//! The worker adds up the invoice again, so that the total matches the lines.

use jiff::civil;
use leveret::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ReportError;

/// Maximum lines of an invoice, some 20 pages.
const LINE_LIMIT: usize = 1_000;

/// Writes an invoice as the PDF `invoice-NUMBER.pdf`. All amounts are euro cents.
///
/// ```
/// use leveret_reports::GenerateInvoice;
///
/// let invoice: GenerateInvoice = serde_json::from_str(
///     r#"{"number": "T-2026-17", "date": "2026-11-30", "seller": "Tea shop", "customer": "Ann <ann@example.org>",
///         "lines": [{"article": "TEA-0101", "quantity": 2, "cents": 890}], "total_cents": 1780}"#,
/// )?;
/// assert_eq!(invoice.file_name(), "invoice-T-2026-17.pdf");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "invoice.generate", queue = "reports", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Writes an invoice as the PDF `invoice-NUMBER.pdf`. All amounts are euro cents.")]
pub struct GenerateInvoice {
    /// The number of the invoice; an existing invoice of that number is replaced.
    pub number: String,
    /// The date of the invoice, such as `2026-11-30`.
    pub date: String,
    /// Name and address of the seller, on one line.
    pub seller: String,
    /// Name and address of the customer, on one line.
    pub customer: String,
    /// The lines of the invoice, 1 to 1,000.
    #[schemars(length(min = 1, max = 1000))]
    pub lines: Vec<InvoiceLine>,
    /// The sum of the lines.
    pub total_cents: i64,
}

/// One line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceLine {
    /// Number or name of the article.
    pub article: String,
    /// Quantity.
    pub quantity: u16,
    /// Price of one.
    pub cents: i64,
}

impl GenerateInvoice {
    /// Returns the name of the file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("invoice-{}.pdf", self.number)
    }

    /// Refuses an invoice that no file can show.
    pub(crate) fn check(&self) -> Result<civil::Date, ReportError> {
        let refused = |field, reason| Err(ReportError::Request { field, reason });
        if self.number.is_empty() {
            return refused("number", "it is empty");
        }
        if !(1..=LINE_LIMIT).contains(&self.lines.len()) {
            return refused("lines", "an invoice has 1 to 1000 lines");
        }
        if self.lines.iter().map(InvoiceLine::amount).sum::<i128>() != self.total_cents.into() {
            return refused("total_cents", "it is not the sum of the lines");
        }
        self.date.parse().or_else(|_| refused("date", "it is not a date such as 2026-11-30"))
    }
}

impl InvoiceLine {
    /// Returns the cents of the whole line.
    pub(crate) fn amount(&self) -> i128 {
        i128::from(self.quantity) * i128::from(self.cents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoice() -> GenerateInvoice {
        let line = |article: &str, quantity, cents| InvoiceLine { article: article.to_owned(), quantity, cents };
        GenerateInvoice {
            number: "17".to_owned(),
            date: "2026-11-30".to_owned(),
            seller: "Tea shop".to_owned(),
            customer: "Ann".to_owned(),
            lines: vec![line("TEA-0101", 2, 890), line("discount", 1, -80)],
            total_cents: 1700,
        }
    }

    #[test]
    fn an_invoice_that_no_file_can_show_is_refused_by_the_field() {
        assert_eq!(invoice().check().unwrap(), civil::date(2026, 11, 30));
        let long = vec![InvoiceLine { article: String::new(), quantity: 0, cents: 0 }; LINE_LIMIT + 1];
        for (change, field) in [
            (GenerateInvoice { number: String::new(), ..invoice() }, "number"),
            (GenerateInvoice { lines: Vec::new(), total_cents: 0, ..invoice() }, "lines"),
            (GenerateInvoice { lines: long, total_cents: 0, ..invoice() }, "lines"),
            (GenerateInvoice { total_cents: 1701, ..invoice() }, "total_cents"),
            (GenerateInvoice { date: "30.11.2026".to_owned(), ..invoice() }, "date"),
            (GenerateInvoice { date: "2026-02-30".to_owned(), ..invoice() }, "date"),
        ] {
            let error = change.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
    }

    #[test]
    fn the_largest_amounts_have_a_sum_that_is_not_their_total() {
        let line = InvoiceLine { article: String::new(), quantity: u16::MAX, cents: i64::MIN };
        let lines = vec![line; LINE_LIMIT];
        let error = GenerateInvoice { lines, ..invoice() }.check().unwrap_err().to_string();
        assert!(error.starts_with("total_cents: "), "{error}");
    }
}
