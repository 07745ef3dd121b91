//! Tests of the contents of the files.

use std::{
    fs::{self, File},
    io,
};

use calamine::{Data, Reader, Xlsx, open_workbook};

use crate::{TestDirs, by_region};

const SUM_AND_COUNT: &str = r#""aggregates": [{"column": "amount", "op": "sum"}, {"column": "*", "op": "count"}, {"column": "date", "op": "max"}]"#;

/// Returns the text of each page.
pub(crate) fn words(pdf: &[u8]) -> Vec<String> {
    let document = lopdf::Document::load_mem(pdf).unwrap();
    document.get_pages().keys().map(|page| document.extract_text(&[*page]).unwrap()).collect()
}

#[test]
fn a_csv_report_has_titles_rows_and_exact_plain_figures() {
    let dirs = TestDirs::new();
    let written = dirs.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "csv""#))).unwrap();
    let expected = "region,sum(amount),count(*),max(date)\n\
        North,0.30,2,2026-01-04\n\
        South,1349.95,2,2026-02-02\n\
        Øst,-3.50,1,2026-02-01\n";
    assert_eq!(fs::read_to_string(&written.path).unwrap(), expected);
    assert_eq!((written.rows_read, written.rows), (5, 3));
    assert_eq!(dirs.files(), ["r.csv"]);
}

#[test]
fn filters_sort_and_top_are_obeyed_together() {
    let dirs = TestDirs::new();
    let request = r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "csv", "top": 1,
        "filters": [{"column": "product", "op": "in", "value": ["tea", "coffee"]},
                    {"column": "date", "op": "ge", "value": "2026-01-04"}],
        "sort": {"column": "sum(amount)", "descending": true}"#;
    let written = dirs.generate(&by_region(request)).unwrap();
    assert_eq!(fs::read_to_string(written.path).unwrap(), "region,sum(amount)\nSouth,99.95\n");
}

