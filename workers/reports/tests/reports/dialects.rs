//! Tests of files that other programs write: separators, encodings, number formats, quotation marks.

use std::fs;

use crate::{TestDirs, by_region};

/// Returns the sum of `amount` by region as a CSV report, or the error.
fn sums(data: &[u8], dialect: &str) -> Result<String, String> {
    let dirs = TestDirs::new();
    dirs.put("sales.csv", data);
    let dialect = if dialect.is_empty() { String::new() } else { format!(r#", "dialect": {dialect}"#) };
    let request =
        by_region(&format!(r#""aggregates": [{{"column": "amount", "op": "sum"}}], "format": "csv"{dialect}"#));
    let written = dirs.generate(&request).map_err(|error| error.to_string())?;
    Ok(fs::read_to_string(written.path).unwrap().lines().skip(1).collect::<Vec<_>>().join("|"))
}

fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(order).collect()
}

#[test]
fn a_misplaced_quotation_mark_is_an_error_that_names_the_row() {
    for (data, row) in [
        ("region,amount\nN,1\n\"Monitor 24\"\",10\nS,2\n\"T\",3\n", 3),
        ("region,amount\nMonitor 24\",10\n", 2),
        ("region,amount\n\"N\"x,1\n", 2),
        ("region,amount\nN,1\n\"a\nb\",2\n\"S\" ,1\n", 5),
        ("region,amount\nN, \"1\"\n", 2),
        ("region,amount\r\nN,1\r\n\"S\"\rx,1\r\n", 3),
        ("region,am\"ount\"\nN,1\n", 1),
        ("region,amount\nN,\"\"1\"\"\n", 2),
    ] {
        let error = sums(data.as_bytes(), "").unwrap_err();
        assert!(error.starts_with(&format!("row {row}: a quotation mark")), "{data:?}: {error}");
    }
    let far = format!("region,amount\n{}\"a\"b,1\n", "North,1\n".repeat(50_000));
    assert!(sums(far.as_bytes(), "").unwrap_err().starts_with("row 50002: a quotation mark"));
}

#[test]
fn quoting_as_the_rfc_has_it_is_read_whatever_the_buffers() {
    let quoted = "region,amount\r\n\"Nor\"\"th\",\"1\"\r\n\"a,b\r\nc\",\"\"\r\n";
    assert_eq!(sums(quoted.as_bytes(), "").as_deref(), Ok("\"Nor\"\"th\",1|\"a,b|c\",0"));
    // Puts a quotation mark at every position relative to the end of a buffer.
    let rows: String = (0..200_000).map(|at| format!("\"{}\"\"q\",1\n", "x".repeat(at % 7))).collect();
    assert_eq!(sums(format!("region,amount\n{rows}").as_bytes(), "").unwrap().matches("\"\"q").count(), 7);
    assert_eq!(sums(b"region,amount\nMonitor 24\",10\n", r#"{"quote": ""}"#).as_deref(), Ok("\"Monitor 24\"\"\",10"));
    assert_eq!(sums(b"region,amount\n'a,b',10\n", r#"{"quote": "'"}"#).as_deref(), Ok("\"a,b\",10"));
}

#[test]
fn separators_are_found_where_that_is_safe_or_taken_from_the_request() {
    for (data, dialect) in [
        ("region;amount\nN;1\n", ""),
        ("region\tamount\nN\t1\n", ""),
        ("region|amount\r\nN|1\r\n", ""),
        ("sep=;\nregion;amount\nN;1\n", ""),
        ("sep=^\r\nregion^amount\r\nN^1\r\n", ""),
        ("\"region\";\"amount\"\n\"N\";1\n", ""),
        ("region;amount;a, b\nN;1;\n", r#"{"delimiter": ";"}"#),
        ("region~amount\nN~1\n", r#"{"delimiter": "~"}"#),
    ] {
        assert_eq!(sums(data.as_bytes(), dialect).as_deref(), Ok("N,1"), "{data:?}");
    }
    let error = sums(b"region;amount, net\nN;1\n", "").unwrap_err();
    assert!(error.contains(r#"the columns are "region;amount", "net""#), "two kinds are not guessed at: {error}");
    let error = sums(b"sep=;\nregion;amount\nN;x\n", "").unwrap_err();
    assert!(error.starts_with("row 3,"), "the line before the header counts: {error}");
}

#[test]
fn encodings_are_known_by_their_mark_or_taken_from_the_request() {
    let text = "region,amount\nZürich €,1\n";
    let marked = format!("\u{feff}{text}");
    let windows: Vec<u8> = text.chars().map(|letter| if letter == '€' { 0x80 } else { letter as u8 }).collect();
    for (data, dialect) in [
        (marked.clone().into_bytes(), ""),
        (utf16(&marked, u16::to_le_bytes), ""),
        (utf16(&marked, u16::to_be_bytes), ""),
        (utf16(text, u16::to_le_bytes), r#"{"encoding": "utf-16le"}"#),
        (utf16(text, u16::to_be_bytes), r#"{"encoding": "UTF-16BE"}"#),
        (windows, r#"{"encoding": "windows-1252"}"#),
    ] {
        assert_eq!(sums(&data, dialect).as_deref(), Ok("Zürich €,1"), "{data:?}");
    }
    let long: String = format!("region,amount\n{}", "Zürich,1\n".repeat(40_000));
    assert_eq!(sums(&utf16(&format!("\u{feff}{long}"), u16::to_le_bytes), "").as_deref(), Ok("Zürich,40000"));
}

#[test]
fn an_encoding_that_is_not_known_is_an_error_in_plain_words() {
    let error = sums(&utf16("region,amount\nN,1\n", u16::to_le_bytes), "").unwrap_err();
    assert!(error.contains("UTF-16") && error.contains("dialect.encoding") && !error.contains("\\0"), "{error}");
    let error = sums(b"region,amount\nZ\xfcrich,1\n", "").unwrap_err();
    assert!(error.contains("row 2") && error.contains("dialect.encoding"), "{error}");
    let error = sums(b"region,amount\nN,1\n", r#"{"encoding": "latin-99"}"#).unwrap_err();
    assert!(error.starts_with("dialect: ") && error.contains("encoding"), "{error}");
    let error = sums(b"\xff\xfer\0e\0g\0\x00\xd8x\0", "").unwrap_err();
    assert!(error.contains("UTF-16LE"), "half a character is not passed over: {error}");
    let dirs = TestDirs::new();
    dirs.put("sales.csv", b"region,amount\nZ\xfcrich,1\n");
    let filter = r#""aggregates": [{"column": "*", "op": "count"}], "format": "csv",
        "filters": [{"column": "region", "op": "eq", "value": "Zürich"}]"#;
    let error = dirs.generate(&by_region(filter)).unwrap_err().to_string();
    assert!(error.contains("row 2"), "a filter does not pass over it: {error}");
    dirs.put("sales.csv", "region,amount\rN,1\rS,2\r");
    let error = dirs.generate(&by_region(filter)).unwrap_err().to_string();
    assert!(error.contains("lines end in a carriage return alone"), "{error}");
}

#[test]
fn numbers_are_read_in_the_format_of_the_request_and_in_no_other() {
    for (cells, dialect, sum) in [
        ("1.234,50\n-0,5", r#"{"decimal": ",", "thousands": "."}"#, "1234.00"),
        ("1,5\n2", r#"{"decimal": ","}"#, "3.5"),
        ("1,234,567.5\n12,34,567", r#"{"thousands": ","}"#, "2469134.5"),
        ("1 234\n1\u{a0}000\n1\u{202f}000", r#"{"thousands": " "}"#, "3234"),
        ("$1,000.50\n-$0.50\n$ 1", r#"{"thousands": ",", "currency": "$"}"#, "1001.00"),
        ("5 EUR\nEUR -2", r#"{"currency": "EUR"}"#, "3"),
    ] {
        let rows: String = cells.lines().map(|cell| format!("N;{cell}\n")).collect();
        let data = format!("region;amount\n{rows}");
        assert_eq!(sums(data.as_bytes(), dialect), Ok(format!("N,{sum}")), "{cells}");
        let error = sums(data.as_bytes(), "").unwrap_err();
        assert!(error.contains("dialect"), "without a word it is an error that says the way out: {error}");
    }
    let thousand = b"region;amount\nN;1.234\n";
    assert!(sums(thousand, "").unwrap_err().contains("dialect.decimal"), "a point between semicolons may be either");
    assert!(sums(b"region\tamount\nN\t1.234\n", "").unwrap_err().contains("dialect.decimal"), "and so between tabs");
    for cell in ["1.234 €", "€ 1.234", "-€1.234", "- 1.234"] {
        let error = sums(format!("region;amount\nN;{cell}\n").as_bytes(), r#"{"currency": "€"}"#).unwrap_err();
        assert!(error.contains("dialect.decimal"), "the currency does not say what the point is: {cell}: {error}");
    }
    assert_eq!(sums(thousand, r#"{"decimal": "."}"#).as_deref(), Ok("N,1.234"));
    for (cell, dialect) in [
        ("1,23", r#"{"thousands": ","}"#),
        ("1.234", r#"{"decimal": ","}"#),
        ("12.34,5", r#"{"decimal": ",", "thousands": "."}"#),
        ("1,2,3", r#"{"decimal": ","}"#),
        ("$5", r#"{"currency": "€"}"#),
        ("1,234,", r#"{"thousands": ","}"#),
        ("1,2345", r#"{"thousands": ","}"#),
    ] {
        let error = sums(format!("region;amount\nN;{cell}\n").as_bytes(), dialect).unwrap_err();
        assert!(error.contains("is not a number"), "{cell} {dialect}: {error}");
    }
    for dialect in [
        r#"{"decimal": ";"}"#,
        r#"{"decimal": ",", "thousands": ","}"#,
        r#"{"thousands": "."}"#,
        r#"{"thousands": "5"}"#,
        r#"{"delimiter": "ü"}"#,
        r#"{"delimiter": "\""}"#,
        r#"{"quote": "ab"}"#,
        r#"{"currency": ""}"#,
    ] {
        let error = sums(b"region;amount\nN;1\n", dialect).unwrap_err();
        assert!(error.starts_with("dialect: "), "{dialect}: {error}");
    }
}

#[test]
fn a_row_with_a_cell_too_few_is_filled_up_only_on_request() {
    let data = b"region,amount,note\r\nN,1\r\nS,2,x\r\nT\r\n";
    assert_eq!(sums(data, r#"{"short_rows": "pad"}"#).as_deref(), Ok("N,1|S,2|T,0"));
    assert_eq!(sums(data, "").unwrap_err(), "row 2 has 2 cells where the header has 3");
    let long = sums(b"region,amount\nN,1,2\n", r#"{"short_rows": "pad"}"#).unwrap_err();
    assert_eq!(long, "row 2 has 3 cells where the header has 2");
}
