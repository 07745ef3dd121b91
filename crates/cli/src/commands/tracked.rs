//! A tracked job: shown, and awaited. `leveret jobs` and `leveret publish --wait` share this.

use std::time::Duration;

use anyhow::anyhow;
use leveret_serve::{
    Services,
    jobs::{Error, Status, Task},
};

use crate::output::{Exit, Failure, Format, one_line, print, print_json};

/// Waits for the end of a job, then prints it.
pub(super) async fn wait(services: &Services, id: &str, within: Duration, output: Format) -> Result<Exit, Failure> {
    let task = services.wait(id, within).await.map_err(failure)?;
    show(&task, output)?;
    Ok(match task.status {
        Status::Completed => Exit::Success,
        Status::Failed | Status::Cancelled => Exit::Problems,
        Status::Pending | Status::Scheduled | Status::Processing | Status::Retrying => Exit::TimedOut,
    })
}

/// Prints the job.
pub(super) fn show(task: &Task, output: Format) -> anyhow::Result<()> {
    if output == Format::Json {
        return print_json(task);
    }
    let mut lines = vec![
        format!("job       {} {}", one_line(&task.job, 128), one_line(&task.id, 255)),
        format!("label     {}", one_line(&task.name, 1024)),
        format!("queue     {}", one_line(&task.queue, 255)),
        format!("status    {}, attempt {}", task.status, task.attempt),
        format!("created   {}", task.created_at),
    ];
    if let Some(progress) = &task.progress {
        let note = progress.note.as_deref().unwrap_or_default();
        lines.push(format!("progress  {:.0} % {}", progress.fraction * 100.0, one_line(note, 1024)));
    }
    if let Some(error) = &task.error {
        let kind = task.error_kind.as_deref().unwrap_or_default();
        lines.push(format!("error     {}: {}", one_line(kind, 64), one_line(error, 4096)));
    }
    if let Some(result) = &task.result {
        lines.push(format!("result    {}", one_line(&result.to_string(), usize::MAX)));
    }
    let steps = task.timeline.iter().flatten();
    lines.extend(steps.map(|step| format!("{}  {} (attempt {})", step.at, one_line(&step.step, 64), step.attempt)));
    print(&(lines.join("\n") + "\n"))
}

/// Sorts an error by exit code.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::NotFound { .. } => Failure::NotFound(error.into()),
        Error::Publish(error) => error.into(),
        Error::Store(error) => error.into(),
        Error::Unprepared { .. } => Failure::Unreachable(error.into()),
        other => Failure::Other(anyhow!(other)),
    }
}
