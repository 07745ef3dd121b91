//! Logs and, with the feature `otel`, traces of a process. For use in `main`.

mod fields;
#[cfg(feature = "otel")]
mod otlp;

use std::{
    fmt,
    io::{IsTerminal, stderr},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::MakeExt,
    filter::{FilterExt, filter_fn},
    fmt::{MakeWriter, format},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{error::Error, observe::TRACE_TARGET};

/// Lapin is off because its error lines repeat, and its warnings show payloads.
const DEFAULT_LOG: &str = "info,lapin=off";

/// Log levels and log format and, with the feature `otel`, traces.
///
/// With the feature `clap` it is an argument group, like [`Config`](crate::Config).
///
/// ```no_run
/// use leveret::telemetry::Telemetry;
///
/// # fn main() -> Result<(), leveret::Error> {
/// let _telemetry = Telemetry::default().init("email-worker")?;    // to the end of main
/// tracing::info!("logged to standard error");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::Args), command(mut_args(crate::config::setting)))]
pub struct Telemetry {
    /// Log levels: one level, or levels by module (lapin's warnings show payloads)
    #[cfg_attr(feature = "clap", arg(long, env = "RUST_LOG", default_value = DEFAULT_LOG, value_name = "LEVELS"))]
    pub log: String,

    /// Log format
    #[cfg_attr(feature = "clap", arg(long, env = "LEVERET_LOG_FORMAT", value_enum, default_value = "text"))]
    pub log_format: LogFormat,
}

/// Format of the log.
///
/// ```
/// use leveret::telemetry::{LogFormat, Telemetry};
///
/// let machines = Telemetry { log_format: LogFormat::Json, ..Telemetry::default() };
/// assert_eq!(machines.log, "info,lapin=off");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum LogFormat {
    /// One text line an event, coloured on a terminal.
    #[default]
    Text,
    /// One object a line: `timestamp`, `level`, `target`, `message` and the event's fields. Under `spans` it has the
    /// fields of the enclosing spans, such as the job.
    Json,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: DEFAULT_LOG.to_owned(), log_format: LogFormat::default() }
    }
}

/// Exports the remaining traces when it is dropped, for at most two seconds. Keep it until the end of `main`.
#[must_use = "the last traces are exported when this is dropped"]
pub struct Guard {
    #[cfg(feature = "otel")]
    _traces: Option<otlp::Traces>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Starts logging to standard error.
    ///
    /// With the feature `otel`, traces go to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` or
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names. A thread of their own sends them over HTTP as protobuf. `service` is
    /// the name of the service in traces, unless `OTEL_SERVICE_NAME` sets one.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] that names the setting: for unreadable levels, an invalid address, or a process that already
    /// logs.
    #[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "there are no traces"))]
    pub fn init(&self, service: &str) -> Result<Guard, Error> {
        #[cfg_attr(not(feature = "otel"), expect(unused_mut, reason = "there are no traces"))]
        let mut layers = vec![self.layer(stderr)?];
        #[cfg(feature = "otel")]
        let (layer, traces) = otlp::start(service)?.unzip();
        // A layer of `None` has no filter and would enable every span.
        #[cfg(feature = "otel")]
        layers.extend(layer.map(Layer::boxed));
        tracing_subscriber::registry().with(layers).try_init().map_err(|error| setting("RUST_LOG", &error))?;
        Ok(Guard {
            #[cfg(feature = "otel")]
            _traces: traces,
        })
    }

    /// Builds the log layer, without the spans that exist only for traces.
    fn layer<W>(&self, to: W) -> Result<Box<dyn Layer<Registry> + Send + Sync>, Error>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let levels = EnvFilter::try_new(&self.log).map_err(|error| setting("RUST_LOG", &error))?;
        let filter = levels.and(filter_fn(|of| of.target() != TRACE_TARGET));
        let layer = tracing_subscriber::fmt::layer();
        Ok(match self.log_format {
            LogFormat::Text => {
                let fields = format::debug_fn(fields::write_field).delimited(" ");
                let layer = layer.fmt_fields(fields).with_writer(to).with_ansi(stderr().is_terminal());
                layer.with_filter(filter).boxed()
            }
            LogFormat::Json => {
                let layer = layer.json().flatten_event(true).with_current_span(false);
                layer.with_writer(fields::JsonLines(to)).with_filter(filter).boxed()
            }
        })
    }
}

fn setting(setting: &'static str, reason: &dyn fmt::Display) -> Error {
    Error::Setting { setting, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn trace_spans_are_disabled_when_only_logs_are_on() {
        let all = Telemetry { log: "trace".to_owned(), ..Telemetry::default() };
        for log_format in [LogFormat::Text, LogFormat::Json] {
            let log = Telemetry { log_format, ..all.clone() }.layer(stderr).unwrap();
            tracing::subscriber::with_default(tracing_subscriber::registry().with(vec![log]), || {
                assert!(tracing::info_span!(target: TRACE_TARGET, "process").is_disabled());
                assert!(!tracing::info_span!("job").is_disabled());
            });
        }
    }

    #[test]
    fn unreadable_levels_are_refused_with_the_name_of_their_setting() {
        let error = Telemetry { log: "a=b=c".to_owned(), ..Telemetry::default() }.layer(stderr).err().unwrap();
        assert!(error.to_string().starts_with("RUST_LOG: "), "{error}");
    }

    /// Returns the log output of `event`.
    fn logged(log_format: LogFormat, event: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let telemetry = Telemetry { log: "info".to_owned(), log_format };
        let layer = telemetry.layer(SharedWriter(Arc::clone(&lines))).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(vec![layer]), event);
        let lines = lines.lock().unwrap().clone();
        String::from_utf8(lines).unwrap()
    }

    #[derive(Clone)]
    struct SharedWriter(Arc<Mutex<Vec<u8>>>);

    impl MakeWriter<'_> for SharedWriter {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl std::io::Write for SharedWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_is_bounded_and_free_of_terminal_control_characters() {
        let evil = "\x1b]0;title\x07\u{9b}31m\u{202e}\u{200b}\n2026-11-21T00:00:00Z ERROR forged";
        let long = format!("{evil}{}", "ä".repeat(450_000));
        for log_format in [LogFormat::Text, LogFormat::Json] {
            let line = logged(log_format, || {
                let _span = tracing::info_span!("job", job_id = long, queue = %long).entered();
                tracing::event!(tracing::Level::WARN, error = long, source = %long, kind = ?long, bytes = 7, "attempt failed: {long}");
            });
            assert!(line.len() < 100_000, "{}", line.len());
            assert_eq!(line.lines().count(), 1, "{log_format:?}");
            assert!(!line.trim_end().chars().any(crate::text::is_unsafe), "{log_format:?}");
            assert!(line.contains("attempt failed") && line.contains("bytes more") && line.contains("forged"));
            if log_format == LogFormat::Json {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert!(line["error"].as_str().unwrap().starts_with(evil) && line["bytes"] == 7);
            }
        }
    }

    #[test]
    fn a_text_line_has_its_fields_after_its_message() {
        let line = logged(
            LogFormat::Text,
            || tracing::event!(tracing::Level::INFO, queue = "email", error = %"no mailbox", "consuming"),
        );
        assert!(line.ends_with("consuming queue=\"email\" error=no mailbox\n"), "{line}");
    }
}
