//! What is in the files.

use std::{
    fs::{self, File},
    io,
};

use calamine::{Data, Reader, Xlsx, open_workbook};
use printpdf::{PdfDocument, PdfParseOptions};

use crate::{Place, by_region};

const SUM_AND_COUNT: &str = r#""aggregates": [{"column": "amount", "op": "sum"}, {"column": "*", "op": "count"}, {"column": "date", "op": "max"}]"#;

fn words(pdf: &[u8]) -> Vec<String> {
    let document = PdfDocument::parse(pdf, &PdfParseOptions::default(), &mut Vec::new()).unwrap();
    let pages = document.pages.iter().map(|page| page.extract_text(&document.resources).join("\n"));
    pages.collect()
}

#[test]
fn a_csv_report_has_titles_rows_and_exact_plain_figures() {
    let place = Place::new();
    let written = place.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "csv""#))).unwrap();
    let expected = "region,sum(amount),count(*),max(date)\n\
        North,0.30,2,2026-01-04\n\
        South,1349.95,2,2026-02-02\n\
        Øst,-3.50,1,2026-02-01\n";
    assert_eq!(fs::read_to_string(&written.path).unwrap(), expected);
    assert_eq!((written.rows_read, written.rows), (5, 3));
    assert_eq!(place.files(), ["r.csv"]);
}

#[test]
fn filters_sort_and_top_are_obeyed_together() {
    let place = Place::new();
    let request = r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "csv", "top": 1,
        "filters": [{"column": "product", "op": "in", "value": ["tea", "coffee"]},
                    {"column": "date", "op": "ge", "value": "2026-01-04"}],
        "sort": {"column": "sum(amount)", "descending": true}"#;
    let written = place.generate(&by_region(request)).unwrap();
    assert_eq!(fs::read_to_string(written.path).unwrap(), "region,sum(amount)\nSouth,99.95\n");
}

#[test]
fn an_xlsx_report_has_numbers_as_numbers_and_text_as_text() {
    let place = Place::new();
    place.put("sales.csv", "region,amount\n=1+1,0.1\n=1+1,0.2\n007,-5\n");
    let written = place.generate(&by_region(
        r#""aggregates": [{"column": "amount", "op": "sum"}, {"column": "amount", "op": "count"}], "format": "xlsx""#,
    ));
    let mut workbook: Xlsx<_> = open_workbook(written.unwrap().path).unwrap();
    let sheet = workbook.worksheet_range("Report").unwrap();
    let text = |text: &str| Data::String(text.to_owned());
    let rows: Vec<_> = sheet.rows().map(<[Data]>::to_vec).collect();
    assert_eq!(rows[0], [text("region"), text("sum(amount)"), text("count(amount)")]);
    assert_eq!(rows[1], [text("007"), Data::Float(-5.0), Data::Float(1.0)]);
    assert_eq!(rows[2], [text("=1+1"), Data::Float(0.3), Data::Float(2.0)]);
    assert_eq!(rows[3], [text("Total"), Data::Float(-4.7), Data::Float(3.0)]);
    assert!(workbook.worksheet_formula("Report").unwrap().is_empty(), "nothing is run");
    let about = workbook.worksheet_range("About").unwrap();
    assert!(about.rows().any(|row| row == [text("Data of"), text("2026-01-01 00:00 UTC")]));
}