#[test]
fn an_xlsx_report_has_numbers_as_numbers_and_text_as_text() {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", "region,amount\n=1+1,0.1\n=1+1,0.2\n007,-5\n");
    let written = dirs.generate(&by_region(
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
    let dirs = TestDirs::new();
    let written = dirs.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "xlsx""#))).unwrap();
    let mut archive = zip::ZipArchive::new(File::open(written.path).unwrap()).unwrap();
    let mut part = |name: &str| io::read_to_string(archive.by_name(name).unwrap()).unwrap();
    let sheet = part("xl/worksheets/sheet1.xml");
    assert!(sheet.contains(r#"<pane ySplit="1" topLeftCell="A2""#), "{sheet}");
    assert!(sheet.contains(r#"<autoFilter ref="A1:D4"/>"#), "the total is not among the rows to filter: {sheet}");
    assert!(part("xl/styles.xml").contains(r##"formatCode="#,##0.00""##));
}

#[test]
fn a_pdf_report_states_the_source_of_its_figures_and_shows_them() {
    let dirs = TestDirs::new();
    let filters = r#""filters": [{"column": "product", "op": "ne", "value": "coffee"}]"#;
    let written = dirs.generate(&by_region(&format!(r#"{SUM_AND_COUNT}, "format": "pdf", {filters}"#))).unwrap();
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
    let dirs = TestDirs::new();
    let rows: String = (0..200).map(|number| format!("region {number:03},{number}.5\n")).collect();
    dirs.put("sales.csv", format!("region,amount\n{rows}"));
    let written =
        dirs.generate(&by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "pdf""#)).unwrap();
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
fn no_rows_make_a_report_that_says_so() {
    let dirs = TestDirs::new();
    for format in ["csv", "xlsx", "pdf"] {
        let none = r#""filters": [{"column": "region", "op": "eq", "value": "Mars"}]"#;
        let request = by_region(&format!(r#"{SUM_AND_COUNT}, "format": "{format}", {none}"#));
        let written = dirs.generate(&request).unwrap();
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
    let dirs = TestDirs::new();
    for format in ["csv", "xlsx", "pdf"] {
        let request = by_region(&format!(r#"{SUM_AND_COUNT}, "format": "{format}""#));
        let first = fs::read(dirs.generate(&request).unwrap().path).unwrap();
        let again = fs::read(dirs.generate(&request).unwrap().path).unwrap();
        assert!(first == again, "{format}");
    }
    assert_eq!(dirs.files().len(), 3);
}

#[test]
fn a_value_that_an_xlsx_cell_would_not_give_back_is_written_as_text() {
    let dirs = TestDirs::new();
    let column = |cells: &[&str]| {
        let rows: String = cells.iter().map(|cell| format!("{cell},1\n")).collect();
        dirs.put("sales.csv", format!("region,amount\n{rows}"));
        let request = by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "xlsx""#);
        let mut workbook: Xlsx<_> = open_workbook(dirs.generate(&request).unwrap().path).unwrap();
        let sheet = workbook.worksheet_range("Report").unwrap();
        sheet.rows().skip(1).take(cells.len()).map(|row| row[0].clone()).collect::<Vec<_>>()
    };
    for cells in [
        &["1234567890123456", "1234567890123457"][..],
        &["9007199254740992", "9007199254740993"],
        &["12345678901234567890123456789012345678"],
        &["5", "1234567890123456"],
        &["1.50", "2.25"],
        &["007"],
        &["1e5"],
        &["TRUE", "false"],
        &["2026-01-01"],
        &["-0"],
        &["0.1234567890123456"],
    ] {
        let texts: Vec<_> = cells.iter().map(|cell| Data::String((*cell).to_owned())).collect();
        let mut found = column(cells);
        found.sort_by_key(ToString::to_string);
        let mut wanted = texts;
        wanted.sort_by_key(ToString::to_string);
        assert_eq!(found, wanted);
    }
    assert_eq!(column(&["123456789012345"]), [Data::Float(123_456_789_012_345.0)]);
    assert_eq!(column(&["-2.5"]), [Data::Float(-2.5)]);
}

#[test]
fn a_figure_that_an_xlsx_cell_would_round_is_written_as_text_and_a_text_that_it_would_cut_is_refused() {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", "region,amount\nN,12345678901234.56\nS,1234567890.25\n");
    let request = by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "xlsx""#);
    let mut workbook: Xlsx<_> = open_workbook(dirs.generate(&request).unwrap().path).unwrap();
    let rows: Vec<_> = workbook.worksheet_range("Report").unwrap().rows().map(<[Data]>::to_vec).collect();
    assert_eq!(rows[1][1], Data::String("12345678901234.56".to_owned()));
    assert_eq!(rows[2][1], Data::Float(1_234_567_890.25));
    assert_eq!(rows[3][1], Data::String("12346913469124.81".to_owned()));
    dirs.put("sales.csv", format!("region,amount\n{},1\n", "x".repeat(32_768)));
    let error = dirs.generate(&request).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("32767"), "{error}");
}

#[test]
fn a_csv_report_guards_what_a_spreadsheet_would_run_and_nothing_else() {
    let dirs = TestDirs::new();
    for (cell, safe) in [
        ("-5", "-5"),
        ("+5.0", "+5.0"),
        ("-1e5", "-1e5"),
        ("-.5", "-.5"),
        ("=1+1", "'=1+1"),
        ("+1-1", "'+1-1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\u{a0}=1+1", "'\u{a0}=1+1"),
        ("\u{feff}=1+1", "'\u{feff}=1+1"),
        ("\u{200b}=1+1", "'\u{200b}=1+1"),
        ("\t=1+1", "'\t=1+1"),
        ("\tplain", "'\tplain"),
        ("＝1+1", "'＝1+1"),
        ("＋1-1", "'＋1-1"),
        ("－2+3", "'－2+3"),
        ("＠SUM(A1)", "'＠SUM(A1)"),
        ("x;=1+1", "x;'=1+1"),
        ("x\t@SUM(A1)", "x\t'@SUM(A1)"),
        ("x; -5", "x; -5"),
        ("plain = text", "plain = text"),
        ("a-b@c.example", "a-b@c.example"),
        ("'=1", "'=1"),
    ] {
        dirs.put("sales.csv", format!("region,amount\n{cell},1\nother,1\n"));
        let request = by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "csv""#);
        let text = fs::read_to_string(dirs.generate(&request).unwrap().path).unwrap();
        assert!(text.lines().any(|line| line == format!("{safe},1")), "{cell:?}: {text:?}");
    }
    for (cell, safe) in
        [("\"\r\n=1+1\"", "\"'\r\n=1+1\""), ("\"x\n=1+1\"", "\"x\n'=1+1\""), ("\"x\r=1+1\"", "\"x\r'=1+1\"")]
    {
        dirs.put("sales.csv", format!("region,amount\n{cell},1\n"));
        let request = by_region(r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "csv""#);
        let text = fs::read_to_string(dirs.generate(&request).unwrap().path).unwrap();
        assert!(text.contains(&format!("\n{safe},1\n")), "{cell:?}: {text:?}");
    }
    dirs.put("sales.csv", "region;amount\n-1.234,5;1\n-1.234,5x;1\n");
    let request = by_region(
        r#""aggregates": [{"column": "amount", "op": "sum"}], "format": "csv", "dialect": {"decimal": ",", "thousands": "."}"#,
    );
    let text = fs::read_to_string(dirs.generate(&request).unwrap().path).unwrap();
    assert!(text.contains("\n\"-1.234,5\",1\n") && text.contains("\n\"'-1.234,5x\",1"), "{text}");
}
