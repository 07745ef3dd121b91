//! Reads every row once and keeps one set of figures per group.
//!
//! The time grows with the data set. The memory grows with the number of groups, not with the data set.

use std::{collections::HashMap, io::Read};

use crate::{
    aggregate::{Accumulator, CellError, CellInput, ValueKind, read_cell},
    column::ColumnRef,
    dataset::{CsvRow, Dataset},
    error::{ReportError, shown},
    plan::QueryPlan,
    request::AggregateOp,
};

/// Rows read between two checks for cancellation, a few milliseconds of work.
const ROWS_PER_CHECK: u64 = 4096;

/// Maximum bytes of text in all group names and all least and greatest values together.
const TEXT_LIMIT: usize = 32 * 1024 * 1024;

/// The groups of a data set with their figures.
#[derive(Debug)]
pub(crate) struct ScanResult {
    pub(crate) groups: Vec<RowGroup>,
    /// Rows in the data set.
    pub(crate) rows: u64,
    /// Rows that match the filters.
    pub(crate) counted: u64,
    /// Rows skipped because a cell cannot be compared, added or ordered.
    pub(crate) skipped: u64,
}

/// Rows with the same values in the columns of `group_by`.
#[derive(Debug)]
pub(crate) struct RowGroup {
    pub(crate) key: Vec<String>,
    pub(crate) figures: Vec<Accumulator>,
}

/// Groups a data set as the plan says, and calls `cancelled` every few thousand rows.
pub(crate) fn scan<R: Read>(
    dataset: &mut Dataset<R>,
    plan: &QueryPlan,
    max_groups: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<ScanResult, ReportError> {
    let mut groups = GroupTable::new(plan, max_groups);
    let (mut rows, mut counted, mut skipped) = (0, 0, 0);
    while let Some(row) = dataset.next_row()? {
        rows += 1;
        if rows % ROWS_PER_CHECK == 0 && cancelled() {
            return Err(ReportError::Cancelled);
        }
        match process_row(plan, &mut groups, row) {
            Ok(is_counted) => counted += u64::from(is_counted),
            Err(error) if plan.skips && error.is_about_a_value() => skipped += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(ScanResult { groups: groups.groups, rows, counted, skipped })
}

/// Adds the row to its group, and returns whether it matches the filters.
///
/// All conditions are tested, so that the order of the filters does not decide whether a row is an error.
fn process_row(plan: &QueryPlan, groups: &mut GroupTable<'_>, row: CsvRow<'_>) -> Result<bool, ReportError> {
    let mut first_error = None;
    for condition in &plan.conditions {
        match condition.accepts(row, &plan.number_format) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => groups.add(row).map(|()| true),
    }
}

/// The groups found up to the current row.
struct GroupTable<'p> {
    plan: &'p QueryPlan,
    max_groups: usize,
    groups: Vec<RowGroup>,
    /// Position of a group by its key (see [`GroupTable::write_key`]).
    positions: HashMap<Box<[u8]>, usize>,
    /// Kind of the values in the column of each measure, from its first value on.
    kinds: Vec<Option<ValueKind>>,
    /// Key of the current row; the buffer is reused.
    key: Vec<u8>,
    /// Inputs of the current row; the buffer is reused.
    inputs: Vec<CellInput>,
    /// Bytes of text in all groups.
    text: usize,
}

impl<'p> GroupTable<'p> {
    fn new(plan: &'p QueryPlan, max_groups: usize) -> Self {
        let mut groups = Self {
            plan,
            max_groups,
            groups: Vec::new(),
            positions: HashMap::new(),
            kinds: vec![None; plan.measures.len()],
            key: Vec::new(),
            inputs: Vec::new(),
            text: 0,
        };
        if plan.group_by.is_empty() {
            // Without `group_by` there is one row, also for a data set without rows.
            groups.insert(Vec::new());
        }
        groups
    }

    /// Adds a row to its group. After an error no figure has changed, except on overflow.
    fn add(&mut self, row: CsvRow<'_>) -> Result<(), ReportError> {
        self.read_inputs(row)?;
        self.write_key(row);
        let position = match self.positions.get(self.key.as_slice()) {
            Some(position) => *position,
            None => self.begin_group(row)?,
        };
        let figures = self.groups[position].figures.iter_mut().zip(&self.plan.measures).zip(&mut self.kinds);
        for (((figure, measure), kind), input) in figures.zip(self.inputs.drain(..)) {
            if let CellInput::Value(value) = &input {
                *kind = Some(value.kind());
            }
            let before = figure.text_len();
            figure.add(input).map_err(|error| report_error(error, measure.op, measure.column.as_ref(), row))?;
            self.text = self.text - before + figure.text_len();
        }
        if self.text > TEXT_LIMIT {
            return Err(ReportError::GroupsTooLarge { row: row.number(), limit: TEXT_LIMIT });
        }
        Ok(())
    }

    fn read_inputs(&mut self, row: CsvRow<'_>) -> Result<(), ReportError> {
        self.inputs.clear();
        for (measure, kind) in self.plan.measures.iter().zip(&self.kinds) {
            let input = match &measure.column {
                Some(column) => read_cell(measure.op, row.cell(column.position), *kind, &self.plan.number_format)
                    .map_err(|error| report_error(error, measure.op, Some(column), row))?,
                None => CellInput::Present,
            };
            self.inputs.push(input);
        }
        Ok(())
    }

    /// Each cell after its length, so that no two groups input a key.
    fn write_key(&mut self, row: CsvRow<'_>) {
        self.key.clear();
        for column in &self.plan.group_by {
            let cell = row.cell(column.position);
            self.key.extend_from_slice(&cell.len().to_le_bytes());
            self.key.extend_from_slice(cell);
        }
    }

    fn begin_group(&mut self, row: CsvRow<'_>) -> Result<usize, ReportError> {
        if self.groups.len() >= self.max_groups {
            return Err(ReportError::TooManyGroups { row: row.number(), limit: self.max_groups });
        }
        let values = self.plan.group_by.iter().map(|column| {
            let cell = row.cell(column.position);
            std::str::from_utf8(cell).map(str::to_owned).map_err(|_| not_utf8(row, column, cell))
        });
        let values = values.collect::<Result<_, _>>()?;
        Ok(self.insert(values))
    }

    fn insert(&mut self, key: Vec<String>) -> usize {
        let position = self.groups.len();
        self.text += self.key.len();
        self.positions.insert(self.key.as_slice().into(), position);
        let figures = self.plan.measures.iter().map(|measure| Accumulator::new(measure.op)).collect();
        self.groups.push(RowGroup { key, figures });
        position
    }
}

fn not_utf8(row: CsvRow<'_>, column: &ColumnRef, cell: &[u8]) -> ReportError {
    ReportError::NotUtf8 { row: row.number(), column: column.name.clone(), value: shown(cell) }
}

fn report_error(error: CellError, op: AggregateOp, column: Option<&ColumnRef>, row: CsvRow<'_>) -> ReportError {
    let cell = column.map(|column| row.cell(column.position)).unwrap_or_default();
    let (row, value) = (row.number(), shown(cell));
    let column = column.map(|column| column.name.clone()).unwrap_or_default();
    match error {
        CellError::NotANumber => ReportError::NotANumber { row, column, value, op },
        CellError::Overflow => ReportError::Overflow { row, column, value, op },
        CellError::NotUtf8 => ReportError::NotUtf8 { row, column, value },
        CellError::Unordered => ReportError::Unordered { row, column, value, op },
        CellError::Mixed { previous } => ReportError::MixedColumn { row, column, value, kind: previous.name() },
    }
}
