//! `leveret dead edit|purge|restore`: changes of dead letters in the store.

use clap::Args;
use leveret::{Config, time::now_ms};
use leveret_serve::dead::DeadLetterService;
use leveret_store::{AuditStamp, DeadFilter, DeadState, Selection, Store};
use serde_json::json;

use super::{
    super::shared::{ActorArguments, StoreArguments, broker, catalogue, contents, hidden_if_of_workers},
    direct,
    outcome::{changed, failure, needs_yes, report_unchecked},
    selection::Chosen,
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json};

/// Replaces the payload of a dead letter; the original payload is kept
///
/// The payload is checked against the schema that workers announced, if there is one, and published byte for byte. `show`
/// prints redacted values as ***; start from `leveret dead show --raw`, which prints the payload itself.
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Edit {
    /// Number of the dead letter
    id: i64,

    /// New payload from a file, or `-` for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "original")]
    payload: Option<String>,

    /// Restore the original payload
    #[arg(long, conflicts_with = "payload")]
    original: bool,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    #[command(flatten)]
    config: Config,
}

impl Edit {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let (store, id) = (self.store.open().await?, self.id);
        let payload = match &self.payload {
            Some(file) => Some(contents(file).await?),
            None => None,
        };
        let broker = broker(&self.config).await?;
        let dead = DeadLetterService::new(&broker, &store, &catalogue(&broker).await.0);
        let edited = match payload {
            Some(payload) => dead.edit(id, &payload, &self.actor.actor).await.map(Some),
            None => dead.revert(id, &self.actor.actor).await.map(|()| None),
        };
        broker.close().await;
        let checked = edited.map_err(failure)?;
        checked.into_iter().for_each(report_unchecked);
        let which = if checked.is_some() { "a new payload" } else { "its original payload again" };
        match output {
            Format::Json => print_json(&json!({ "id": id, "checked": checked }))?,
            Format::Table => {
                print(&format!("Dead letter {id} has {which}; replay it with: leveret dead replay {id}\n"))?;
            }
        }
        Ok(Exit::Success)
    }
}

/// Restores purged dead letters that the retention of the server has not deleted yet
#[derive(Args)]
pub(super) struct Restore {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,
}

impl Restore {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let (selection, store) = (self.chosen.selection()?, self.store.open().await?);
        let restored = store.restore(&selection, AuditStamp { actor: &self.actor.actor, at: now_ms() }).await?;
        match output {
            Format::Json => print_json(&json!({ "restored": restored }))?,
            Format::Table => print(&format!("{restored} dead letters restored.\n"))?,
        }
        Ok(changed(restored, &selection))
    }
}

/// Purges dead letters; `restore` brings them back until retention ends
///
/// The command prints what it will purge, and changes nothing without --yes. With --direct the purge is final.
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Purge {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    /// Confirm the purge
    #[arg(long)]
    yes: bool,

    /// Purge the dead letters of --queue in the broker, without a store; they cannot be restored, so export them first
    #[arg(long, requires = "queue", conflicts_with_all = ["ids", "all"])]
    direct: bool,

    #[command(flatten)]
    config: Config,
}

impl Purge {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        if self.direct {
            return direct::purge(&self.config, self.chosen.filter.only_queue()?, self.yes, output).await;
        }
        let (selection, store) = (self.chosen.selection()?, self.store.open().await?);
        announce(&store, &selection).await?;
        needs_yes(self.yes)?;
        let purged = store.purge(&selection, AuditStamp { actor: &self.actor.actor, at: now_ms() }).await?;
        match output {
            Format::Json => print_json(&json!({ "purged": purged }))?,
            Format::Table => {
                print(&format!("{purged} dead letters purged; `leveret dead restore` restores them.\n"))?;
            }
        }
        Ok(changed(purged, &selection))
    }
}

/// Prints on standard error what a purge will remove.
async fn announce(store: &Store, selection: &Selection) -> Result<(), Failure> {
    let filter = match selection {
        Selection::Filter(filter) => DeadFilter { states: vec![DeadState::Dead], ..filter.clone() },
        Selection::Ids(ids) => {
            notice!("To be purged: dead letters {ids:?}, except those that are replayed or purged already");
            return Ok(());
        }
    };
    notice!("To be purged: {} dead letters", store.count_dead(&filter).await?);
    for group in store.groups(&filter, 20).await? {
        notice!(
            "  {} {} {}: {}",
            group.count,
            one_line(&group.job, 64),
            one_line(&group.kind, 64),
            one_line(&group.error, 80)
        );
    }
    Ok(())
}
