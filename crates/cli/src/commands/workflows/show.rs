//! A workflow as a table, as JSON or as a picture.

use anyhow::anyhow;
use clap::ValueEnum;
use leveret_serve::workflows::{
    StepView, WorkflowView,
    drawing::{self, DrawnStep},
};

use crate::output::{Failure, Format, one_line, print, print_document, print_json, table};

/// The format of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ShowFormat {
    /// Lines for people
    Table,
    /// One JSON document for programs
    Json,
    /// A picture of the steps
    Svg,
    /// A flowchart for Mermaid
    Mermaid,
}

impl From<Format> for ShowFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Table => Self::Table,
            Format::Json => Self::Json,
        }
    }
}

pub(super) fn print_workflow(workflow: &WorkflowView, format: ShowFormat) -> Result<(), Failure> {
    let too_many = |error: drawing::TooManySteps| Failure::Other(anyhow!(error));
    match format {
        ShowFormat::Table => print_table(workflow)?,
        ShowFormat::Json => print_json(workflow)?,
        ShowFormat::Svg => {
            let title = format!("{} {}", workflow.name, workflow.id);
            print_document(&drawing::svg(&title, &drawn(workflow)).map_err(too_many)?)?;
        }
        ShowFormat::Mermaid => print_document(&drawing::mermaid(&drawn(workflow)).map_err(too_many)?)?,
    }
    Ok(())
}

fn drawn(workflow: &WorkflowView) -> Vec<DrawnStep> {
    let note = |step: &StepView| {
        let progress = &step.progress;
        if step.group { format!("{} {}/{}", step.job, progress.done, progress.total) } else { step.job.clone() }
    };
    let steps = workflow.steps.iter().flat_map(|steps| &steps.0);
    let drawn = |(name, step): &(String, StepView)| DrawnStep {
        name: name.clone(),
        note: note(step),
        status: step.status.to_string(),
        after: step.after.clone(),
    };
    steps.map(drawn).collect()
}

fn print_table(workflow: &WorkflowView) -> anyhow::Result<()> {
    let mut lines = vec![
        format!("workflow  {} {}", one_line(&workflow.name, 128), one_line(&workflow.id, 128)),
        format!("status    {}", workflow.status),
        format!("created   {}", workflow.created_at),
    ];
    if let Some(reason) = &workflow.waiting_for {
        let queue = workflow.queue.as_deref().unwrap_or_default();
        lines.push(format!("waits     for {reason} {}", one_line(queue, 255)));
    }
    if let Some(error) = &workflow.error {
        let (kind, of) = (workflow.error_kind.as_deref().unwrap_or_default(), workflow.failed.as_deref());
        let of = one_line(of.unwrap_or_default(), 255);
        lines.push(format!("error     {}: {} ({of})", one_line(kind, 64), one_line(error, 4096)));
    }
    if let Some(progress) = &workflow.progress {
        lines.push(format!(
            "jobs      {} done, {} failed, {} running, {} waiting of {}",
            progress.done, progress.failed, progress.running, progress.waiting, progress.total
        ));
    }
    print(&(lines.join("\n") + "\n\n"))?;
    let row = |(name, step): &(String, StepView)| {
        let jobs = if step.group { format!("{}/{}", step.progress.done, step.progress.total) } else { String::new() };
        let remark = step.waiting_for.as_ref().map(|queue| format!("waits for queue {queue}"));
        [
            one_line(name, 64),
            step.status.to_string(),
            one_line(&step.job, 32),
            jobs,
            step.after.iter().map(|name| one_line(name, 64)).collect::<Vec<_>>().join(","),
            step.finished_at.clone().unwrap_or_default(),
            one_line(&remark.or_else(|| step.error.clone()).unwrap_or_default(), 80),
        ]
    };
    let rows: Vec<_> = workflow.steps.iter().flat_map(|steps| &steps.0).map(row).collect();
    print(&table(["STEP", "STATUS", "JOB", "DONE", "AFTER", "ENDED", "WAITS FOR OR ERROR"], &rows))
}
