//! Tests of refused requests: the error text, and that no file remains.

use std::{cell::Cell, fs};

use leveret_reports::ReportError;

use crate::{TestDirs, by_region, read};

fn sum(format: &str) -> String {
    by_region(&format!(r#""aggregates": [{{"column": "amount", "op": "sum"}}], "format": "{format}""#))
}

#[test]
fn each_fault_of_the_data_is_permanent_and_names_its_row_and_column() {
    let dirs = TestDirs::new();
    for (data, message) in [
        (
            "region,amount\nNorth,1\nSouth,12o\n",
            r#"row 3, column "amount": "12o" is not a number, so there is no sum of it"#,
        ),
        (
            "region,amount\nNorth,\"1\n2\"\n",
            r#"row 2, column "amount": "1\n2" is not a number, so there is no sum of it"#,
        ),
        ("region,amount\r\nNorth,1\r\n\r\nSouth\r\n", "row 4 has 1 cells where the header has 2"),
        ("region,amount\nNorth,1,2\n", "row 2 has 3 cells where the header has 2"),
        ("region,amount\nNorth,\"1\n", "row 2: a quotation mark in it is never closed"),
        ("region,value\nNorth,1\n", r#"aggregates: there is no column "amount"; the columns are "region", "value""#),
        ("", r#"group_by: there is no column "region"; the columns are "#),
        ("region,region,amount\nN,N,1\n", r#"header of the data set: column "region" occurs twice"#),
    ] {
        dirs.put("sales.csv", data);
        let error = dirs.generate(&sum("csv")).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.is_permanent(), "{error}");
    }
    assert!(dirs.files().is_empty(), "nothing is left: {:?}", dirs.files());
}

#[test]
fn a_name_that_leads_out_of_its_directory_is_refused_for_good() {
    let dirs = TestDirs::new();
    fs::write(dirs.root.path().join("secret.csv"), "region,amount\nNorth,1\n").unwrap();
    std::os::unix::fs::symlink("../secret.csv", dirs.data().join("link.csv")).unwrap();
    for dataset in ["../secret.csv", "/etc/passwd", "link.csv", r"a\u0000b", "", "x/../../secret.csv"] {
        let error = dirs.generate(&sum("csv").replace("sales.csv", dataset)).unwrap_err();
        assert!(matches!(error, ReportError::DatasetName { .. }) && error.is_permanent(), "{dataset}: {error}");
    }
    for output in ["../r", "/tmp/r", "a/b", "..", r"a\u0000b", ""] {
        let request = sum("csv").replace(r#""output": "r""#, &format!(r#""output": "{output}""#));
        let error = dirs.generate(&request).unwrap_err();
        assert!(matches!(error, ReportError::OutputName { .. }) && error.is_permanent(), "{output}: {error}");
    }
    assert!(dirs.files().is_empty());
}

#[test]
fn a_failed_report_leaves_the_old_one_as_it_was() {
    let dirs = TestDirs::new();
    for format in ["csv", "xlsx", "pdf"] {
        dirs.put("sales.csv", crate::SALES);
        let path = dirs.generate(&sum(format)).unwrap().path;
        let old = fs::read(&path).unwrap();
        dirs.put("sales.csv", "region,amount\nNorth,1\nSouth,x\n");
        dirs.generate(&sum(format)).unwrap_err();
        assert!(fs::read(&path).unwrap() == old, "{format}");
    }
    assert_eq!(dirs.files().len(), 3);
}

#[test]
fn a_cancelled_report_leaves_the_old_one_even_at_the_last_moment() {
    let dirs = TestDirs::new();
    let path = dirs.generate(&sum("csv")).unwrap().path;
    dirs.put("sales.csv", "region,amount\nNorth,1\n");
    let looks = Cell::new(0);
    let error = dirs.reports().generate(&read(&sum("csv")), &|| looks.replace(looks.get() + 1) == 0).unwrap_err();
    assert!(matches!(error, ReportError::Cancelled) && !error.is_permanent(), "{error}");
    assert!(fs::read_to_string(path).unwrap().contains("South"), "a small report is asked once, before its rename");
    assert_eq!(dirs.files(), ["r.csv"]);
}

#[test]
fn a_disk_that_does_not_take_the_report_is_worth_another_attempt() {
    let dirs = TestDirs::new();
    fs::write(dirs.output(), "a file where the directory should be").unwrap();
    let error = dirs.generate(&sum("csv")).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }) && !error.is_permanent(), "{error}");
    fs::remove_file(dirs.output()).unwrap();
    fs::create_dir_all(dirs.output().join("r.csv/occupied")).unwrap();
    let error = dirs.generate(&sum("csv")).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }) && !error.is_permanent(), "{error}");
    assert_eq!(dirs.files(), ["r.csv"], "the draft is gone");
    fs::remove_dir_all(dirs.output()).unwrap();
    dirs.generate(&sum("csv")).unwrap();
}

#[test]
fn more_groups_than_allowed_or_than_a_format_holds_are_refused_for_good() {
    let dirs = TestDirs::new();
    let rows = |count: u32| (0..count).map(|number| format!("{number},1\n")).collect::<String>();
    dirs.put("sales.csv", format!("region,amount\n{}", rows(1_001)));
    let error = dirs.generate(&sum("csv")).unwrap_err();
    assert_eq!(error.to_string(), "row 1002 begins group number 1001: at most 1000 are allowed (REPORTS_MAX_GROUPS)");
    assert!(error.is_permanent());
    dirs.put("sales.csv", format!("region,amount\n{}", rows(5_001)));
    let mut reports = dirs.reports();
    reports.max_groups = 100_000;
    let error = reports.generate(&read(&sum("pdf")), &|| false).unwrap_err();
    assert_eq!(error.to_string(), "5001 rows do not fit pdf, which holds 5000: ask for the top ones, or for csv");
    assert!(error.is_permanent());
}