#[test]
fn an_xlsx_report_keeps_its_titles_in_view_and_its_figures_formatted() {
    let place = Place::new();
    let written = place.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "xlsx""#))).unwrap();
    let mut archive = zip::ZipArchive::new(File::open(written.path).unwrap()).unwrap();
    let mut part = |name: &str| io::read_to_string(archive.by_name(name).unwrap()).unwrap();
    let sheet = part("xl/worksheets/sheet1.xml");
    assert!(sheet.contains(r#"<pane ySplit="1" topLeftCell="A2""#), "{sheet}");
    assert!(sheet.contains(r#"<autoFilter ref="A1:D4"/>"#), "the total is not among the rows to filter: {sheet}");
    assert!(part("xl/styles.xml").contains(r##"formatCode="#,##0.00""##));
}

#[test]
fn a_pdf_report_tells_where_its_figures_come_from_and_shows_them() {
    let place = Place::new();
    let filters = r#""filters": [{"column": "product", "op": "ne", "value": "coffee"}]"#;
    let written = place.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "pdf", {filters}"#))).unwrap();
    let pages = words(&fs::read(written.path).unwrap());
    assert_eq!(pages.len(), 1);
    for part in [
        "Sum of amount, number of rows and more by region",
        "sales.csv · data of 2026-01-01 00:00 UTC · all 5 rows · 3 groups",
        "Only where product is not coffee",
        "sum(amount)",
        "1,349.95",
        "-3.50",
        "Øst",
        "2026-02-02",
        "Total",
        "1,346.75",
        "Page 1 of 1",
    ] {
        assert!(pages[0].contains(part), "{part:?} is not in {}", pages[0]);
    }
}

#[test]
fn a_long_pdf_report_repeats_its_titles_numbers_its_pages_and_ends_in_the_total() {
    let place = Place::new();
    let rows: String = (0..200).map(|number| format!("region {number:03},{number}.5\n")).collect();
    place.put("sales.csv", format!("region,amount\n{rows}"));
    let written =
        place.generate(&by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "pdf""#)).unwrap();
    let pages = words(&fs::read(written.path).unwrap());
    assert!(pages.len() > 3);
    for (page, number) in pages.iter().zip(1..) {
        assert!(page.contains("sum(amount)") && page.contains(&format!("Page {number} of {}", pages.len())));
    }
    for number in 0..200 {
        let label = format!("region {number:03}");
        assert!(pages.iter().any(|page| page.contains(&label)), "{label}");
    }
    assert!(pages[0].contains("the first 15 of 200 rows"), "the chart says what it leaves out");
    assert!(pages[pages.len() - 1].contains("20,000.0"));
}

#[test]
fn letters_that_a_pdf_cannot_show_are_replaced_and_it_says_so() {
    let place = Place::new();
    place.put("sales.csv", "region,amount\nŁódź,1\n東京,2\n");
    let request = by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "pdf""#);
    let pages = words(&fs::read(place.generate(&request).unwrap().path).unwrap());
    assert!(pages[0].contains("Lódz") && pages[0].contains("??"), "{}", pages[0]);
    assert!(pages[0].contains("Letters that this page's font lacks"), "{}", pages[0]);
    let written = place.generate(&request.replace("pdf", "csv")).unwrap();
    assert!(fs::read_to_string(written.path).unwrap().contains("東京"));
}

#[test]
fn no_rows_make_a_report_that_says_so() {
    let place = Place::new();
    for format in ["csv", "xlsx", "pdf"] {
        let none = r#""filters": [{"column": "region", "op": "eq", "value": "Mars"}]"#;
        let request = by_region(&format!(r#"{SUM_AND_COUNT}, "format": "{format}", {none}"#));
        let written = place.generate(&request).unwrap();
        assert_eq!(written.rows, 0);
        if format == "pdf" {
            assert!(
                words(&fs::read(written.path).unwrap())[0].contains("No row of the data set satisfies the filters.")
            );
        }
    }
}

#[test]
fn the_same_job_run_twice_leaves_the_same_bytes() {
    let place = Place::new();
    for format in ["csv", "xlsx", "pdf"] {
        let request = by_region(&format!(r#"{SUM_AND_COUNT}, "format": "{format}""#));
        let first = fs::read(place.generate(&request).unwrap().path).unwrap();
        let again = fs::read(place.generate(&request).unwrap().path).unwrap();
        assert!(first == again, "{format}");
    }
    assert_eq!(place.files().len(), 3);
}
