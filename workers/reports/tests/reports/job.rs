//! Tests of the job `report.generate` through the attempt of the framework.

use std::{fs, time::Duration};

use leveret::{Broker, ErrorKind, Outcome, testing};
use leveret_reports::{Reports, worker};

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
    fs::write(dirs.output(), "a file where the directory should be").unwrap();
    let request = read(&by_region(&format!(r#"{COUNT}, "format": "csv""#)));
    let outcome = testing::perform(worker(dirs.reports(), 1), &request).await.unwrap();
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with(r#"cannot write "r.csv": "#), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_yields_again_and_again_writes_the_same_bytes_and_leaves_nothing_else() {
    let dirs = TestDirs::new();
    let rows: String = (0..30_000).map(|n| format!("r{},{}.{}\n", n % 11, n, n % 10)).collect();
    dirs.put("large.csv", format!("region,amount\n{rows}"));
    let request = |output: &str| {
        let sums = r#"[{"column": "amount", "op": "sum"}, {"column": "amount", "op": "max"}]"#;
        read(&format!(
            r#"{{"dataset": "large.csv", "group_by": ["region"], "aggregates": {sums}, "format": "csv", "output": "{output}"}}"#
        ))
    };
    dirs.reports().generate(&request("whole"), &|| false).unwrap();
    let broker = Broker::memory();
    let reports = Reports { yield_every: Duration::ZERO, ..dirs.reports() };
    let running = testing::start(worker(reports, 1), &broker).await.unwrap();
    broker.publisher().publish(&request("parts")).await.unwrap();
    testing::idle(&broker).await;
    running.stop().await.unwrap();
    // One part for every few thousand rows.
    let snoozed = r#"leveret_jobs_finished_total{job="report.generate",outcome="snoozed",queue="reports"} 7"#;
    assert!(broker.metrics_text().contains(snoozed), "{}", broker.metrics_text());
    let bytes = |name: &str| fs::read(dirs.output().join(name)).unwrap();
    assert_eq!(bytes("parts.csv"), bytes("whole.csv"));
    let mut files = dirs.files();
    files.sort();
    assert_eq!(files, ["parts.csv", "whole.csv"]);
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_data_set_changes_between_two_parts_starts_again() {
    let dirs = TestDirs::new();
    let rows = |count: u32| (0..count).map(|n| format!("r{},1\n", n % 2)).collect::<String>();
    dirs.put("large.csv", format!("region,amount\n{}", rows(20_000)));
    let request = read(
        r#"{"dataset": "large.csv", "group_by": ["region"], "aggregates": [{"column": "*", "op": "count"}], "format": "csv",
            "output": "r"}"#,
    );
    let reports = dirs.reports();
    let paused = reports.generate_part(&request, ("job", None), &|_| true, &|| false).unwrap();
    let leveret_reports::ReportPart::Paused { checkpoint, error: None } = paused else { panic!("{paused:?}") };
    dirs.put("large.csv", format!("region,amount\n{}", rows(10)));
    let ended = reports.generate_part(&request, ("job", Some(&checkpoint)), &|_| false, &|| false).unwrap();
    let leveret_reports::ReportPart::Written(report) = ended else { panic!("{ended:?}") };
    assert_eq!((report.rows_read, dirs.files()), (10, vec!["r.csv".to_owned()]));
}
