//! Reads every row once and keeps one set of figures per group: the only part whose time grows with the data set, and
//! whose memory grows with the number of groups alone.

use std::{collections::HashMap, io::Read};

use crate::{
    aggregate::{Accumulator, Fault, Kind, Share, share},
    dataset::{Dataset, Row},
    error::{ReportError, shown},
    plan::{ColumnRef, Plan},
    request::AggregateOp,
};

/// How many rows are read between two looks at whether the attempt is to stop: a few milliseconds' worth.
const ROWS_PER_LOOK: u64 = 4096;

/// The most bytes of text that groups and their least and greatest values may hold together.
const TEXT_LIMIT: usize = 32 * 1024 * 1024;

/// All rows, reduced.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) groups: Vec<Group>,
    /// Rows in the data set.
    pub(crate) rows: u64,
    /// Rows that satisfied the filters.
    pub(crate) counted: u64,
    /// Rows that were left out because a cell could not be compared, added or ordered.
    pub(crate) skipped: u64,
}

/// The rows that agree in the columns of `group_by`.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: Vec<String>,
    pub(crate) figures: Vec<Accumulator>,
}

/// Reduces a data set as planned; `cancelled` is asked every few thousand rows.
pub(crate) fn scan<R: Read>(
    dataset: &mut Dataset<R>,
    plan: &Plan,
    max_groups: usize,
    cancelled: &dyn Fn() -> bool,
) -> Result<Scan, ReportError> {
    let mut groups = Groups::new(plan, max_groups);
    let (mut rows, mut counted, mut skipped) = (0, 0, 0);
    while let Some(row) = dataset.next_row()? {
        rows += 1;
        if rows % ROWS_PER_LOOK == 0 && cancelled() {
            return Err(ReportError::Cancelled);
        }
        match take(plan, &mut groups, row) {
            Ok(is_counted) => counted += u64::from(is_counted),
            Err(error) if plan.skips && error.is_about_a_value() => skipped += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(Scan { groups: groups.groups, rows, counted, skipped })
}

/// Whether the row counts; all conditions are asked, so that their order decides nothing.
fn take(plan: &Plan, groups: &mut Groups<'_>, row: Row<'_>) -> Result<bool, ReportError> {
    let mut fault = None;
    for condition in &plan.conditions {
        match condition.accepts(row, &plan.notation) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    match fault {
        Some(error) => Err(error),
        None => groups.add(row).map(|()| true),
    }
}

/// The groups so far.
struct Groups<'p> {
    plan: &'p Plan,
    max_groups: usize,
    groups: Vec<Group>,
    /// Where a group is, by its key (see [`Groups::write_key`]).
    places: HashMap<Box<[u8]>, usize>,
    /// What the columns of the measures have held so far.
    kinds: Vec<Option<Kind>>,
    /// The key of the row in hand, kept for its allocation.
    key: Vec<u8>,
    /// What the figures take of the row in hand, kept for its allocation.
    shares: Vec<Share>,
    /// Bytes of text in all groups.
    text: usize,
}

impl<'p> Groups<'p> {
    fn new(plan: &'p Plan, max_groups: usize) -> Self {
        let mut groups = Self {
            plan,
            max_groups,
            groups: Vec::new(),
            places: HashMap::new(),
            kinds: vec![None; plan.measures.len()],
            key: Vec::new(),
            shares: Vec::new(),
            text: 0,
        };
        if plan.group_by.is_empty() {
            // One row over everything, also when everything is nothing.
            groups.insert(Vec::new());
        }
        groups
    }

    /// Adds a row to its group, or nothing of it.
    fn add(&mut self, row: Row<'_>) -> Result<(), ReportError> {
        self.read_shares(row)?;
        self.write_key(row);
        let place = match self.places.get(self.key.as_slice()) {
            Some(place) => *place,
            None => self.begin_group(row)?,
        };
        let figures = self.groups[place].figures.iter_mut().zip(&self.plan.measures).zip(&mut self.kinds);
        for (((figure, measure), kind), share) in figures.zip(self.shares.drain(..)) {
            if let Share::Value(value) = &share {
                *kind = Some(value.kind());
            }
            let before = figure.text_len();
            figure.add(share).map_err(|fault| explain(fault, measure.op, measure.column.as_ref(), row))?;
            self.text = self.text - before + figure.text_len();
        }
        if self.text > TEXT_LIMIT {
            return Err(ReportError::GroupsTooLarge { row: row.number(), limit: TEXT_LIMIT });
        }
        Ok(())
    }

    fn read_shares(&mut self, row: Row<'_>) -> Result<(), ReportError> {
        self.shares.clear();
        for (measure, kind) in self.plan.measures.iter().zip(&self.kinds) {
            let share = match &measure.column {
                Some(column) => share(measure.op, row.cell(column.position), *kind, &self.plan.notation)
                    .map_err(|fault| explain(fault, measure.op, Some(column), row))?,
                None => Share::Presence,
            };
            self.shares.push(share);
        }
        Ok(())
    }

    /// Each cell after its length, so that no two groups share a key.
    fn write_key(&mut self, row: Row<'_>) {
        self.key.clear();
        for column in &self.plan.group_by {
            let cell = row.cell(column.position);
            self.key.extend_from_slice(&cell.len().to_le_bytes());
            self.key.extend_from_slice(cell);
        }
    }

    fn begin_group(&mut self, row: Row<'_>) -> Result<usize, ReportError> {
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
        let place = self.groups.len();
        self.text += self.key.len();
        self.places.insert(self.key.as_slice().into(), place);
        let figures = self.plan.measures.iter().map(|measure| Accumulator::new(measure.op)).collect();
        self.groups.push(Group { key, figures });
        place
    }
}

fn not_utf8(row: Row<'_>, column: &ColumnRef, cell: &[u8]) -> ReportError {
    ReportError::NotUtf8 { row: row.number(), column: column.name.clone(), value: shown(cell) }
}

fn explain(fault: Fault, op: AggregateOp, column: Option<&ColumnRef>, row: Row<'_>) -> ReportError {
    let cell = column.map(|column| row.cell(column.position)).unwrap_or_default();
    let (row, value) = (row.number(), shown(cell));
    let column = column.map(|column| column.name.clone()).unwrap_or_default();
    match fault {
        Fault::NotANumber => ReportError::NotANumber { row, column, value, op },
        Fault::Overflow => ReportError::Overflow { row, column, value, op },
        Fault::NotUtf8 => ReportError::NotUtf8 { row, column, value },
        Fault::Unordered => ReportError::Unordered { row, column, value, op },
        Fault::Mixed { so_far } => ReportError::MixedColumn { row, column, value, kind: so_far.name() },
    }
}
