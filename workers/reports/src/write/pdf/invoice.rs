//! The PDF of an invoice.

use std::fs::File;

use jiff::civil::Date;

use super::{Content, WriteError, table_layout::TableLayout, write_content};
use crate::{
    decimal::Decimal,
    invoice::{GenerateInvoice, InvoiceLine},
    table::{ColumnRole, ReportCell, ReportTable},
};

const COLUMNS: [(&str, ColumnRole); 4] = [
    ("Article", ColumnRole::Group),
    ("Quantity", ColumnRole::Figure { decimals: 0 }),
    ("Price (EUR)", ColumnRole::Figure { decimals: 2 }),
    ("Amount (EUR)", ColumnRole::Figure { decimals: 2 }),
];

/// Writes the pages of an invoice, and returns the letters that the fonts lack.
pub(in crate::write) fn write_invoice(
    invoice: &GenerateInvoice,
    date: Date,
    file: &File,
    cancelled: &dyn Fn() -> bool,
) -> Result<String, WriteError> {
    let total =
        [ReportCell::Text("Total".to_owned()), ReportCell::Text(String::new()), ReportCell::Text(String::new())];
    let total = total.into_iter().chain([amount(invoice.total_cents.into())]).collect();
    let table = ReportTable::of_rows(&COLUMNS, invoice.lines.iter().map(row).collect(), total);
    let title = format!("Invoice {}", invoice.number);
    let lines = vec![format!("From {}", invoice.seller), format!("To {}", invoice.customer), format!("Date {date}")];
    let content =
        Content { title: &title, about: &invoice.seller, lines, chart: None, table: &table, date: date.into() };
    write_content(&content, &TableLayout::new(&table)?, file, cancelled)
}

fn row(line: &InvoiceLine) -> Vec<ReportCell> {
    let quantity = Decimal::of_cents(100 * i128::from(line.quantity));
    vec![
        ReportCell::Text(line.article.clone()),
        ReportCell::Number(quantity),
        amount(line.cents.into()),
        amount(line.amount()),
    ]
}

fn amount(cents: i128) -> ReportCell {
    ReportCell::Number(Decimal::of_cents(cents))
}
