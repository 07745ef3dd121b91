//! Tests of the order, the limit, the total and the format of a report's rows.

use crate::{
    dataset::{CsvFormat, Dataset},
    plan::QueryPlan,
    request::{Dialect, GenerateReport},
    scan::Scan,
    table::{ReportCell, ReportTable},
};

fn table(text: &str, request: &str) -> ReportTable {
    let request = format!(r#"{{"dataset": "d.csv", "format": "csv", "output": "o", {request}}}"#);
    let request: GenerateReport = serde_json::from_str(&request).unwrap();
    let mut dataset = Dataset::new("d.csv", text.as_bytes(), &CsvFormat::new(&Dialect::default()).unwrap()).unwrap();
    let plan = QueryPlan::new(&request, dataset.header(), dataset.delimiter()).unwrap();
    let mut scan = Scan::new(&dataset, &plan, 1000);
    assert!(scan.run(&mut dataset, &mut |_| false).unwrap());
    ReportTable::new(&request, &plan, scan.finish())
}

/// Returns each row as people read it, its cells joined by a bar.
fn shown(table: &ReportTable) -> Vec<String> {
    table.rows.iter().map(|row| shown_row(table, row)).collect()
}

fn shown_row(table: &ReportTable, row: &[ReportCell]) -> String {
    let cells: Vec<_> = table.columns.iter().zip(row).map(|(column, cell)| column.role.shown(cell)).collect();
    cells.join("|")
}

const SALES: &str = "region,year,amount\nSouth,2026,10.5\nNorth,2025,1.25\nNorth,2026,\nEast,2025,1000\nEast,2026,-4\n";
const BY_REGION: &str = r#""group_by": ["region"], "aggregates": [{"column": "amount", "op": "sum"}]"#;

#[test]
fn dates_are_in_the_order_of_time_however_they_are_written() {
    let by_day = r#""group_by": ["day"], "aggregates": [{"column": "*", "op": "count"}]"#;
    let days = table("day,n\n2026/10/1,1\n2026/9/30,1\n2026-9-2,1\n,1\n", by_day);
    assert_eq!(shown(&days), ["2026-9-2|1", "2026/9/30|1", "2026/10/1|1", "(empty)|1"]);
    let latest = r#""group_by": ["g"], "aggregates": [{"column": "at", "op": "max"}],
        "sort": {"column": "max(at)"}"#;
    let rows = table("g,at\nx,2026-11-21T10:00+02:00\ny,2026-11-21T09:00Z\nz,2026-11-21T7:00Z\n", latest);
    assert_eq!(shown(&rows), ["z|2026-11-21T7:00Z", "x|2026-11-21T10:00+02:00", "y|2026-11-21T09:00Z"]);
}

#[test]
fn rows_come_by_group_unless_a_sort_is_asked_for() {
    assert_eq!(shown(&table(SALES, BY_REGION)), ["East|996.00", "North|1.25", "South|10.50"]);
    let sorted = format!(r#"{BY_REGION}, "sort": {{"column": "sum(amount)", "descending": true}}"#);
    assert_eq!(shown(&table(SALES, &sorted)), ["East|996.00", "South|10.50", "North|1.25"]);
    let sorted = format!(r#"{BY_REGION}, "sort": {{"column": "region", "descending": true}}"#);
    assert_eq!(shown(&table(SALES, &sorted)), ["South|10.50", "North|1.25", "East|996.00"]);
}

#[test]
fn equal_figures_come_in_the_order_of_their_groups_and_empty_ones_last() {
    let text = "g,a\nd,\nc,2\nb,1\na,2\n";
    let request = r#""group_by": ["g"], "aggregates": [{"column": "a", "op": "max"}], "sort": {"column": "max(a)"}"#;
    assert_eq!(shown(&table(text, request)), ["b|1", "a|2", "c|2", "d|–"]);
    let down = request.replace(r#""max(a)""#, r#""max(a)", "descending": true"#);
    assert_eq!(shown(&table(text, &down)), ["a|2", "c|2", "b|1", "d|–"]);
}

#[test]
fn the_top_rows_keep_the_total_of_all() {
    let request = format!(r#"{BY_REGION}, "sort": {{"column": "sum(amount)", "descending": true}}, "top": 1"#);
    let top = table(SALES, &request);
    assert_eq!(shown(&top), ["East|996.00"]);
    assert_eq!(top.shown(), "1 of 3 groups");
    assert_eq!(shown_row(&top, top.total.as_ref().unwrap()), "All 3 groups|1,007.75");
    let all = table(SALES, BY_REGION);
    assert_eq!(shown_row(&all, all.total.as_ref().unwrap()), "Total|1,007.75");
    assert!(table(SALES, r#""aggregates": [{"column": "*", "op": "count"}]"#).total.is_none());
}

#[test]
fn a_total_of_means_is_the_mean_of_all_cells_and_not_of_the_means() {
    let request = BY_REGION.replace("sum", "mean");
    let table = table("region,amount\na,1\na,2\nb,6\n", &request);
    assert_eq!(shown(&table), ["a|1.5", "b|6.0"]);
    assert_eq!(shown_row(&table, table.total.as_ref().unwrap()), "Total|3.0");
}

#[test]
fn groups_are_numbers_only_where_every_one_reads_back_as_it_was() {
    let count = r#""group_by": ["g"], "aggregates": [{"column": "*", "op": "count"}]"#;
    assert_eq!(shown(&table("g\n10\n9\n2026\n", count)), ["9|1", "10|1", "2026|1"]);
    assert_eq!(
        shown(&table("g\n10\n9\n007\n", count)),
        ["007|1", "10|1", "9|1"],
        "codes keep their zeros and stay text"
    );
    assert_eq!(shown(&table("g,x\n,1\n5,1\n", count)), ["5|1", "(empty)|1"]);
}

#[test]
fn a_column_of_figures_is_shown_with_the_same_decimals_throughout() {
    let request = r#""group_by": ["g"], "aggregates": [{"column": "a", "op": "sum"}, {"column": "a", "op": "mean"}]"#;
    let table = table("g,a\nx,1\nx,1\nx,2\ny,0.5\nz,1234567\n", request);
    assert_eq!(shown(&table), ["x|4.0|1.333", "y|0.5|0.500", "z|1,234,567.0|1,234,567.000"]);
}
