//! Tests of the job `report.generate` through the attempt of the framework.

use leveret::{ErrorKind, Outcome, testing};
use leveret_reports::worker;

use crate::{TestDirs, by_region, read};

const COUNT: &str = r#""aggregates": [{"column": "*", "op": "count"}]"#;

#[tokio::test]
async fn a_report_job_is_done_when_its_file_is_there() {
    let dirs = TestDirs::new();
    let request = read(&by_region(&format!(r#"{COUNT}, "format": "csv""#)));
    let outcome = testing::perform(worker(dirs.reports(), 1), &request).await.unwrap();
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(dirs.files(), ["r.csv"]);
}

#[tokio::test]
async fn a_report_on_a_column_that_is_not_there_is_a_dead_letter_that_lists_those_that_are() {
    let dirs = TestDirs::new();
    let request = read(&by_region(&format!(r#"{COUNT}, "format": "csv""#)).replace("[\"region\"]", "[\"regoin\"]"));
    let outcome = testing::perform(worker(dirs.reports(), 1), &request).await.unwrap();
    let Outcome::DeadLetter { kind, reason } = outcome else { panic!("{outcome:?}") };
    assert_eq!(kind, ErrorKind::Permanent);
    let expected = r#"group_by: there is no column "regoin"; the columns are "date", "region", "product", "amount""#;
    assert_eq!(reason, expected);
}

#[tokio::test]
async fn an_unknown_format_operation_or_field_is_a_dead_letter_at_once() {
    let dirs = TestDirs::new();
    for (request, reason) in [
        (format!(r#"{COUNT}, "format": "docx""#), "unknown variant, expected one of `csv`, `xlsx`, `pdf`"),
        (format!(r#"{COUNT}, "format": "csv", "limit": 3"#), "unknown field `limit`"),
        (
            r#""aggregates": [{"column": "amount", "op": "median"}], "format": "csv""#.to_owned(),
            "unknown variant, expected one of `sum`, `mean`, `count`, `min`, `max`",
        ),
    ] {
        let payload = by_region(&request);
        let outcome =
            testing::perform_raw(worker(dirs.reports(), 1), "reports", "report.generate", payload.as_bytes(), 1);
        let outcome = outcome.await.unwrap();
        let Outcome::DeadLetter { kind, reason: said } = outcome else { panic!("{outcome:?}") };
        assert_eq!(kind, ErrorKind::Decode);
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test]
async fn a_report_that_the_disk_does_not_take_is_retried() {
    let dirs = TestDirs::new();
    std::fs::write(dirs.output(), "a file where the directory should be").unwrap();
    let request = read(&by_region(&format!(r#"{COUNT}, "format": "csv""#)));
    let outcome = testing::perform(worker(dirs.reports(), 1), &request).await.unwrap();
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with(r#"cannot write "r.csv": "#), "{reason}");
}
