//! Resources of KEDA: for each queue as many workers as its jobs need, by how many wait and by how long they will.

use std::time::Duration;

use clap::Args;
use leveret::topology::{HIGH, LOW};
use serde_json::{Value, json};

use super::{
    kubernetes::{list, resource_name},
    scope::{ExportScope, Traits},
};

/// How many workers a queue may have, and when it gets more.
#[derive(Args)]
#[command(next_help_heading = "Options of the form keda")]
pub(super) struct Scaling {
    /// The fewest workers of a queue
    #[arg(long, default_value = "2", value_name = "NUMBER")]
    min_replicas: u32,

    /// The most workers of a queue
    #[arg(long, default_value = "20", value_name = "NUMBER")]
    max_replicas: u32,

    /// The workers of a queue while neither RabbitMQ nor Prometheus can be asked
    #[arg(long, default_value = "4", value_name = "NUMBER")]
    fallback_replicas: u32,

    /// How many jobs may wait for each worker before there are more workers
    #[arg(long, default_value = "500", value_name = "NUMBER")]
    jobs_per_worker: u32,

    /// How long a job may have to wait before there are more workers
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    target_wait: Duration,

    /// Prometheus, which has the rules of deploy/prometheus
    #[arg(long, default_value = "http://prometheus.monitoring:9090", value_name = "URL")]
    prometheus: String,
}

/// The name of the secret with the address of RabbitMQ's management API, and of what refers to it.
const SECRET: &str = "leveret-scaler";
const LOGIN: &str = "leveret-rabbitmq";

pub(super) fn written(scope: &ExportScope, scaling: &Scaling) -> anyhow::Result<String> {
    let host = json!({ "parameter": "host", "name": SECRET, "key": "host" });
    let mut resources = vec![resource("TriggerAuthentication", LOGIN, &json!({ "secretTargetRef": [host] }))];
    resources.extend(scope.queues.iter().map(|(queue, traits)| scaled(queue, *traits, &scope.vhost, scaling)));
    list("keda", &resources)
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "keda.sh/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn scaled(queue: &str, traits: Traits, vhost: &str, scaling: &Scaling) -> Value {
    let name = format!("{}-worker", resource_name(queue));
    let lanes: &[&str] = if traits.lanes { &["", HIGH, LOW] } else { &[""] };
    let mut triggers: Vec<_> =
        lanes.iter().map(|lane| by_length(&format!("{queue}{lane}"), vhost, scaling.jobs_per_worker)).collect();
    triggers.push(by_wait(queue, scaling));
    // A worker that goes hands back what it had in hand: few at a time, and not for a short lull.
    let policy = json!({ "type": "Pods", "value": 1, "periodSeconds": 60 });
    let behavior = json!({ "scaleDown": { "stabilizationWindowSeconds": 300, "policies": [policy] } });
    let spec = json!({
        "scaleTargetRef": { "name": name },
        "pollingInterval": 15,
        "minReplicaCount": scaling.min_replicas,
        "maxReplicaCount": scaling.max_replicas,
        "fallback": { "failureThreshold": 4, "replicas": scaling.fallback_replicas },
        "advanced": { "horizontalPodAutoscalerConfig": { "behavior": behavior } },
        "triggers": triggers,
    });
    resource("ScaledObject", &name, &spec)
}

/// Acts before there are figures of how long jobs take.
fn by_length(queue: &str, vhost: &str, jobs: u32) -> Value {
    let metadata = json!({
        "protocol": "http",
        "mode": "QueueLength",
        "value": jobs.to_string(),
        "queueName": queue,
        "vhostName": vhost,
        "excludeUnacknowledged": "true",
    });
    json!({ "type": "rabbitmq", "metadata": metadata, "authenticationRef": { "name": LOGIN } })
}

/// A queue may be long where jobs are short.
fn by_wait(queue: &str, scaling: &Scaling) -> Value {
    let metadata = json!({
        "serverAddress": scaling.prometheus,
        "query": format!("max(queue:leveret_predicted_wait_seconds{{queue={}}}) or vector(0)", json!(queue)),
        "threshold": scaling.target_wait.as_secs_f64().to_string(),
    });
    json!({ "type": "prometheus", "metricType": "Value", "metadata": metadata })
}
