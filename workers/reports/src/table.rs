//! Makes the rows of a report from its groups: titles, order, limit and total.

use std::cmp::Ordering;

use crate::{
    aggregate::{Accumulator, CellValue},
    caption::grouped,
    date::Date,
    decimal::Decimal,
    number_format::NumberFormat,
    plan::{QueryPlan, titles},
    request::{AggregateOp, GenerateReport},
    scan::{RowGroup, ScanResult},
};

/// The rows and columns of a report.
#[derive(Debug)]
pub(crate) struct ReportTable {
    pub(crate) columns: Vec<ReportColumn>,
    pub(crate) rows: Vec<Vec<ReportCell>>,
    /// The label and the figures of all groups, also of groups that `top` cut off; absent for a single group.
    pub(crate) total: Option<Vec<ReportCell>>,
    /// Number of groups before `top`.
    pub(crate) groups: usize,
    /// The column of the requested sort.
    sorted_by: Option<usize>,
}

/// One column of a report.
#[derive(Debug)]
pub(crate) struct ReportColumn {
    pub(crate) title: String,
    pub(crate) role: ColumnRole,
}

/// Content of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnRole {
    /// Values of a `group_by` column.
    Group,
    /// Figures with this many decimals.
    Figure { decimals: u8 },
}

/// One cell of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReportCell {
    Text(String),
    Number(Decimal),
    /// A date with its text in the data set; see [`Date::has_offset`] for the order within a column.
    Date(Date, String),
    Empty,
}

impl ReportTable {
    /// Sorts and limits the groups as the request asks.
    pub(crate) fn new(request: &GenerateReport, plan: &QueryPlan, scan: ScanResult) -> Self {
        let keys = request.group_by.len();
        let groups = scan.groups.len();
        let is_cut = request.top.is_some_and(|top| top < groups);
        let label = if is_cut { format!("All {} groups", grouped(&groups.to_string())) } else { "Total".to_owned() };
        let total = (groups > 1).then(|| total(label, plan, &scan.groups));
        let decimals: Vec<_> = (0..plan.measures.len()).map(|at| decimals(at, plan, &scan.groups)).collect();
        let mut rows: Vec<_> = scan.groups.into_iter().map(row).collect();
        for column in 0..keys {
            read_numbers(column, &plan.number_format, &mut rows);
            read_dates(column, &mut rows);
        }
        let roles = std::iter::repeat_n(ColumnRole::Group, keys)
            .chain(decimals.into_iter().map(|decimals| ColumnRole::Figure { decimals }));
        let columns =
            titles(request).into_iter().zip(roles).map(|(title, role)| ReportColumn { title, role }).collect();
        rows.sort_unstable_by(|left, right| order(left, right, plan.sort, keys));
        rows.truncate(request.top.unwrap_or(usize::MAX));
        Self { columns, rows, total, groups, sorted_by: plan.sort.map(|(column, _)| column) }
    }

    /// Creates a table of rows that are in order, with a total. `titles` has the columns of text before those of figures.
    pub(crate) fn of_rows(titles: &[(&str, ColumnRole)], rows: Vec<Vec<ReportCell>>, total: Vec<ReportCell>) -> Self {
        let column = |(title, role): &(&str, ColumnRole)| ReportColumn { title: (*title).to_owned(), role: *role };
        let groups = rows.len();
        Self { columns: titles.iter().map(column).collect(), rows, total: Some(total), groups, sorted_by: None }
    }

    /// Returns the number of group columns.
    pub(crate) fn keys(&self) -> usize {
        self.columns.iter().filter(|column| column.role == ColumnRole::Group).count()
    }

    /// Returns the column of the chart: the figure of the sort, or else the first column of numbers.
    pub(crate) fn charted(&self) -> Option<usize> {
        let is_number = |column: &usize| self.rows.iter().any(|row| matches!(row[*column], ReportCell::Number(_)));
        let keys = self.keys();
        self.sorted_by.into_iter().chain(keys..self.columns.len()).filter(|column| *column >= keys).find(is_number)
    }

    /// Returns how many groups the report shows: `37 groups`, `10 of 37 groups`.
    pub(crate) fn shown(&self) -> String {
        let (shown, all) = (grouped(&self.rows.len().to_string()), grouped(&self.groups.to_string()));
        match self.groups {
            1 => "1 group".to_owned(),
            groups if groups == self.rows.len() => format!("{all} groups"),
            _ => format!("{shown} of {all} groups"),
        }
    }
}

impl ColumnRole {
    /// Formats a cell for people: figures rounded to the column's decimals, with commas; `(empty)` for an empty group.
    pub(crate) fn shown(self, cell: &ReportCell) -> String {
        match (self, cell) {
            (_, ReportCell::Text(text) | ReportCell::Date(_, text)) => text.clone(),
            (Self::Group, ReportCell::Number(number)) => number.to_string(),
            (Self::Group, ReportCell::Empty) => "(empty)".to_owned(),
            (Self::Figure { .. }, ReportCell::Empty) => "–".to_owned(),
            (Self::Figure { decimals }, ReportCell::Number(number)) => {
                grouped(&number.round(decimals).padded(decimals))
            }
        }
    }
}

