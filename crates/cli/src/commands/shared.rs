//! Options and functions that several commands share: store, database, broker, catalogue, times, files and progress bars.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use clap::{ArgMatches, Args, FromArgMatches, builder::Resettable};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use leveret::{
    Broker, Config,
    catalogue::{Catalogue, CatalogueEntry},
    probe::{ConnectError, Probe, Refusal},
    without_bom,
};
use leveret_store::Store;
use tokio::{io::AsyncReadExt, time::timeout};
use url::{Position, Url};

use crate::output::Failure;

/// The longest time that reading the catalogue may take.
const CATALOGUE_WITHIN: Duration = Duration::from_secs(10);

/// The store of the server, with tracked jobs and dead letters.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
pub(crate) struct StoreArguments {
    /// Address of the server's store: `sqlite:PATH`, a path, or `postgres://user:password@host/database`
    #[arg(
        long = "store",
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "leveret.db",
        value_name = "STORE"
    )]
    pub(crate) url: String,
}

impl StoreArguments {
    /// Opens the store. It must exist, because SQLite would create an empty store at a mistyped path.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        let path = self.url.strip_prefix("sqlite:").unwrap_or(&self.url);
        let path = path.strip_prefix("//").unwrap_or(path);
        if !self.url.starts_with("postgres") && !Path::new(path).exists() {
            let hint = "`leveret serve` creates it; set its address with --store or DATABASE_URL";
            return Err(Failure::Usage(anyhow!("there is no store at {path}: {hint}")));
        }
        self.create().await
    }

    /// Opens the store, and creates it if it does not exist.
    pub(crate) async fn create(&self) -> Result<Store, Failure> {
        let opened = Store::open(&self.url).await.map_err(Failure::from);
        opened
            .map_err(|failure| failure.context(|| format!("the store {} (--store or DATABASE_URL)", public(&self.url))))
    }
}

/// The address of a database without its password, or a path unchanged. Where the password cannot be separated, only the
/// scheme is shown.
fn public(address: &str) -> String {
    let Some((scheme, _)) = address.split_once("://") else { return address.to_owned() };
    let bare = Url::parse(address).ok().filter(|url| !url[Position::BeforePath..].contains('@')).and_then(|mut url| {
        url.set_query(None);
        url.set_fragment(None);
        url.set_password(None).ok().map(|()| url)
    });
    bare.map_or_else(|| format!("{scheme}://***"), Into::into)
}

/// The user's database, with an outbox or an inbox.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
pub(crate) struct DatabaseArguments {
    /// Address of your database: `sqlite:PATH`, a path, or `postgres://user:password@host/database`
    #[arg(long = "database", env = "DATABASE_URL", hide_env_values = true, value_name = "DATABASE")]
    pub(crate) url: String,
}

impl DatabaseArguments {
    /// The address of an existing database. SQLite would create an empty one at a mistyped path.
    pub(crate) fn existing(&self) -> Result<&str, Failure> {
        let path = self.url.strip_prefix("sqlite:").unwrap_or(&self.url);
        let path = path.strip_prefix("//").unwrap_or(path);
        if !self.url.contains("://") && !Path::new(path).exists() {
            return Err(Failure::Usage(anyhow!(
                "there is no database at {path}: set its address with --database or DATABASE_URL"
            )));
        }
        Ok(&self.url)
    }
}

/// The actor of a change, for the audit log.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
pub(crate) struct ActorArguments {
    /// Your name in the audit log
    #[arg(long, env = "USER", hide_env_values = true, default_value = "unknown", value_name = "NAME")]
    pub(crate) actor: String,
}

/// The flags of [`Config`], accepted before every command and by commands that do not use them. They only pass on values
/// given there. A command that reads them declares its own, with variables and defaults.
pub(crate) struct GlobalArguments;

impl FromArgMatches for GlobalArguments {
    fn from_arg_matches(_: &ArgMatches) -> clap::error::Result<Self> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> clap::error::Result<()> {
        Ok(())
    }
}

impl Args for GlobalArguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        let bare = |argument: clap::Arg| {
            argument.env(Resettable::Reset).default_value(Resettable::Reset).global(true).hide(true)
        };
        command.args(of_config().map(bare))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn of_config() -> impl Iterator<Item = clap::Arg> {
    let arguments: Vec<_> = Config::augment_args(clap::Command::new("")).get_arguments().cloned().collect();
    arguments.into_iter()
}

/// Hides the flags of [`Config`] that only affect running workers. The others apply to subcommands as well.
pub(crate) fn hidden_if_of_workers(argument: clap::Arg) -> clap::Arg {
    let is_shared = of_config().any(|shared| shared.get_id() == argument.get_id());
    let argument = if is_shared { argument.global(true) } else { argument };
    let of_workers = [
        "http_addr",
        "heartbeat",
        "publish_window",
        "inline_budget",
        "drain_timeout",
        "grace_period",
        "consumer_timeout",
    ];
    let hide = argument.is_hide_set() || of_workers.contains(&argument.get_id().as_str());
    argument.hide(hide)
}

