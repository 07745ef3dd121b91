//! The job `invoice.generate`, which writes one PDF.

use leveret::{Context, JobError, JobResult};

use crate::{
    generate::{GeneratedInvoice, Reports},
    invoice::GenerateInvoice,
};

/// Writes the invoice on the blocking pool, because it computes, and returns the name of its file.
///
/// # Errors
///
/// Permanent if another attempt would fail in the same way, else retried.
#[expect(clippy::needless_pass_by_value, reason = "a handler owns its job and its context")]
pub fn generate_invoice(invoice: GenerateInvoice, ctx: Context<Reports>) -> JobResult<GeneratedInvoice> {
    let written = ctx.state().generate_invoice(&invoice, &|| ctx.is_cancelled());
    let written =
        written.map_err(|error| if error.is_permanent() { JobError::permanent(error) } else { error.into() })?;
    tracing::info!(file = written.file, "invoice written");
    if !written.missing_letters.is_empty() {
        tracing::warn!(file = written.file, letters = %written.missing_letters, "the PDF's font lacks letters");
    }
    Ok(written)
}