impl ReportCell {
    fn from_value(value: Option<CellValue>) -> Self {
        match value {
            Some(CellValue::Number(number)) => Self::Number(number),
            Some(CellValue::Date(date, text)) => Self::Date(date, text.into()),
            Some(CellValue::Text(text)) => Self::Text(text.into()),
            None => Self::Empty,
        }
    }

    /// Returns whether the cell comes before the other in ascending order, or is equal.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.order(other, false).is_le()
    }

    /// Orders numbers before dates before text. Empty cells come last, also in descending order.
    fn order(&self, other: &Self, descending: bool) -> Ordering {
        let order = match (self, other) {
            (Self::Empty, Self::Empty) => return Ordering::Equal,
            (Self::Empty, _) => return Ordering::Greater,
            (_, Self::Empty) => return Ordering::Less,
            (Self::Number(left), Self::Number(right)) => left.cmp(right),
            // All dates of a column have an offset, or none has. Equal moments are ordered by their text.
            (Self::Date(left, text), Self::Date(right, other)) => {
                left.order(right).unwrap_or(Ordering::Equal).then_with(|| text.cmp(other))
            }
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            (Self::Number(_), _) | (Self::Date(..), Self::Text(_)) => Ordering::Less,
            (_, Self::Number(_)) | (Self::Text(_), Self::Date(..)) => Ordering::Greater,
        };
        if descending { order.reverse() } else { order }
    }
}

fn row(group: RowGroup) -> Vec<ReportCell> {
    let keys =
        group.key.into_iter().map(|value| if value.is_empty() { ReportCell::Empty } else { ReportCell::Text(value) });
    keys.chain(group.figures.iter().map(|figure| ReportCell::from_value(figure.figure()))).collect()
}

/// Orders by the requested column, then by group, so that the order of equal figures is stable.
fn order(left: &[ReportCell], right: &[ReportCell], sort: Option<(usize, bool)>, keys: usize) -> Ordering {
    let first = sort.map_or(Ordering::Equal, |(column, descending)| left[column].order(&right[column], descending));
    let by_group = || left[..keys].iter().zip(&right[..keys]).map(|(left, right)| left.order(right, false));
    first.then_with(|| by_group().find(|order| order.is_ne()).unwrap_or(Ordering::Equal))
}

/// Turns a group column into numbers if every cell is a number with the same text: `2026` is, `007` is not.
fn read_numbers(column: usize, number_format: &NumberFormat, rows: &mut [Vec<ReportCell>]) {
    let numbers: Option<Vec<_>> = rows.iter().map(|row| as_number(&row[column], number_format)).collect();
    for (row, number) in rows.iter_mut().zip(numbers.into_iter().flatten()) {
        row[column] = number;
    }
}

/// Turns a group column into dates if every cell is a date, and all or none of them have an offset from UTC.
fn read_dates(column: usize, rows: &mut [Vec<ReportCell>]) {
    let mut have_offset = None;
    let mut date = |cell: &ReportCell| match cell {
        ReportCell::Text(text) => Date::parse(text)
            .filter(|date| *have_offset.get_or_insert(date.has_offset()) == date.has_offset())
            .map(Some),
        ReportCell::Empty => Some(None),
        ReportCell::Number(_) | ReportCell::Date(..) => None,
    };
    let Some(dates) = rows.iter().map(|row| date(&row[column])).collect::<Option<Vec<_>>>() else {
        return;
    };
    for (row, date) in rows.iter_mut().zip(dates) {
        if let (Some(date), ReportCell::Text(text)) = (date, &mut row[column]) {
            row[column] = ReportCell::Date(date, std::mem::take(text));
        }
    }
}

fn as_number(cell: &ReportCell, number_format: &NumberFormat) -> Option<ReportCell> {
    let ReportCell::Text(text) = cell else {
        return Some(ReportCell::Empty);
    };
    number_format.number(text.as_bytes()).filter(|number| number.to_string() == *text).map(ReportCell::Number)
}

fn total(label: String, plan: &QueryPlan, groups: &[RowGroup]) -> Vec<ReportCell> {
    let blank = ReportCell::Text(String::new());
    let keys = std::iter::once(ReportCell::Text(label)).chain(std::iter::repeat(blank)).take(plan.group_by.len());
    let figures = plan.measures.iter().enumerate().map(|(at, measure)| {
        let all = groups.iter().try_fold(Accumulator::new(measure.op), |all, group| all.merge(&group.figures[at]));
        ReportCell::from_value(all.and_then(|all| all.figure()))
    });
    keys.chain(figures).collect()
}

/// Returns the decimals of a figure column: those of the figures, for a mean at most two more than the data.
fn decimals(at: usize, plan: &QueryPlan, groups: &[RowGroup]) -> u8 {
    let figures = groups.iter().filter_map(|group| match group.figures[at].figure() {
        Some(CellValue::Number(number)) => Some(number.scale()),
        _ => None,
    });
    let most = figures.max().unwrap_or(0);
    if plan.measures[at].op != AggregateOp::Mean {
        return most;
    }
    let of_the_data = groups.iter().map(|group| group.figures[at].scale()).max().unwrap_or(0);
    most.min(of_the_data + 2)
}
