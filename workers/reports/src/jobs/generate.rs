//! The job `report.generate`, which writes one file.

use leveret::{Context, JobError, JobResult};

use crate::{
    generate::{GeneratedReport, Reports},
    request::GenerateReport,
};

/// Writes the report on the blocking pool, because it computes, and returns its path and its numbers of rows.
///
/// # Errors
///
/// Permanent if another attempt would fail in the same way, else retried.
#[expect(clippy::needless_pass_by_value, reason = "a handler owns its job and its context")]
pub fn generate_report(request: GenerateReport, ctx: Context<Reports>) -> JobResult<GeneratedReport> {
    let written = ctx
        .state()
        .generate(&request, &|| ctx.is_cancelled())
        .map_err(|error| if error.is_permanent() { JobError::permanent(error) } else { error.into() })?;
    let (file, rows_read, rows_skipped) = (written.path.display(), written.rows_read, written.rows_skipped);
    tracing::info!(%file, rows_read, rows_skipped, rows = written.rows, "report written");
    if !written.missing_letters.is_empty() {
        tracing::warn!(%file, letters = %written.missing_letters, "the PDF's font lacks letters");
    }
    Ok(written)
}
