//! A column that a request names, found in the header of the data set.

use crate::error::ReportError;

/// A column of the data set.
#[derive(Debug)]
pub(crate) struct ColumnRef {
    /// Its position in the header, counted from 0.
    pub(crate) position: usize,
    /// Its name, for error messages.
    pub(crate) name: String,
}

impl ColumnRef {
    /// Finds the column that `field` of the request names.
    ///
    /// # Errors
    ///
    /// The header does not have the column, or has it twice.
    pub(crate) fn find(field: &'static str, name: &str, header: &[String]) -> Result<Self, ReportError> {
        let mut positions = header.iter().enumerate().filter(|(_, title)| *title == name);
        let Some((position, _)) = positions.next() else {
            return Err(ReportError::UnknownColumn { field, column: name.to_owned(), existing: header.to_vec() });
        };
        if positions.next().is_some() {
            return Err(ReportError::DuplicateColumn { field: "header of the data set", column: name.to_owned() });
        }
        Ok(Self { position, name: name.to_owned() })
    }
}
