//! `report.generate`: one request, one file.

use leveret::{Context, Job, JobError, JobResult};

use crate::{
    report::{Reports, Written},
    request::GenerateReport,
};

impl Job for GenerateReport {
    const NAME: &'static str = "report.generate";
    const QUEUE: &'static str = "reports";

    fn schema() -> Option<serde_json::Value> {
        Some(schemars::schema_for!(Self).to_value())
    }
}

/// Writes the report and tells which, on the blocking pool because it computes.
///
/// # Errors
///
/// Permanent where another attempt would end the same way, else retried.
#[expect(clippy::needless_pass_by_value, reason = "a handler is handed its job and its context")]
pub fn generate_report(request: GenerateReport, ctx: Context<Reports>) -> JobResult<Written> {
    let written = ctx
        .state()
        .generate(&request, &|| ctx.is_cancelled())
        .map_err(|error| if error.is_permanent() { JobError::permanent(error) } else { error.into() })?;
    tracing::info!(file = %written.path.display(), rows_read = written.rows_read, rows = written.rows, "report written");
    Ok(written)
}
