//! `leveret dead list|show|groups|replays`: reads the store.

use anyhow::anyhow;
use clap::{ArgAction, Args};
use leveret::{Config, reader::RawMessage};
use leveret_serve::dead::redact::RedactionRules;
use leveret_store::{Cursor, DeadLetter, DeadState, HistoryEntry, StoredDeadLetter};
use serde::Serialize;

use super::{
    super::shared::{StoreArguments, hidden_if_of_workers, time},
    direct,
    selection::Filter,
    table::{ERROR, lines},
};
use crate::output::{Exit, Failure, Format, notice, one_line, print, print_bytes, print_json, table};

/// Lists dead letters, the last ingested first
#[derive(Args)]
#[command(mut_args(hidden_if_of_workers))]
pub(super) struct List {
    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    filter: Filter,

    /// State: dead, replaying, replayed or purged; `dead` by default
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<DeadState>,

    /// Maximum number of rows
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,

    /// Cursor of the next page, as the previous page printed it
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,

    /// List the first dead letters of --queue in the broker, without a store; they are requeued and lose their order
    #[arg(long, requires = "queue")]
    direct: bool,

    #[command(flatten)]
    config: Config,
}

impl List {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        if self.direct {
            return direct::list(&self.config, self.filter.only_queue()?, self.limit, output).await;
        }
        let states = if self.states.is_empty() { vec![DeadState::Dead] } else { self.states.clone() };
        let store = self.store.open().await?;
        let page = store.dead_letters(&self.filter.in_states(states), self.after.as_ref(), self.limit).await?;
        match output {
            Format::Json => print_json(&page)?,
            Format::Table => print(&lines(&page.items))?,
        }
        if let (Some(next), Format::Table) = (&page.next, output) {
            notice!("More dead letters: --after {next}");
        }
        Ok(Exit::Success)
    }
}

/// Shows a dead letter: error, history, headers and payload
///
/// Values that look like secrets are printed as ***: those under keys that end in password, token, iban and the like. To edit
/// a payload, start from --raw, which prints it unchanged.
#[derive(Args)]
pub(super) struct Show {
    /// Number of the dead letter
    id: i64,

    #[command(flatten)]
    store: StoreArguments,

    /// Redact more: a JSON pointer such as /customer/name, or the end of a key at any depth
    #[arg(long, value_name = "RULE", action = ArgAction::Append)]
    redact: Vec<String>,

    /// Print only the payload, unchanged and with its secrets
    #[arg(long, conflicts_with_all = ["redact", "output"])]
    raw: bool,

    /// With --raw: print the original payload of an edited dead letter
    #[arg(long, requires = "raw")]
    original: bool,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    letter: DeadLetter,
    headers: Vec<(String, String)>,
    history: Vec<HistoryEntry>,
    payload: String,
    /// The original payload of an edited dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<String>,
}

impl Show {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let store = self.store.open().await?;
        let found = store.letter(self.id).await?;
        let missing = || Failure::NotFound(anyhow!("there is no dead letter {}", self.id));
        let StoredDeadLetter { about, properties, payload, original } = found.ok_or_else(missing)?;
        if self.raw {
            print_bytes(original.as_ref().filter(|_| self.original).unwrap_or(&payload))?;
            return Ok(Exit::Success);
        }
        let rules = RedactionRules::new(self.redact);
        let rules = rules.of_job(&about.job);
        let text = |payload: &Vec<u8>| if output == Format::Json { rules.text(payload) } else { rules.show(payload) };
        let message = RawMessage::from_parts(&properties, Vec::new());
        let headers = message.map(|message| rules.fields(&message)).unwrap_or_default();
        let history = store.history(self.id).await?;
        let (payload, original) = (text(&payload), original.as_ref().map(text));
        let shown = Shown { letter: about, headers, history, payload, original };
        match output {
            Format::Json => print_json(&shown)?,
            Format::Table => print(&shown.text())?,
        }
        Ok(Exit::Success)
    }
}

