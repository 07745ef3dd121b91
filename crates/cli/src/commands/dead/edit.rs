//! `leveret dead edit|purge|restore`: decisions that the store keeps.

use clap::Args;
use leveret::Config;
use leveret_serve::desk::Desk;
use leveret_store::{By, DeadFilter, DeadState, Selection, Store};
use serde_json::json;

use super::{
    super::shared::{ActorArguments, StoreArguments, broker, catalogue, contents, hidden_if_of_workers, now_ms},
    direct,
    outcome::{changed, failure, needs_yes, report_unchecked},
    selection::Chosen,
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_json};

/// Gives a dead letter another payload; the one it died with is kept
///
/// The payload is checked against the schema that the job's workers announced, if they did, and published byte for byte.
/// Where `show` says *** the value itself must stand: `leveret dead show --raw` has it.
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Edit {
    /// Its number
    id: i64,

    /// The payload, from a file or `-` for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "original")]
    payload: Option<String>,

    /// The payload that it died with
    #[arg(long, conflicts_with = "payload")]
    original: bool,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    #[command(flatten)]
    config: Config,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Edit {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let (store, id) = (self.store.open().await?, self.id);
        let payload = match &self.payload {
            Some(file) => Some(contents(file).await?),
            None => None,
        };
        let broker = broker(&self.config).await?;
        let desk = Desk::new(&broker, &store, &catalogue(&broker).await.0);
        let edited = match payload {
            Some(payload) => desk.edit(id, &payload, &self.actor.actor).await.map(Some),
            None => desk.revert(id, &self.actor.actor).await.map(|()| None),
        };
        broker.close().await;
        let checked = edited.map_err(failure)?;
        checked.into_iter().for_each(report_unchecked);
        let which = if checked.is_some() { "another payload now" } else { "its original payload again" };
        match self.output {
            Format::Json => print_json(&json!({ "id": id, "checked": checked }))?,
            Format::Table => {
                print(&format!("Dead letter {id} has {which}; replay it with: leveret dead replay {id}\n"))?;
            }
        }
        Ok(Exit::Success)
    }
}

/// Takes purged dead letters back, until the retention of the server has deleted them
#[derive(Args)]
pub(super) struct Restore {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Restore {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let (selection, store) = (self.chosen.selection()?, self.store.open().await?);
        let restored = store.restore(&selection, By { actor: &self.actor.actor, at: now_ms() }).await?;
        match self.output {
            Format::Json => print_json(&json!({ "restored": restored }))?,
            Format::Table => print(&format!("{restored} dead letters lie there again.\n"))?,
        }
        Ok(changed(restored, &selection))
    }
}

/// Puts dead letters away; `restore` takes them back until retention ends
///
/// It first prints what it will put away, and does nothing without --yes. With --direct they are gone for good.
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct Purge {
    #[command(flatten)]
    chosen: Chosen,

    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    actor: ActorArguments,

    /// Do it
    #[arg(long)]
    yes: bool,

    /// All that lie in the broker, without a store. They cannot be restored: export them before
    #[arg(long, requires = "queue", conflicts_with_all = ["ids", "all"])]
    direct: bool,

    #[command(flatten)]
    config: Config,

    /// How to print what was done
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Purge {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        if self.direct {
            return direct::purge(&self.config, self.chosen.filter.only_queue()?, self.yes, self.output).await;
        }
        let (selection, store) = (self.chosen.selection()?, self.store.open().await?);
        announce(&store, &selection).await?;
        needs_yes(self.yes)?;
        let purged = store.purge(&selection, By { actor: &self.actor.actor, at: now_ms() }).await?;
        match self.output {
            Format::Json => print_json(&json!({ "purged": purged }))?,
            Format::Table => {
                print(&format!("{purged} dead letters purged; `leveret dead restore` takes them back.\n"))?;
            }
        }
        Ok(changed(purged, &selection))
    }
}

/// Says on standard error what is about to go.
async fn announce(store: &Store, selection: &Selection) -> Result<(), Failure> {
    let filter = match selection {
        Selection::Filter(filter) => DeadFilter { states: vec![DeadState::Dead], ..filter.clone() },
        Selection::Ids(ids) => {
            notice!("To be purged: dead letters {ids:?}, as far as they lie there");
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
