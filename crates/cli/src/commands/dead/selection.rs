//! The dead letters that a command works on.

use anyhow::anyhow;
use clap::Args;
use leveret_store::{DeadFilter, DeadState, Selection};

use super::super::shared::moment;
use crate::output::Failure;

/// Which dead letters: those that all of it fits.
#[derive(Args)]
pub(super) struct Filter {
    /// Of this job queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Of the job of this name
    #[arg(long, value_name = "NAME")]
    job: Option<String>,

    /// Of the job of this id
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,

    /// With an error of this class, such as error, permanent, timeout, panic or decode
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// With this text in the error or the payload
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// Of this group, as `leveret dead groups` names it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Given up then or later: RFC 3339, or how long ago, such as 2h
    #[arg(long, value_parser = moment, value_name = "TIME")]
    since: Option<u64>,

    /// Given up before then
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

    /// The queue, if it is all that is asked for: without a store nothing else can be told apart.
    pub(super) fn only_queue(&self) -> Result<&str, Failure> {
        let wanted = || Failure::Usage(anyhow!("--direct works on a whole queue: give --queue and no other filter"));
        let queue = self.queue.as_deref().ok_or_else(wanted)?;
        let alone = DeadFilter { queue: self.queue.clone(), ..DeadFilter::default() };
        if self.lying() == alone { Ok(queue) } else { Err(wanted()) }
    }
}

/// Dead letters to do something with; nothing is done to all of them by mistake.
#[derive(Args)]
pub(super) struct Chosen {
    /// These, by number
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    #[command(flatten)]
    pub(super) filter: Filter,

    /// All that lie there
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

impl Chosen {
    pub(super) fn selection(&self) -> Result<Selection, Failure> {
        match (self.ids.is_empty(), self.filter.is_empty(), self.all) {
            (false, true, false) => Ok(Selection::Ids(self.ids.clone())),
            (true, false, _) | (true, true, true) => Ok(Selection::Filter(self.filter.lying())),
            _ => Err(Failure::Usage(anyhow!("say which: numbers, filters such as --group, or --all"))),
        }
    }
}
