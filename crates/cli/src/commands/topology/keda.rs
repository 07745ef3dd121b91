//! Resources of KEDA. They scale the workers of each queue by its number of waiting jobs and their predicted wait.

use std::time::Duration;

use clap::Args;
use leveret::topology::{HIGH, LOW};
use serde_json::{Value, json};

use super::{
    kubernetes::{list, resource_name},
    scope::{ExportScope, Traits},
};

/// The scaling of the workers of a queue.
#[derive(Args)]
#[command(next_help_heading = "Options of the format keda")]
pub(super) struct Scaling {
    /// Minimum number of workers of a queue
    #[arg(long, default_value = "2", value_name = "NUMBER")]
    min_replicas: u32,

    /// Maximum number of workers of a queue
    #[arg(long, default_value = "20", value_name = "NUMBER")]
    max_replicas: u32,

    /// Number of workers of a queue while KEDA can query neither RabbitMQ nor Prometheus
    #[arg(long, default_value = "4", value_name = "NUMBER")]
    fallback_replicas: u32,

    /// Waiting jobs per worker above which workers are added
    #[arg(long, default_value = "500", value_name = "NUMBER")]
    jobs_per_worker: u32,

    /// Predicted wait of a job above which workers are added
    #[arg(long, value_parser = leveret::duration, default_value = "60s", value_name = "DURATION")]
    target_wait: Duration,

    /// Address of Prometheus, which must have the rules of deploy/prometheus
    #[arg(long, default_value = "http://prometheus.monitoring:9090", value_name = "URL")]
    prometheus: String,
}

/// The secret with the address of RabbitMQ's management API, and the resource that refers to it.
const SECRET: &str = "leveret-scaler";
const LOGIN: &str = "leveret-rabbitmq";

pub(super) fn written(scope: &ExportScope, scaling: &Scaling) -> anyhow::Result<String> {
    let host = json!({ "parameter": "host", "name": SECRET, "key": "host" });
    let mut resources = vec![resource("TriggerAuthentication", LOGIN, &json!({ "secretTargetRef": [host] }))];
    resources.extend(scope.queues.iter().map(|(queue, traits)| scaled(queue, traits, &scope.vhost, scaling)));
    list("keda", &resources)
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "keda.sh/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn scaled(queue: &str, traits: &Traits, vhost: &str, scaling: &Scaling) -> Value {
    let name = format!("{}-worker", resource_name(queue));
    let lanes: &[&str] = if traits.lanes { &["", HIGH, LOW] } else { &[""] };
    let mut triggers: Vec<_> =
        lanes.iter().map(|lane| by_length(&format!("{queue}{lane}"), vhost, scaling.jobs_per_worker)).collect();
    triggers.push(by_wait(queue, scaling));
    // A stopping worker requeues its unacknowledged jobs. So workers stop one at a time, and not in a short lull.
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

/// A trigger by queue length. It works before metrics of job durations exist.
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

/// A trigger by predicted wait. A long queue of short jobs needs no more workers.
fn by_wait(queue: &str, scaling: &Scaling) -> Value {
    let metadata = json!({
        "serverAddress": scaling.prometheus,
        "query": format!("max(queue:leveret_predicted_wait_seconds{{queue={}}}) or vector(0)", json!(queue)),
        "threshold": scaling.target_wait.as_secs_f64().to_string(),
    });
    json!({ "type": "prometheus", "metricType": "Value", "metadata": metadata })
}