/// A name on one line, cut to a length that a terminal shows.
fn shown(name: &str) -> String {
    one_line(name, 1024)
}

impl Shown {
    fn text(&self) -> String {
        let letter = &self.letter;
        let edited = if letter.edited { ", edited" } else { "" };
        let mut lines = vec![
            format!("dead letter  {} ({}{edited})", letter.id, letter.state.as_str()),
            format!(
                "job          {} {}",
                shown(&letter.job),
                shown(letter.job_id.as_deref().unwrap_or("without an id"))
            ),
            format!("queue        {} ({})", shown(&letter.queue), letter.source.as_str()),
            format!("failed       {} on attempt {}", time(letter.failed_at), letter.attempt),
            format!("ingested     {}", time(letter.taken_at)),
            format!("group        {}", letter.fingerprint),
            format!("error        {}", shown(&letter.kind)),
        ];
        lines.extend(letter.error.lines().map(|line| format!("  {}", one_line(line, 4096))));
        lines.push("headers".to_owned());
        lines.extend(self.headers.iter().map(|(name, value)| format!("  {}: {}", shown(name), one_line(value, 1024))));
        if !self.history.is_empty() {
            lines.push("history".to_owned());
        }
        let done = |entry: &HistoryEntry| {
            let detail =
                entry.detail.as_ref().map(|detail| format!(" {}", shown(&detail.to_string()))).unwrap_or_default();
            format!("  {} {} by {}{detail}", time(entry.at), entry.action, one_line(&entry.actor, 64))
        };
        lines.extend(self.history.iter().map(done));
        lines.push(format!("payload      {} bytes", letter.payload_bytes));
        lines.extend(self.payload.lines().map(|line| format!("  {}", one_line(line, 4096))));
        if let Some(original) = &self.original {
            lines.push("original".to_owned());
            lines.extend(original.lines().map(|line| format!("  {}", one_line(line, 4096))));
        }
        lines.join("\n") + "\n"
    }
}

/// Groups dead letters by error, the largest groups first
///
/// Dead letters are in one group if their job, error kind and error are the same. Numbers and ids in the error are ignored.
#[derive(Args)]
pub(super) struct Groups {
    #[command(flatten)]
    store: StoreArguments,

    #[command(flatten)]
    filter: Filter,

    /// Maximum number of groups
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "NUMBER")]
    limit: u32,
}

impl Groups {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let groups = self.store.open().await?.groups(&self.filter.lying(), self.limit).await?;
        let rows = groups.iter().map(|group| {
            [
                group.count.to_string(),
                group.fingerprint.clone(),
                one_line(&group.job, 32),
                one_line(&group.kind, 32),
                time(group.first_at),
                time(group.last_at),
                group.sample.to_string(),
                one_line(&group.error, ERROR),
            ]
        });
        let rows: Vec<_> = rows.collect();
        match output {
            Format::Json => print_json(&groups)?,
            Format::Table => {
                print(&table(["COUNT", "GROUP", "JOB", "KIND", "FIRST", "LAST", "SAMPLE", "ERROR"], &rows))?;
            }
        }
        Ok(Exit::Success)
    }
}

/// Lists replays that have not ended: running and interrupted ones
///
/// A server continues interrupted replays, and so does `leveret dead replay --resume NUMBER`.
#[derive(Args)]
pub(super) struct Replays {
    #[command(flatten)]
    store: StoreArguments,
}

impl Replays {
    pub(super) async fn run(self, output: Format) -> Result<Exit, Failure> {
        let replays = self.store.open().await?.open_replays().await?;
        let rows = replays.iter().map(|replay| {
            let done = format!("{}/{}", replay.replayed, replay.total);
            [replay.id.to_string(), time(replay.started_at), one_line(&replay.actor, 32), done]
        });
        let rows: Vec<_> = rows.collect();
        match output {
            Format::Json => print_json(&replays)?,
            Format::Table => print(&table(["REPLAY", "STARTED", "BY", "REPLAYED"], &rows))?,
        }
        Ok(Exit::Success)
    }
}
