//! Options and functions that several commands share: store, database, broker, catalogue, times, files and progress bars.

use std::{sync::Arc, time::Duration};

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
use leveret_sql::db::DatabaseAddress;
use leveret_store::Store;
use tokio::{io::AsyncReadExt, time::timeout};
use url::Url;

use crate::output::Failure;

/// The option and the variable of the store's address. Errors name them instead of an address that may hold a password.
const STORE_SETTING: &str = "--store or DATABASE_URL";
/// The option and the variable of the address of the user's database.
const DATABASE_SETTING: &str = "--database or DATABASE_URL";
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
    url: String,
}

impl StoreArguments {
    /// Opens the store. It must exist, because SQLite would create an empty store at a mistyped path.
    pub(crate) async fn open(&self) -> Result<Store, Failure> {
        open_store(&self.url, STORE_SETTING).await
    }

    /// Opens the store, and creates it if it does not exist.
    pub(crate) async fn create(&self) -> Result<Store, Failure> {
        create_store(&self.url, STORE_SETTING).await
    }
}

/// Opens the store at an address that `setting` sets. It must exist.
pub(crate) async fn open_store(address: &str, setting: &str) -> Result<Store, Failure> {
    let hint = format!("`leveret serve` creates it; set its address with {setting}");
    check_exists(&parsed(address, "store", setting)?, "store", &hint)?;
    create_store(address, setting).await
}

async fn create_store(address: &str, setting: &str) -> Result<Store, Failure> {
    let opened = Store::open(address).await.map_err(Failure::from);
    opened.map_err(|failure| failure.context(|| format!("{} ({setting})", named("store", address))))
}

fn parsed(address: &str, what: &str, setting: &str) -> Result<DatabaseAddress, Failure> {
    let parsed = DatabaseAddress::parse(address).map_err(Failure::from);
    parsed.map_err(|failure| failure.context(|| format!("the {what} ({setting})")))
}

/// Refuses a file that does not exist.
fn check_exists(address: &DatabaseAddress, what: &str, hint: &str) -> Result<(), Failure> {
    if let DatabaseAddress::Sqlite(path) = address
        && !path.exists()
    {
        return Err(Failure::Usage(anyhow!("there is no {what} at {}: {hint}", path.display())));
    }
    Ok(())
}

/// A database with its path, or with its address without login and parameters. Nothing is shown of an address that is
/// neither.
fn named(what: &str, address: &str) -> String {
    let shown = match DatabaseAddress::parse(address) {
        Ok(DatabaseAddress::Sqlite(path)) => Some(path.display().to_string()),
        Ok(DatabaseAddress::Postgres) => without_login(address),
        Err(_) => None,
    };
    shown.map_or_else(|| format!("the {what}"), |shown| format!("the {what} {shown}"))
}

fn without_login(address: &str) -> Option<String> {
    let mut url = Url::parse(address).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    Some(url.into())
}

/// The user's database, with an outbox or an inbox.
#[derive(Args)]
#[command(mut_args(leveret::setting))]
pub(crate) struct DatabaseArguments {
    /// Address of your database: `sqlite:PATH`, a path, or `postgres://user:password@host/database`
    #[arg(long = "database", env = "DATABASE_URL", hide_env_values = true, value_name = "DATABASE")]
    url: String,
}

impl DatabaseArguments {
    /// The address of a database, which may not exist yet.
    pub(crate) fn address(&self) -> Result<&str, Failure> {
        parsed(&self.url, "database", DATABASE_SETTING)?;
        Ok(&self.url)
    }

    /// The address of an existing database. SQLite would create an empty one at a mistyped path.
    pub(crate) fn existing(&self) -> Result<&str, Failure> {
        let address = parsed(&self.url, "database", DATABASE_SETTING)?;
        check_exists(&address, "database", &format!("set its address with {DATABASE_SETTING}"))?;
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
    fn a_database_is_called_by_its_path_or_its_host_without_any_part_of_its_login() {
        for (address, shown) in [
            ("leveret.db", "the store leveret.db"),
            ("sqlite:a@b.db", "the store a@b.db"),
            ("postgres://h/db", "the store postgres://h/db"),
            ("Postgres://u:S3c,ret@h:5432/db?sslmode=require", "the store postgres://h:5432/db"),
            (" postgres://h/db?user=u&password=S3cret", "the store postgres://h/db"),
            ("postgres://u:S3c#ret@h/db", "the store"),
            ("postgres://u:123/S3cret@h/db", "the store"),
            ("postgres://u:S3c?ret@h/db", "the store"),
            ("postgres://u:S3cret@h:x/db", "the store"),
            ("\"postgres://u:S3cret@h/db\"", "the store"),
            ("mysql://u:S3cret@h/db", "the store"),
            ("host=h user=u password=S3cret", "the store"),
            ("postgres:/u:S3cret@h/db", "the store"),
        ] {
            assert_eq!(named("store", address), shown);
        }
    }

    #[test]
    fn an_address_that_is_refused_names_its_setting_and_the_accepted_forms() {
        for address in ["'postgres://u:S3cret@h/db'", "mysql://u:S3cret@h/db", "host=h password=S3cret", "u:S3cret@h"] {
            let database = DatabaseArguments { url: address.to_owned() };
            for failure in [database.existing().unwrap_err(), database.address().unwrap_err()] {
                let text = format!("{:#}", failure.error());
                assert!(text.starts_with("the database (--database or DATABASE_URL): "), "{text}");
                assert!(text.contains("sqlite:PATH") && !text.contains("S3cret"), "{text}");
                assert_eq!(failure.exit(), crate::output::Exit::Usage);
            }
        }
    }
}
