//! Checks a request, then finds its columns in the header of the data set.

use crate::{
    column::ColumnRef,
    error::ReportError,
    filter::Condition,
    number_format::NumberFormat,
    request::{AggregateOp, FilterValue, GenerateReport, OnError, RowFilter},
};

/// A request whose columns are found in one data set.
#[derive(Debug)]
pub(crate) struct QueryPlan {
    /// Columns whose values name a group.
    pub(crate) group_by: Vec<ColumnRef>,
    pub(crate) measures: Vec<Measure>,
    pub(crate) conditions: Vec<Condition>,
    /// Format of the numbers in the data set.
    pub(crate) number_format: NumberFormat,
    /// True if rows with a cell that cannot be compared, added or ordered are skipped.
    pub(crate) skips: bool,
    /// Column of the report to sort by, and true for descending.
    pub(crate) sort: Option<(usize, bool)>,
}

/// One figure per group.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) op: AggregateOp,
    /// Column of the values; `None` counts rows.
    pub(crate) column: Option<ColumnRef>,
}

/// Refuses a request that no data set can satisfy.
pub(crate) fn check(request: &GenerateReport) -> Result<(), ReportError> {
    if request.aggregates.is_empty() {
        return Err(ReportError::Request { field: "aggregates", reason: "at least one is needed" });
    }
    if request.top == Some(0) {
        return Err(ReportError::Request { field: "top", reason: "at least 1 row must be kept" });
    }
    refuse_duplicate("group_by", &request.group_by)?;
    let titles: Vec<_> = request.aggregates.iter().map(ToString::to_string).collect();
    refuse_duplicate("aggregates", &titles)
}

impl QueryPlan {
    /// Finds every column that the request names.
    ///
    /// # Errors
    ///
    /// A column is missing, or a filter or the dialect is invalid.
    pub(crate) fn new(request: &GenerateReport, header: &[String], delimiter: u8) -> Result<Self, ReportError> {
        let group_by = request.group_by.iter().map(|column| ColumnRef::find("group_by", column, header));
        let measures = request.aggregates.iter().map(|aggregate| {
            let rows = aggregate.op == AggregateOp::Count && aggregate.column == "*";
            let column = (!rows).then(|| ColumnRef::find("aggregates", &aggregate.column, header)).transpose()?;
            Ok(Measure { op: aggregate.op, column })
        });
        let dialect = request.dialect.clone().unwrap_or_default();
        let number_format = NumberFormat::new(&dialect, delimiter)
            .map_err(|reason| ReportError::Request { field: "dialect", reason })?;
        let conditions = request.filters.iter().map(|filter| condition(filter, header, &number_format));
        Ok(Self {
            group_by: group_by.collect::<Result<_, _>>()?,
            measures: measures.collect::<Result<_, ReportError>>()?,
            conditions: conditions.collect::<Result<_, _>>()?,
            number_format,
            skips: request.on_error == OnError::Skip,
            sort: sort(request)?,
        })
    }
}

/// Returns the titles of the report's columns.
pub(crate) fn titles(request: &GenerateReport) -> Vec<String> {
    let figures = request.aggregates.iter().map(ToString::to_string);
    request.group_by.iter().cloned().chain(figures).collect()
}

fn condition(filter: &RowFilter, header: &[String], number_format: &NumberFormat) -> Result<Condition, ReportError> {
    let column = ColumnRef::find("filters", &filter.column, header)?;
    match &filter.value {
        FilterValue::One(value) => Condition::with_value(column, filter.op, value, number_format),
        FilterValue::Many(values) => Condition::with_list(column, filter.op, values, number_format),
    }
}

fn sort(request: &GenerateReport) -> Result<Option<(usize, bool)>, ReportError> {
    let Some(sort) = &request.sort else {
        return Ok(None);
    };
    // A group column and a figure may have the same title. The title then means the figure.
    let titles = titles(request);
    let position = titles.iter().rposition(|title| *title == sort.column);
    let unknown =
        || ReportError::UnknownColumn { field: "sort", column: sort.column.clone(), existing: titles.clone() };
    Ok(Some((position.ok_or_else(unknown)?, sort.descending)))
}

fn refuse_duplicate(field: &'static str, names: &[String]) -> Result<(), ReportError> {
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
    match twice {
        Some((_, name)) => Err(ReportError::DuplicateColumn { field, column: name.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(request: &str, header: &[&str]) -> Result<QueryPlan, String> {
        let request = format!(r#"{{"dataset": "d.csv", "format": "csv", "output": "o", {request}}}"#);
        let request: GenerateReport = serde_json::from_str(&request).map_err(|error| error.to_string())?;
        let header: Vec<_> = header.iter().map(|title| (*title).to_owned()).collect();
        check(&request).and_then(|()| QueryPlan::new(&request, &header, b',')).map_err(|error| error.to_string())
    }

    const COUNT: &str = r#""aggregates": [{"column": "*", "op": "count"}]"#;

    #[test]
    fn names_become_positions() {
        let request = r#""group_by": ["b"], "aggregates": [{"column": "*", "op": "count"}, {"column": "a", "op": "sum"}],
            "sort": {"column": "sum(a)", "descending": true}"#;
        let plan = plan(request, &["a", "b"]).unwrap();
        assert_eq!(plan.group_by[0].position, 1);
        let positions = plan.measures.iter().map(|measure| measure.column.as_ref().map(|column| column.position));
        assert_eq!(positions.collect::<Vec<_>>(), [None, Some(0)]);
        assert_eq!(plan.sort, Some((2, true)));
    }

    #[test]
    fn what_cannot_be_done_is_said_before_a_row_is_read() {
        let filter = |op: &str, value: &str| {
            format!(r#"{COUNT}, "filters": [{{"column": "a", "op": "{op}", "value": {value}}}]"#)
        };
        for (request, complaint) in [
            (
                format!(r#"{COUNT}, "group_by": ["regoin"]"#),
                r#"group_by: there is no column "regoin"; the columns are "a", "b""#,
            ),
            (r#""aggregates": [{"column": "c", "op": "sum"}]"#.into(), r#"aggregates: there is no column "c""#),
            (r#""aggregates": [{"column": "*", "op": "sum"}]"#.into(), r#"aggregates: there is no column "*""#),
            (
                format!(r#"{COUNT}, "filters": [{{"column": "c", "op": "eq", "value": 1}}]"#),
                r#"filters: there is no column "c""#,
            ),
            (
                format!(r#"{COUNT}, "sort": {{"column": "a"}}"#),
                r#"sort: there is no column "a"; the columns are "count(*)""#,
            ),
            (r#""aggregates": []"#.into(), "aggregates: at least one is needed"),
            (format!(r#"{COUNT}, "top": 0"#), "top: at least 1 row must be kept"),
            (format!(r#"{COUNT}, "group_by": ["a", "a"]"#), r#"group_by: column "a" occurs twice"#),
            (format!(r#"{COUNT}, "group_by": ["b"]"#).replace("\"b\"", "\"d\""), "there is no column \"d\""),
            (filter("in", "1"), "filters: `in` and `not_in` require a list of values"),
            (filter("lt", "[1]"), "filters: only `in` and `not_in` take a list of values"),
        ] {
            let error = plan(&request, &["a", "b"]).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
        let twice = plan(&format!(r#"{COUNT}, "group_by": ["a"]"#), &["a", "b", "a"]).unwrap_err();
        assert_eq!(twice, r#"header of the data set: column "a" occurs twice"#);
        assert!(plan(&format!(r#"{COUNT}, "group_by": ["b"]"#), &["a", "b", "a"]).is_ok(), "an unused one may");
    }
}
