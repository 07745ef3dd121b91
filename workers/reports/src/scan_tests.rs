//! Tests of the grouping of a data set.

use crate::{
    dataset::{CsvFormat, Dataset},
    error::ReportError,
    plan::QueryPlan,
    request::{Dialect, GenerateReport},
    scan::{Scan, ScanResult, ScanState},
};

/// Pauses after every few thousand rows, as another attempt would go on.
fn run(text: &[u8], request: &str, max_groups: usize) -> Result<ScanResult, ReportError> {
    let request = format!(r#"{{"dataset": "d.csv", "format": "csv", "output": "o", {request}}}"#);
    let request: GenerateReport = serde_json::from_str(&request).unwrap();
    let mut dataset = Dataset::new("d.csv", text, &CsvFormat::new(&Dialect::default())?)?;
    let plan = QueryPlan::new(&request, dataset.header(), dataset.delimiter())?;
    let mut scan = Scan::new(&dataset, &plan, max_groups);
    while !scan.run(&mut dataset, &mut |_| true)? {
        let saved = serde_json::to_string(&scan.state()).unwrap();
        let state: ScanState<'_> = serde_json::from_str(&saved).unwrap();
        dataset.go_to(state.at, text, &CsvFormat::new(&Dialect::default())?)?;
        scan = Scan::resume(state, &plan, max_groups);
    }
    Ok(scan.finish())
}

const SUM: &str = r#""group_by": ["g"], "aggregates": [{"column": "a", "op": "sum"}]"#;
const COUNT: &str = r#""group_by": ["g"], "aggregates": [{"column": "*", "op": "count"}]"#;

#[test]
fn rows_that_pass_the_filters_are_reduced_group_by_group() {
    let request = format!(r#"{SUM}, "filters": [{{"column": "a", "op": "lt", "value": 100}}]"#);
    let scan = run(b"g,a\nx,0.1\ny,5\nx,0.2\nx,\ny,100\n", &request, 10).unwrap();
    assert_eq!((scan.rows, scan.counted), (5, 3));
    let sums: Vec<_> = scan.groups.iter().map(|group| format!("{:?} {:?}", group.key, group.figures)).collect();
    assert_eq!(scan.groups.len(), 2, "{sums:?}");
}

#[test]
fn groups_differ_by_column_and_not_by_their_joined_text() {
    let request = r#""group_by": ["a", "b"], "aggregates": [{"column": "*", "op": "count"}]"#;
    assert_eq!(run(b"a,b\nxy,z\nx,yz\n", request, 10).unwrap().groups.len(), 2);
}

#[test]
fn each_fault_names_its_row_column_and_value() {
    let min = SUM.replace("sum", "min");
    let nines = "9".repeat(38);
    for (text, request, message) in [
        ("g,a\nx,1\nx,12o\n".to_owned(), SUM, r#"row 3, column "a": "12o" is not a number, so there is no sum of it"#),
        (
            "g,a\nx,1\ny,n/a\n".to_owned(),
            &min,
            r#"row 3, column "a": "n/a" cannot be ordered among the numbers above it"#,
        ),
        (
            format!("g,a\nx,{nines}\nx,{nines}\n"),
            SUM,
            r#"with "99999999999999999999999999999999999999" the sum no longer fits 38 digits"#,
        ),
        ("g,a\nx,1\ny\n".to_owned(), SUM, "row 3 has 1 cells where the header has 2"),
    ] {
        let error = run(text.as_bytes(), request, 10).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = run(b"g,a\n\xff,1\n", SUM, 10).unwrap_err().to_string();
    assert_eq!(error, "row 2, column \"g\": \"\u{fffd}\" is not UTF-8 (dialect.encoding names another encoding)");
}

#[test]
fn one_group_too_many_is_an_error_and_not_a_larger_process() {
    let error = run(b"g,a\nx,1\ny,1\nx,1\nz,1\n", COUNT, 2).unwrap_err().to_string();
    assert_eq!(error, "row 5 begins group number 3: at most 2 are allowed (REPORTS_MAX_GROUPS)");
}

#[test]
fn a_few_groups_of_enormous_text_are_an_error_too() {
    let text: String = (0..40).map(|row| format!("{row}{}\n", "x".repeat(1_000_000))).collect();
    let error = run(format!("g\n{text}").as_bytes(), COUNT, 100_000).unwrap_err();
    assert!(matches!(error, ReportError::GroupsTooLarge { row: 35, .. }), "{error}");
}

#[test]
fn without_groups_there_is_one_row_even_over_nothing() {
    let request = r#""aggregates": [{"column": "*", "op": "count"}]"#;
    assert_eq!(run(b"g,a\n", request, 10).unwrap().groups.len(), 1);
    assert_eq!(run(b"g,a\n", COUNT, 10).unwrap().groups.len(), 0);
}

#[test]
fn a_scan_that_pauses_gives_the_figures_of_one_that_does_not() {
    let aggregates =
        ["sum", "mean", "count", "min", "max"].map(|op| format!(r#"{{"column": "a", "op": "{op}"}}"#)).join(",");
    let dates = r#", {"column": "day", "op": "max"}, {"column": "name", "op": "min"}"#;
    let request = format!(r#""group_by": ["g"], "on_error": "skip", "aggregates": [{aggregates}{dates}]"#);
    let row = |n: u32| format!("g{},{}.{},2026-01-0{} 10:00,n{n}\n", n % 7, n, n % 100, 1 + n % 9);
    let text: String = (0..20_000).map(row).collect();
    let text = format!("g,a,day,name\n{text}x,12o,2026-01-01,\n");
    let paused = run(text.as_bytes(), &request, 10).unwrap();
    let whole = {
        let request = format!(r#"{{"dataset": "d.csv", "format": "csv", "output": "o", {request}}}"#);
        let request: GenerateReport = serde_json::from_str(&request).unwrap();
        let format = CsvFormat::new(&Dialect::default()).unwrap();
        let mut dataset = Dataset::new("d.csv", text.as_bytes(), &format).unwrap();
        let plan = QueryPlan::new(&request, dataset.header(), dataset.delimiter()).unwrap();
        let mut scan = Scan::new(&dataset, &plan, 10);
        assert!(scan.run(&mut dataset, &mut |_| false).unwrap());
        scan.finish()
    };
    assert_eq!(format!("{paused:?}"), format!("{whole:?}"));
    assert_eq!((paused.rows, paused.skipped, paused.groups.len()), (20_001, 1, 7));
}

#[test]
fn a_scan_pauses_within_a_few_thousand_rows() {
    let text = format!("g,a\n{}", "x,1\n".repeat(20_000));
    let format = CsvFormat::new(&Dialect::default()).unwrap();
    let mut dataset = Dataset::new("d.csv", text.as_bytes(), &format).unwrap();
    let request = format!(r#"{{"dataset": "d.csv", "format": "csv", "output": "o", {COUNT}}}"#);
    let plan = QueryPlan::new(&serde_json::from_str(&request).unwrap(), dataset.header(), b',').unwrap();
    let mut scan = Scan::new(&dataset, &plan, 10);
    let mut asked = Vec::new();
    let mut pause = |at: crate::dataset::DatasetPosition| {
        asked.push(at.byte);
        asked.len() == 2
    };
    assert!(!scan.run(&mut dataset, &mut pause).unwrap());
    assert_eq!(asked, [4 + 4 * 4096, 4 + 8 * 4096]);
}
