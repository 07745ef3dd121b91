//! Tests of the job `invoice.generate`.

use std::fs;

use leveret::{ErrorKind, Outcome, testing};
use leveret_reports::{GenerateInvoice, InvoiceLine, worker};

use crate::{TestDirs, files::words};

fn invoice(number: &str, lines: usize) -> GenerateInvoice {
    let line = |at| InvoiceLine { article: format!("TEA-{at:04}"), quantity: 2, cents: 61_725 };
    GenerateInvoice {
        number: number.to_owned(),
        date: "2026-11-30".to_owned(),
        seller: "Tea shop, 1 Leaf Lane".to_owned(),
        customer: "Zoë O'Brien <zoe@example.com>".to_owned(),
        lines: (0..lines).map(line).collect(),
        total_cents: 123_450 * lines as i64,
    }
}

#[tokio::test]
async fn an_invoice_is_a_pdf_with_its_lines_and_their_sum() {
    let dirs = TestDirs::new();
    let outcome = testing::perform(worker(dirs.reports(), 1), &invoice("T-17", 2)).await.unwrap();
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(dirs.files(), ["invoice-T-17.pdf"]);
    let page = words(&fs::read(dirs.output().join("invoice-T-17.pdf")).unwrap()).concat();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "Invoice T-17",
        "From Tea shop, 1 Leaf Lane",
        "To Zoë O'Brien <zoe@example.com>",
        "Date 2026-11-30",
        "Price (EUR)",
        "TEA-0001 2 617.25 1,234.50 Total 2,469.00",
    ] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
}

#[tokio::test]
async fn the_same_invoice_is_the_same_file_on_as_many_pages_as_it_needs() {
    let dirs = TestDirs::new();
    let read = || fs::read(dirs.output().join("invoice-1.pdf")).unwrap();
    dirs.reports().generate_invoice(&invoice("1", 200), &|| false).unwrap();
    let first = read();
    assert!(words(&first).join(" ").contains("Page 5 of 5"));
    dirs.reports().generate_invoice(&invoice("1", 200), &|| false).unwrap();
    assert!(read() == first, "the bytes differ");
}

#[tokio::test]
async fn a_wrong_invoice_is_a_dead_letter_that_names_the_field() {
    let dirs = TestDirs::new();
    let (sum, name) = (GenerateInvoice { total_cents: 1, ..invoice("1", 1) }, invoice("../1", 1));
    for (wrong, text) in [(sum, "total_cents: "), (name, "without directories")] {
        let outcome = testing::perform(worker(dirs.reports(), 1), &wrong).await.unwrap();
        let Outcome::DeadLetter { kind: ErrorKind::Permanent, reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(text), "{reason}");
    }
    assert!(dirs.files().is_empty());
}
