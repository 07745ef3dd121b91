//! The files in a node's folder, and the environment that points there.

use std::fs::{OpenOptions, create_dir, write as write_file};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::options::{NodeOptions, NodeTls};

/// The server's standard output and error.
pub(super) const CONSOLE: &str = "console.log";

/// Without these a restarted single node holds back due jobs for minutes, and 32 undeliverable ones stop a delay.
const ADVANCED: [&str; 2] =
    ["{dead_letter_worker_publisher_confirm_timeout, 5000}", "{dead_letter_worker_consumer_prefetch, 256}"];

/// Modest needs: a test node must not stop on a machine that has little disk left, nor where there is no `/proc`.
const DEFAULTS: [&str; 3] = [
    "disk_free_limit.absolute = 50MB",
    "raft.wal_max_size_bytes = 67108864",
    "vm_memory_calculation_strategy = allocated",
];

/// The inputs of `rabbitmq.conf`.
pub(super) struct Conf<'a> {
    pub(super) options: &'a NodeOptions,
    /// The folder in the node's own eyes.
    pub(super) inside: &'a Path,
    pub(super) http: u16,
    pub(super) amqps: u16,
}

pub(super) fn write(folder: &Path, conf: &Conf<'_>, cookie: &str) -> io::Result<()> {
    create_dir(folder.join("data"))?;
    create_dir(folder.join("log"))?;
    write_file(folder.join("advanced.config"), advanced(conf.options))?;
    write_file(folder.join("rabbitmq.conf"), config(conf))?;
    write_file(folder.join("enabled_plugins"), format!("[{}].\n", conf.options.plugins.join(",")))?;
    if let Some(tls) = &conf.options.tls {
        write_tls(folder, tls)?;
    }
    // Erlang refuses a cookie that others can read.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(folder.join(".erlang.cookie"))?
        .write_all(cookie.as_bytes())
}

pub(super) fn write_tls(folder: &Path, tls: &NodeTls) -> io::Result<()> {
    for (name, content) in [("ca.crt", &tls.authority), ("tls.crt", &tls.certificate), ("tls.key", &tls.key)] {
        write_file(folder.join(name), content)?;
    }
    Ok(())
}

fn advanced(options: &NodeOptions) -> String {
    let mut settings = ADVANCED.map(str::to_owned).to_vec();
    if let Some(names) = &options.feature_flags {
        settings.push(format!("{{forced_feature_flags_on_init, [{}]}}", names.join(", ")));
    }
    format!("[{{rabbit, [{}]}}].\n", settings.join(", "))
}

fn config(conf: &Conf<'_>) -> String {
    let options = conf.options;
    let mut lines = DEFAULTS.map(str::to_owned).to_vec();
    for (plugin, key) in [("rabbitmq_management", "management"), ("rabbitmq_prometheus", "prometheus")] {
        if options.plugins.iter().any(|enabled| enabled == plugin) {
            let tls = options.tls.is_some() && key == "management";
            let kind = if tls { "ssl" } else { "tcp" };
            lines.push(format!("{key}.{kind}.ip = 127.0.0.1"));
            lines.push(format!("{key}.{kind}.port = {}", conf.http));
            if tls {
                lines.extend(tls_files(conf, "management.ssl"));
            }
        }
    }
    if let Some(tls) = &options.tls {
        lines.push(format!("listeners.ssl.1 = 127.0.0.1:{}", conf.amqps));
        lines.extend(tls_files(conf, "ssl_options"));
        lines.push("ssl_options.verify = verify_peer".to_owned());
        lines.push(format!("ssl_options.fail_if_no_peer_cert = {}", tls.mutual));
    }
    lines.extend(options.config.iter().cloned());
    lines.join("\n") + "\n"
}

fn tls_files(conf: &Conf<'_>, section: &str) -> [String; 3] {
    let files = [("cacertfile", "ca.crt"), ("certfile", "tls.crt"), ("keyfile", "tls.key")];
    files.map(|(key, name)| format!("{section}.{key} = {}", conf.inside.join(name).display()))
}

/// For a node whose folder is here in its own eyes.
pub(super) fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let in_folder = |name: &str| folder.join(name).display().to_string();
    vec![
        ("HOME", in_folder("")),
        ("LANG", "C.UTF-8".into()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_MNESIA_BASE", in_folder("data")),
        ("RABBITMQ_LOG_BASE", in_folder("log")),
        ("RABBITMQ_PID_FILE", in_folder("pid")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", in_folder("enabled_plugins")),
        ("RABBITMQ_CONFIG_FILE", in_folder("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", in_folder("advanced.config")),
        // A name that does not exist: the machine's own settings are not this node's.
        ("RABBITMQ_CONF_ENV_FILE", in_folder("rabbitmq-env.conf")),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
    ]
}
