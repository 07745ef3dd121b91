//! What is refused, in which words, and that nothing is left of it.

use std::{cell::Cell, fs};

use leveret_reports::ReportError;

use crate::{Place, by_region, read};

fn sum(format: &str) -> String {
    by_region(&format!(r#""aggregates": [{{"column": "amount", "op": "sum"}}], "format": "{format}""#))
}

#[test]
fn each_fault_of_the_data_is_permanent_and_names_its_row_and_column() {
    let place = Place::new();
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
        place.put("sales.csv", data);
        let error = place.generate(&sum("csv")).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.is_permanent(), "{error}");
    }
    assert!(place.files().is_empty(), "nothing is left: {:?}", place.files());
}

#[test]
fn a_name_that_leads_out_of_its_directory_is_refused_for_good() {
    let place = Place::new();
    fs::write(place.root.path().join("secret.csv"), "region,amount\nNorth,1\n").unwrap();
    std::os::unix::fs::symlink("../secret.csv", place.data().join("link.csv")).unwrap();
    for dataset in ["../secret.csv", "/etc/passwd", "link.csv", r"a\u0000b", "", "x/../../secret.csv"] {
        let error = place.generate(&sum("csv").replace("sales.csv", dataset)).unwrap_err();
        assert!(matches!(error, ReportError::DatasetName { .. }) && error.is_permanent(), "{dataset}: {error}");
    }
    for output in ["../r", "/tmp/r", "a/b", "..", r"a\u0000b", ""] {
        let request = sum("csv").replace(r#""output": "r""#, &format!(r#""output": "{output}""#));
        let error = place.generate(&request).unwrap_err();
        assert!(matches!(error, ReportError::OutputName { .. }) && error.is_permanent(), "{output}: {error}");
    }
    assert!(place.files().is_empty());
}

#[test]
fn a_failed_report_leaves_the_old_one_as_it_was() {
    let place = Place::new();
    for format in ["csv", "xlsx", "pdf"] {
        place.put("sales.csv", crate::SALES);
        let path = place.generate(&sum(format)).unwrap().path;
        let old = fs::read(&path).unwrap();
        place.put("sales.csv", "region,amount\nNorth,1\nSouth,x\n");
        place.generate(&sum(format)).unwrap_err();
        assert!(fs::read(&path).unwrap() == old, "{format}");
    }
    assert_eq!(place.files().len(), 3);
}

#[test]
fn a_cancelled_report_leaves_the_old_one_even_at_the_last_moment() {
    let place = Place::new();
    let path = place.generate(&sum("csv")).unwrap().path;
    place.put("sales.csv", "region,amount\nNorth,1\n");
    let looks = Cell::new(0);
    let error = place.reports().generate(&read(&sum("csv")), &|| looks.replace(looks.get() + 1) == 0).unwrap_err();
    assert!(matches!(error, ReportError::Cancelled) && !error.is_permanent(), "{error}");
    assert!(fs::read_to_string(path).unwrap().contains("South"), "a small report is asked once, before its rename");
    assert_eq!(place.files(), ["r.csv"]);
}

#[test]
fn a_disk_that_does_not_take_the_report_is_worth_another_attempt() {
    let place = Place::new();
    fs::write(place.output(), "a file where the directory should be").unwrap();
    let error = place.generate(&sum("csv")).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }) && !error.is_permanent(), "{error}");
    fs::remove_file(place.output()).unwrap();
    fs::create_dir_all(place.output().join("r.csv/occupied")).unwrap();
    let error = place.generate(&sum("csv")).unwrap_err();
    assert!(matches!(error, ReportError::Write { .. }) && !error.is_permanent(), "{error}");
    assert_eq!(place.files(), ["r.csv"], "the draft is gone");
    fs::remove_dir_all(place.output()).unwrap();
    place.generate(&sum("csv")).unwrap();
}

#[test]
fn more_groups_than_allowed_or_than_a_format_holds_are_refused_for_good() {
    let place = Place::new();
    let rows = |count: u32| (0..count).map(|number| format!("{number},1\n")).collect::<String>();
    place.put("sales.csv", format!("region,amount\n{}", rows(1_001)));
    let error = place.generate(&sum("csv")).unwrap_err();
    assert_eq!(error.to_string(), "row 1002 begins group number 1001: at most 1000 are allowed (REPORTS_MAX_GROUPS)");
    assert!(error.is_permanent());
    place.put("sales.csv", format!("region,amount\n{}", rows(5_001)));
    let mut reports = place.reports();
    reports.max_groups = 100_000;
    let error = reports.generate(&read(&sum("pdf")), &|| false).unwrap_err();
    assert_eq!(error.to_string(), "5001 rows do not fit pdf, which holds 5000: ask for the top ones, or for csv");
    assert!(error.is_permanent());
}
