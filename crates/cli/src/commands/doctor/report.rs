//! The findings as text and as JSON.

use leveret::{Config, probe::ConnectError};
use serde::Serialize;

use super::{
    facts::Facts,
    finding::{Check, Finding, Level, counted},
    gather::Unreached,
};
use crate::output::{Exit, one_line};

/// The JSON document. Later versions may add fields, but rename or remove none.
#[derive(Debug, Serialize)]
pub(super) struct DoctorReport {
    broker: BrokerSummary,
    namespace: String,
    /// The job queues that were checked.
    queues: Vec<String>,
    findings: Vec<Finding>,
    summary: Summary,
}

#[derive(Debug, Default, Serialize)]
struct BrokerSummary {
    address: Option<String>,
    vhost: Option<String>,
    product: Option<String>,
    version: Option<String>,
    cluster: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    problem: usize,
    warning: usize,
    note: usize,
    ok: usize,
}

impl DoctorReport {
    pub(super) fn new(facts: &Facts, findings: Vec<Finding>) -> Self {
        let broker = facts.broker.clone();
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            broker: BrokerSummary {
                address: said(broker.address),
                vhost: said(broker.vhost),
                product: said(broker.server.product),
                version: said(broker.server.version),
                cluster: said(broker.server.cluster),
            },
            namespace: facts.config.namespace.clone(),
            queues: facts.job_queues.iter().map(|queue| queue.name.clone()).collect(),
            summary: Summary::of(&findings),
            findings,
        }
    }

    /// The report if no address led to a broker.
    pub(super) fn unreached(config: &Config, reasons: &Unreached) -> Self {
        let findings: Vec<_> = reasons.iter().map(not_connected).collect();
        Self {
            broker: BrokerSummary::default(),
            namespace: config.namespace.clone(),
            queues: Vec::new(),
            summary: Summary::of(&findings),
            findings,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        if self.summary.problem > 0 { Exit::Problems } else { Exit::Success }
    }

    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// The findings as text. The worst stand last, where a terminal shows them, followed by the sum.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        for level in Level::ALL.into_iter().rev() {
            for finding in self.findings.iter().filter(|finding| finding.level == level) {
                table.push_str(&lines(finding));
            }
        }
        table + &self.summary.to_line()
    }
}

fn lines(finding: &Finding) -> String {
    let Finding { level, check, .. } = finding;
    let [subject, message] = [&finding.subject, &finding.message].map(|text| one_line(text, usize::MAX));
    let [expected, found, remedy] = [&finding.expected, &finding.found, &finding.remedy]
        .map(|text| text.as_ref().map(|text| one_line(text, usize::MAX)));
    let mut lines = format!("{:<8} {:<12} {subject}: {message}\n", level.as_str(), check.as_str());
    if let (Some(expected), Some(found)) = (expected, found) {
        lines += &format!("{:21} expected {expected}; found {found}\n", "");
    }
    if let Some(remedy) = remedy {
        lines += &format!("{:21} -> {remedy}\n", "");
    }
    lines
}

impl Summary {
    fn of(findings: &[Finding]) -> Self {
        let mut summary = Self::default();
        for finding in findings {
            *match finding.level {
                Level::Problem => &mut summary.problem,
                Level::Warning => &mut summary.warning,
                Level::Note => &mut summary.note,
                Level::Ok => &mut summary.ok,
            } += 1;
        }
        summary
    }

    fn to_line(&self) -> String {
        let Self { problem, warning, note, ok } = self;
        let [problems, warnings, notes] =
            [(problem, "problem"), (warning, "warning"), (note, "note")].map(|(count, what)| counted(*count, what));
        format!("\n{problems}, {warnings}, {notes}, {ok} ok\n")
    }
}

fn not_connected(error: &ConnectError) -> Finding {
    let remedy = match error {
        ConnectError::Login { .. } => {
            "check user and password in AMQP_URL; the user guest may log in only from the broker's own host".to_owned()
        }
        ConnectError::Vhost { user, vhost, .. } => format!(
            "create it with rabbitmqctl add_vhost {vhost}, or grant access with rabbitmqctl set_permissions -p {vhost} \
             {user} CONFIGURE WRITE READ"
        ),
        ConnectError::Tls { address, .. } => {
            format!("openssl s_client -connect {address} -showcerts shows its certificate and its CA")
        }
        _ => "check host and port in AMQP_URL, and that RabbitMQ listens there: rabbitmq-diagnostics listeners"
            .to_owned(),
    };
    Finding::problem(Check::Connection, "AMQP_URL", error.to_string()).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::facts::healthy;

    #[test]
    fn the_table_ends_with_the_worst_and_the_sum() {
        let findings = vec![
            Finding::problem(Check::Arguments, "queue email", "x-overflow differs").differs("a", "b").remedy("fix it"),
            Finding::ok(Check::Version, "RabbitMQ 4.1.3", "is supported"),
        ];
        let report = DoctorReport::new(&healthy::facts(), findings);
        let wanted = "\
ok       version      RabbitMQ 4.1.3: is supported
problem  arguments    queue email: x-overflow differs
                      expected a; found b
                      -> fix it

1 problem, 0 warnings, 0 notes, 1 ok
";
        assert_eq!(report.table(), wanted);
        assert_eq!(report.exit(), Exit::Problems);
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let findings = vec![Finding::warning(Check::DeadLetters, "queue email", "3 dead letters").remedy("look")];
        let report = DoctorReport::new(&healthy::facts(), findings);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let finding = serde_json::json!({
            "level": "warning", "check": "dead-letters", "subject": "queue email", "message": "3 dead letters",
            "remedy": "look",
        });
        assert_eq!(json["findings"], serde_json::json!([finding]));
        assert_eq!(json["summary"], serde_json::json!({"problem": 0, "warning": 1, "note": 0, "ok": 0}));
        assert_eq!((&json["broker"]["version"], &json["queues"][0]), (&"4.3.6".into(), &"email".into()));
        assert_eq!(report.exit(), Exit::Success);
    }
}
