//! Tests that no figure is silently wrong: a cell that cannot be compared or added is an error, or its row is skipped.

use std::fs;

use calamine::{Data, Reader, Xlsx, open_workbook};

use crate::{TestDirs, by_region, files::words, read};

const COUNT: &str = r#""aggregates": [{"column": "*", "op": "count"}], "format": "csv""#;

/// Returns a report of how many rows match a filter, or the error.
fn counted(data: &str, filter: &str, rest: &str) -> Result<String, String> {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", data);
    let request = format!(
        r#"{{"dataset": "sales.csv", "output": "r", {COUNT}, "filters": [{filter}]{}{rest}}}"#,
        if rest.is_empty() { "" } else { ", " }
    );
    let written = dirs.reports().generate(&read(&request), &|| false).map_err(|error| error.to_string())?;
    Ok(fs::read_to_string(written.path).unwrap().lines().nth(1).unwrap().to_owned())
}

fn amount(op: &str, value: &str) -> String {
    format!(r#"{{"column": "amount", "op": "{op}", "value": {value}}}"#)
}

#[test]
fn an_ordered_filter_on_a_cell_that_is_not_comparable_is_an_error_that_names_row_and_value() {
    for (cells, op, value, complaint) in [
        (
            "50\nN/A\n150\npending",
            "gt",
            "100",
            r#"row 3, column "amount": "N/A" is not a number, so it cannot be compared with 100"#,
        ),
        ("50\n$150", "ge", "100", r#"row 3, column "amount": "$150" is not a number"#),
        ("50\n\"1,500\"", "lt", "100", r#""1,500" is not a number"#),
        ("50\n1.500 €", "le", "\"100\"", r#""1.500 €" is not a number"#),
        ("2026-01-02\n01/03/2026", "ge", "\"2026-01-01\"", r#""01/03/2026" is not a date such as 2026-11-21"#),
        ("2026-01-02\nsoon", "lt", "\"2026-01-01\"", r#""soon" is not a date"#),
        ("pear\n7", "gt", "\"apple\"", r#""7" is not text"#),
        (
            "2026-01-02T10:00:00Z\n2026-01-02 10:00",
            "lt",
            "\"2026-01-02T12:00:00+02:00\"",
            r#""2026-01-02 10:00" is not a date"#,
        ),
    ] {
        let error = counted(&format!("amount\n{cells}\n"), &amount(op, value), "").unwrap_err();
        assert!(error.contains(complaint), "{cells:?}: {error}");
    }
}

#[test]
fn a_filter_never_passes_over_a_number_in_another_format() {
    for (cell, op, value) in [
        ("\"1,000\"", "eq", "1000"),
        ("$1000", "eq", "1000"),
        ("1000 EUR", "ne", "1000"),
        ("1.000,00", "in", "[1000, 2000]"),
        ("1 000", "not_in", "[\"1000\"]"),
    ] {
        let error = counted(&format!("id;amount\n1;{cell}\n"), &amount(op, value), "").unwrap_err();
        assert!(error.contains("is not a number, so it cannot be compared with"), "{cell} {op} {value}: {error}");
    }
    for (cells, op, value, rows) in [
        ("100\n100.0\n 100 \nN/A\n1e2", "eq", "100", "4"),
        ("100\nN/A\n", "ne", "100", "1"),
        ("-5\n+5\n\n5", "gt", "0", "2"),
        (" \n-1\n", "lt", "0", "1"),
        ("2026-01-02\n2026-01-02T10:00:00\n2026-01-01", "ge", "\"2026-01-02\"", "2"),
        ("2026-01-02T10:00:00Z\n2026-01-02T13:30:00+02:00", "lt", "\"2026-01-02T11:00:00Z\"", "1"),
        ("2026-11-21\n2026-12-01", "gt", "\"2026-12\"", "1"),
    ] {
        let rest =
            format!("id,amount\n{}\n", cells.lines().map(|cell| format!("1,{cell}")).collect::<Vec<_>>().join("\n"));
        assert_eq!(counted(&rest, &amount(op, value), "").as_deref(), Ok(rows), "{cells:?} {op} {value}");
    }
}

#[test]
fn a_row_that_another_filter_leaves_out_need_not_be_comparable() {
    let filters = format!(r#"{}, {{"column": "region", "op": "eq", "value": "N"}}"#, amount("gt", "100"));
    assert_eq!(counted("region,amount\nS,N/A\nN,150\n", &filters, "").as_deref(), Ok("1"));
}

#[test]
fn invalid_rows_are_skipped_only_on_request_and_are_reported() {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", "region,amount\nN,N/A\nN,50\nN,150\nS,pending\nS,200\n");
    let request = by_region(&format!(
        r#""aggregates": [{{"column": "amount", "op": "count"}}, {{"column": "amount", "op": "sum"}}], "format": "csv",
           "filters": [{}], "on_error": "skip""#,
        amount("gt", "100")
    ));
    let written = dirs.generate(&request).unwrap();
    assert_eq!(fs::read_to_string(&written.path).unwrap(), "region,count(amount),sum(amount)\nN,1,150\nS,1,200\n");
    assert_eq!(serde_json::to_value(&written).unwrap()["rows_skipped"], 2);
    let unfiltered = by_region(
        r#""aggregates": [{"column": "*", "op": "count"}, {"column": "amount", "op": "sum"}], "format": "csv", "on_error": "skip""#,
    );
    let written = dirs.generate(&unfiltered).unwrap();
    let text = fs::read_to_string(&written.path).unwrap();
    assert_eq!(text, "region,count(*),sum(amount)\nN,2,200\nS,1,200\n", "a skipped row counts in no figure");
    let written = dirs.generate(&unfiltered.replace("csv\", \"on", "pdf\", \"on")).unwrap();
    let page = words(&fs::read(written.path).unwrap()).concat();
    assert!(page.contains("3 of 5 rows · 2 skipped as not valid"), "{page}");
    let written = dirs.generate(&unfiltered.replace("csv\", \"on", "xlsx\", \"on")).unwrap();
    let mut workbook: Xlsx<_> = open_workbook(written.path).unwrap();
    let about = workbook.worksheet_range("About").unwrap();
    let text = |text: &str| Data::String(text.to_owned());
    assert!(about.rows().any(|row| row == [text("Rows skipped"), text("2")]));
}

#[test]
fn a_number_that_json_does_not_keep_exactly_is_refused() {
    for value in ["123456789012345678901", "[1, 0.12345678901234567]", "1e60"] {
        let op = if value.starts_with('[') { "in" } else { "eq" };
        let error = counted("amount\n1\n", &amount(op, value), "").unwrap_err();
        assert!(error.contains("must be given as a text"), "{value}: {error}");
    }
    let exact = amount("eq", "\"123456789012345678901\"");
    assert_eq!(counted("amount\n123456789012345678901\n123456789012345678902\n", &exact, "").as_deref(), Ok("1"));
}

#[test]
fn the_least_and_the_greatest_are_not_taken_by_text_among_dressed_numbers_and_local_dates() {
    let dirs = TestDirs::new();
    let request = by_region(r#""aggregates": [{"column": "amount", "op": "max"}], "format": "csv""#);
    for (cells, complaint) in [
        (["$5", "$10"], r#"row 2, column "amount": "$5" "#),
        (["9/30/2026", "10/1/2026"], r#"row 2, column "amount": "9/30/2026" "#),
    ] {
        dirs.put("sales.csv", format!("region,amount\nN,{}\nN,{}\n", cells[0], cells[1]));
        let error = dirs.generate(&request).unwrap_err().to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
}

#[test]
fn the_least_and_the_greatest_date_are_those_in_time_and_not_in_text() {
    let dirs = TestDirs::new();
    for (op, cells, figure) in [
        ("max", "2026/9/30\nN,2026/11/1", "2026/11/1"),
        ("min", "2026-10-1\nN,2026-9-30", "2026-9-30"),
        ("max", "2026-11-21 9:00\nN,2026-11-21 10:00", "2026-11-21 10:00"),
        ("max", "2026-11-21T10:00+02:00\nN,2026-11-21T09:00Z", "2026-11-21T09:00Z"),
    ] {
        dirs.put("sales.csv", format!("region,amount\nN,{cells}\n"));
        let request = by_region(&format!(r#""aggregates": [{{"column": "amount", "op": "{op}"}}], "format": "csv""#));
        let report = fs::read_to_string(dirs.generate(&request).unwrap().path).unwrap();
        assert_eq!(report.lines().nth(1), Some(format!("N,{figure}").as_str()), "{cells}");
    }
    dirs.put("sales.csv", "region,amount\nN,2026-11-21T10:00\nN,2026-11-21T10:00Z\n");
    let request = by_region(r#""aggregates": [{"column": "amount", "op": "max"}], "format": "csv""#);
    let error = dirs.generate(&request).unwrap_err().to_string();
    assert!(error.contains("cannot be ordered among the dates without an offset from UTC"), "{error}");
}

#[test]
fn a_filter_compares_dates_as_moments_and_refuses_those_in_a_local_format() {
    let count = |cell: &str, op: &str, value: &str| counted(&format!("amount\n{cell}\n"), &amount(op, value), "");
    for (cell, op, value, found) in [
        ("2026/9/30", "lt", "\"2026-10-01\"", "1"),
        ("2026-9-1", "eq", "\"2026-09-01\"", "1"),
        ("2026-11-21T00:00:00", "eq", "\"2026-11-21\"", "1"),
        ("2026-11-21T10:00:00", "eq", "\"2026-11-21\"", "0"),
        ("2026-11-21T12:00:00+02:00", "in", "[\"2026-11-21T10:00Z\"]", "1"),
        ("2026/11/21", "not_in", "[\"2026-11-21\"]", "0"),
    ] {
        assert_eq!(count(cell, op, value).as_deref(), Ok(found), "{cell} {op} {value}");
    }
    for (op, value) in [("eq", "\"2026-11-21\""), ("ne", "\"2026-11-21\""), ("not_in", "[\"2026-11-21\"]")] {
        let error = count("21.11.2026", op, value).unwrap_err();
        assert!(error.contains(r#""21.11.2026" is not a date such as 2026-11-21"#), "{op}: {error}");
    }
}

#[test]
fn a_number_with_more_decimals_than_fit_is_refused_and_not_rounded() {
    let dirs = TestDirs::new();
    for (op, cell) in [("sum", "6.6e-34"), ("mean", "0.123456789012345678901"), ("min", "6.6e-34")] {
        dirs.put("sales.csv", format!("region,amount\nN,{cell}\n"));
        let request = by_region(&format!(r#""aggregates": [{{"column": "amount", "op": "{op}"}}], "format": "csv""#));
        let error = dirs.generate(&request).unwrap_err().to_string();
        assert!(error.starts_with(&format!(r#"row 2, column "amount": "{cell}" "#)), "{error}");
    }
    let error = counted("amount\n1e-25\n", &amount("eq", "0"), "").unwrap_err();
    assert!(error.contains("is not a number"), "{error}");
}

#[test]
fn a_quoted_empty_cell_counts_alike_whatever_ends_its_line() {
    let dirs = TestDirs::new();
    let request = by_region(r#""aggregates": [{"column": "*", "op": "count"}], "format": "csv""#);
    let text = "region\nN\n\"\"\n\n\"\"\n";
    let reports = [text.to_owned(), text.replace('\n', "\r\n")].map(|data| {
        dirs.put("sales.csv", data);
        fs::read_to_string(dirs.generate(&request).unwrap().path).unwrap()
    });
    assert!(reports[0].lines().any(|line| line == ",2"), "{}", reports[0]);
    assert_eq!(reports[0], reports[1]);
}
