//! Reads every row once and keeps one set of figures per group.
//!
//! The time grows with the data set. The memory grows with the number of groups, not with the data set. A scan can stop
//! between two rows, and another process can go on with its state.

use std::{borrow::Cow, collections::HashMap, io::Read};

use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{Accumulator, CellError, CellInput, ValueKind, read_cell},
    column::ColumnRef,
    dataset::{CsvRow, Dataset, DatasetPosition},
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RowGroup {
    pub(crate) key: Vec<String>,
    pub(crate) figures: Vec<Accumulator>,
}

/// A scan between two rows.
pub(crate) struct Scan<'p> {
    groups: GroupTable<'p>,
    at: DatasetPosition,
    rows: u64,
    counted: u64,
    skipped: u64,
}

/// The state of a scan, to go on with it later.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScanState<'s> {
    pub(crate) at: DatasetPosition,
    rows: u64,
    counted: u64,
    skipped: u64,
    kinds: Cow<'s, [Option<ValueKind>]>,
    groups: Cow<'s, [RowGroup]>,
}

impl<'p> Scan<'p> {
    /// Begins a scan at the next row of the data set.
    pub(crate) fn new<R: Read>(dataset: &Dataset<R>, plan: &'p QueryPlan, max_groups: usize) -> Self {
        let groups = GroupTable::new(plan, max_groups);
        Self { groups, at: dataset.position(), rows: 0, counted: 0, skipped: 0 }
    }

    /// Goes on with a scan of the same data set by the same plan.
    pub(crate) fn resume(state: ScanState<'_>, plan: &'p QueryPlan, max_groups: usize) -> Self {
        let ScanState { at, rows, counted, skipped, kinds, groups } = state;
        let groups = GroupTable::with_groups(plan, max_groups, groups.into_owned(), kinds.into_owned());
        Self { groups, at, rows, counted, skipped }
    }

    /// Reads rows until the end, or until `pause` returns true, which is called every few thousand rows. Returns whether
    /// the scan is complete. After an error of the disk, the scan can go on.
    pub(crate) fn run<R: Read>(
        &mut self,
        dataset: &mut Dataset<R>,
        pause: &mut dyn FnMut(DatasetPosition) -> bool,
    ) -> Result<bool, ReportError> {
        while let Some(row) = dataset.next_row()? {
            self.rows += 1;
            match process_row(self.groups.plan, &mut self.groups, row) {
                Ok(is_counted) => self.counted += u64::from(is_counted),
                Err(error) if self.groups.plan.skips && error.is_about_a_value() => self.skipped += 1,
                Err(error) => return Err(error),
            }
            self.at = dataset.position();
            if self.rows.is_multiple_of(ROWS_PER_CHECK) && pause(self.at) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn state(&self) -> ScanState<'_> {
        ScanState {
            at: self.at,
            rows: self.rows,
            counted: self.counted,
            skipped: self.skipped,
            kinds: Cow::Borrowed(&self.groups.kinds),
            groups: Cow::Borrowed(&self.groups.groups),
        }
    }

    pub(crate) fn finish(self) -> ScanResult {
        let Self { groups, rows, counted, skipped, .. } = self;
        ScanResult { groups: groups.groups, rows, counted, skipped }
    }
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

    fn with_groups(
        plan: &'p QueryPlan,
        max_groups: usize,
        groups: Vec<RowGroup>,
        kinds: Vec<Option<ValueKind>>,
    ) -> Self {
        let mut table = Self { kinds, groups, ..Self::new(plan, max_groups) };
        (table.text, table.positions) = (0, HashMap::with_capacity(table.groups.len()));
        for (position, group) in table.groups.iter().enumerate() {
            let mut key = Vec::new();
            group.key.iter().for_each(|cell| push_cell(&mut key, cell.as_bytes()));
            table.text += key.len() + group.figures.iter().map(Accumulator::text_len).sum::<usize>();
            table.positions.insert(key.into(), position);
        }
        table
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

    fn write_key(&mut self, row: CsvRow<'_>) {
        self.key.clear();
        for column in &self.plan.group_by {
            push_cell(&mut self.key, row.cell(column.position));
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

/// Adds a cell to a group's key, after its length, so that no two groups share a key.
fn push_cell(key: &mut Vec<u8>, cell: &[u8]) {
    key.extend_from_slice(&cell.len().to_le_bytes());
    key.extend_from_slice(cell);
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