/// Connects to the first address that works, without retries, so that an unreachable broker is an error at once.
pub(crate) async fn reach(config: &Config) -> Result<Probe, Failure> {
    let mut reasons = Vec::new();
    for url in config.addresses() {
        match Probe::connect(url, config).await {
            Ok(probe) => return Ok(probe),
            Err(ConnectError::Address(error)) => return Err(wrong_setting(error)),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(Failure::Unreachable(anyhow!("{}", reasons.join("; "))))
}

/// A usage error that names the wrong setting.
pub(crate) fn wrong_setting(error: leveret::Error) -> Failure {
    let names_it = matches!(error, leveret::Error::Setting { .. });
    let error = anyhow::Error::from(error);
    Failure::Usage(if names_it { error } else { error.context("AMQP_URL") })
}

/// A handle on a broker that is reachable now.
pub(crate) async fn broker(config: &Config) -> Result<Broker, Failure> {
    reach(config).await?.close().await;
    Broker::amqp(config.clone()).map_err(|error| Failure::Usage(error.into()))
}

/// The catalogue could not be read: no right, or no answer.
pub(crate) const UNREADABLE: &str =
    "the catalogue, where workers announce their jobs, could not be read (does this login have the right to read it?)";

/// The jobs that workers announced, or an error if they cannot be read.
pub(crate) async fn announced(broker: &Broker) -> Result<Vec<Arc<CatalogueEntry>>, Failure> {
    let (catalogue, is_read) = catalogue(broker).await;
    if is_read { Ok(catalogue.entries()) } else { Err(Failure::Other(anyhow!(UNREADABLE))) }
}

/// The jobs that workers announced, and true if they could be read.
pub(crate) async fn catalogue(broker: &Broker) -> (Catalogue, bool) {
    let catalogue = Catalogue::follow(broker);
    let is_read = timeout(CATALOGUE_WITHIN, catalogue.ready()).await.unwrap_or(false);
    (catalogue, is_read)
}

/// The number of ready messages in a queue.
pub(crate) async fn depth(probe: &mut Probe, queue: &str) -> Result<u64, Failure> {
    match probe.depth(queue).await {
        Ok(depth) => Ok(depth.ready.into()),
        Err(Refusal::Missing) => Err(Failure::NotFound(anyhow!("there is no queue {queue:?}"))),
        Err(refusal) => Err(Failure::Other(refusal.into())),
    }
}

/// The contents of a file, or of standard input if its name is `-`.
pub(crate) async fn contents(file: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    if file == "-" {
        tokio::io::stdin().read_to_end(&mut bytes).await.context("reading standard input")?;
        return Ok(without_bom(&bytes).to_vec());
    }
    let bytes = tokio::fs::read(file).await.with_context(|| format!("reading {file}")).map_err(Failure::Usage)?;
    Ok(without_bom(&bytes).to_vec())
}

/// Milliseconds since the epoch as a time for people, in whole seconds.
pub(crate) fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| ms.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Parses a time: RFC 3339, or a duration before now.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    let ago = |ago: Duration| Timestamp::now().as_millisecond() - i64::try_from(ago.as_millis()).unwrap_or(0);
    let ms = match (text.parse::<Timestamp>(), leveret::duration(text)) {
        (Ok(at), _) => at.as_millisecond(),
        (_, Ok(duration)) => ago(duration),
        _ => return Err("expected a time such as 2026-11-21T15:00:00Z, or a duration before now such as 2h".to_owned()),
    };
    Ok(ms.try_into().unwrap_or(0))
}

/// A progress bar on standard error, shown only on a terminal.
pub(crate) fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
    // An invalid template only changes the look of the bar.
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_called_by_its_address_without_any_part_of_its_password() {
        for (address, shown) in [
            ("leveret.db", "leveret.db"),
            ("sqlite:a@b.db", "sqlite:a@b.db"),
            ("postgres://h/db", "postgres://h/db"),
            ("postgres://u:S3c,ret@h:5432/db?sslmode=require", "postgres://u@h:5432/db"),
            ("postgres://h/db?user=u&password=S3cret", "postgres://h/db"),
            ("postgres://u:S3c#ret@h/db", "postgres://***"),
            ("postgres://u:123/S3cret@h/db", "postgres://***"),
            ("postgres://u:S3c?ret@h/db", "postgres://***"),
            ("postgres://u:S3cret@h:x/db", "postgres://***"),
        ] {
            assert_eq!(public(address), shown);
        }
    }
}
