//! The dead letters that a command works on.

use anyhow::anyhow;
use clap::Args;
use leveret_store::{DeadFilter, DeadState, Selection};

use super::super::shared::moment;
use crate::output::Failure;

/// A filter of dead letters. A dead letter must match all given options.
#[derive(Args)]
pub(super) struct Filter {
    /// Job queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Job name
    #[arg(long, value_name = "NAME")]
    job: Option<String>,

    /// Job id
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,

    /// Error kind, such as error, permanent, timeout, panic or decode
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// Text in the error or the payload
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// Group, as `leveret dead groups` prints it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Dead-lettered at or after this time: RFC 3339, or a duration before now such as 2h
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<u64>,

    /// Dead-lettered before this time
    #[arg(long, value_parser = moment, value_name = "TIME")]
    until: Option<u64>,
}

impl Filter {
    pub(super) fn in_states(&self, states: Vec<DeadState>) -> DeadFilter {
        DeadFilter {
            states,
            queue: self.queue.clone(),
            job: self.job.clone(),
            job_id: self.job_id.clone(),
            kind: self.kind.clone(),
            text: self.text.clone(),
            fingerprint: self.group.clone(),
            failed_from: self.since,
            failed_until: self.until,
            ..DeadFilter::default()
        }
    }

    pub(super) fn lying(&self) -> DeadFilter {
        self.in_states(vec![DeadState::Dead])
    }

    fn is_empty(&self) -> bool {
        self.lying() == DeadFilter::default()
    }

    /// The queue, if no other filter is set. The broker cannot filter by anything else.
    pub(super) fn only_queue(&self) -> Result<&str, Failure> {
        let wanted = || Failure::Usage(anyhow!("--direct works on a whole queue: set --queue and no other filter"));
        let queue = self.queue.as_deref().ok_or_else(wanted)?;
        let alone = DeadFilter { queue: self.queue.clone(), ..DeadFilter::default() };
        if self.lying() == alone { Ok(queue) } else { Err(wanted()) }
    }
}

/// The dead letters to change. Changing all of them requires `--all`, so that it does not happen by mistake.
#[derive(Args)]
pub(super) struct Chosen {
    /// Numbers of dead letters
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    #[command(flatten)]
    pub(super) filter: Filter,

    /// All dead letters
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

impl Chosen {
    pub(super) fn selection(&self) -> Result<Selection, Failure> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, false) => Ok(Selection::Ids(self.ids.clone())),
            (true, false, _) | (true, true, true) => Ok(Selection::Filter(self.filter.lying())),
            _ => {
                Err(Failure::Usage(anyhow!("select dead letters by number, by filters such as --group, or with --all")))
            }
        }
    }
}
