//! The job `report.generate`, which writes one file.

use std::time::Instant;

use leveret::{Context, JobError, JobResult};

use crate::{
    generate::{GeneratedReport, ReportPart, Reports},
    request::GenerateReport,
};

/// Writes the report on the blocking pool, because it computes, and returns its path and its numbers of rows.
///
/// A report that takes longer than [`Reports::yield_every`] goes on in the next attempt, which is not charged. A kill
/// loses no more than that.
///
/// # Errors
///
/// Permanent if another attempt would fail in the same way, else retried.
#[expect(clippy::needless_pass_by_value, reason = "a handler owns its job and its context")]
pub fn generate_report(request: GenerateReport, ctx: Context<Reports>) -> JobResult<GeneratedReport> {
    let failed = |error: crate::ReportError| {
        if error.is_permanent() { JobError::permanent(error) } else { error.into() }
    };
    let started = Instant::now();
    let pause = |read: f64| {
        ctx.progress(read, "");
        ctx.is_cancelled() || started.elapsed() >= ctx.state().yield_every
    };
    // A checkpoint of another version of this worker is none.
    let checkpoint = ctx.checkpoint().unwrap_or_default();
    let place = (ctx.job_id().as_str(), checkpoint.as_ref());
    let written = match ctx.state().generate_part(&request, place, &pause, &|| ctx.is_cancelled()).map_err(failed)? {
        ReportPart::Written(report) => report,
        ReportPart::Paused { checkpoint, error: None } => return ctx.yield_with(&checkpoint),
        ReportPart::Paused { checkpoint, error: Some(error) } => {
            ctx.save_checkpoint(&checkpoint)?;
            return Err(error.into());
        }
    };
    let (file, rows_read, rows_skipped) = (written.path.display(), written.rows_read, written.rows_skipped);
    tracing::info!(%file, rows_read, rows_skipped, rows = written.rows, "report written");
    if !written.missing_letters.is_empty() {
        tracing::warn!(%file, letters = %written.missing_letters, "the PDF's font lacks letters");
    }
    Ok(written)
}
