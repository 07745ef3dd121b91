//! The ends of a command on dead letters: exit codes, failures and confirmations.

use std::io::ErrorKind;

use anyhow::anyhow;
use leveret_serve::dead::{Error, edit::CheckedAgainst};
use leveret_store::Selection;

use crate::output::{Exit, Failure, notice};

/// The exit code of a change of `count` dead letters: `NotFound` if numbers were given and none of them exists.
pub(super) fn changed(count: u64, selection: &Selection) -> Exit {
    if count == 0 && matches!(selection, Selection::Ids(_)) { Exit::NotFound } else { Exit::Success }
}

/// Sorts an error by exit code.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::NoLetter(_) | Error::NoReplay(_) => Failure::NotFound(error.into()),
        Error::Payload { .. }
        | Error::Options(_)
        | Error::NotEdited(_)
        | Error::NotDead { .. }
        | Error::Running(_)
        | Error::Ended(_) => Failure::Usage(error.into()),
        Error::Interrupted { replay, .. } => {
            let hint = format!("continue with: leveret dead replay --resume {replay}");
            Failure::Unreachable(anyhow::Error::from(error).context(hint))
        }
        Error::Store(error) => error.into(),
        _ => Failure::Other(error.into()),
    }
}

/// Refuses a destructive command without `--yes`.
pub(super) fn needs_yes(yes: bool) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::Usage(anyhow!("nothing was purged: confirm with --yes"))) }
}

/// The result of an export; `None` if the reader closed the pipe early.
pub(super) fn unless_closed<T>(exported: Result<T, Error>) -> Result<Option<T>, Failure> {
    match exported {
        Err(Error::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(None),
        Err(Error::Io(error)) => Err(Failure::Other(anyhow::Error::from(error).context("writing the export"))),
        exported => exported.map(Some).map_err(failure),
    }
}

/// Reports that a payload could not be checked against a schema.
pub(super) fn report_unchecked(checked: CheckedAgainst) {
    if checked == CheckedAgainst::Nothing {
        notice!("Not checked: no worker announced a schema of this job.");
    }
}
