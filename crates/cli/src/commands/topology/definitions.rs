//! The format of RabbitMQ's definitions, with one entry per line.

use anyhow::Context;
use leveret::topology::{Argument, Binding, Destination, Exchange, QueuePlan};
use serde_json::{Map, Value, json};

use super::{
    scope::ExportScope,
    users::{User, users},
};

pub(super) fn written(scope: &ExportScope, with_users: bool) -> anyhow::Result<String> {
    let (plan, vhost) = (scope.plan(), scope.vhost.as_str());
    let mut parts = Vec::new();
    if with_users {
        let users = users(scope);
        parts.push(("vhosts", vec![json!({ "name": vhost })]));
        parts.push(("users", users.iter().map(user).collect()));
        parts.push(("permissions", users.iter().map(|user| permission(user, vhost)).collect()));
    }
    parts.push(("exchanges", plan.exchanges.iter().map(|exchange| of_exchange(exchange, vhost)).collect()));
    parts.push(("queues", plan.queues.iter().map(|queue| of_queue(queue, vhost)).collect()));
    parts.push(("bindings", plan.bindings.iter().map(|binding| of_binding(binding, vhost)).collect()));
    let parts = parts.into_iter().map(|(name, entries)| part(name, &entries)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(format!("{{\n{}\n}}\n", parts.join(",\n")))
}

fn part(name: &str, entries: &[Value]) -> anyhow::Result<String> {
    let lines = entries.iter().map(|entry| serde_json::to_string(entry).map(|line| format!("    {line}")));
    let lines = lines.collect::<Result<Vec<_>, _>>().context("encoding the definitions as JSON")?;
    Ok(format!("  \"{name}\": [\n{}\n  ]", lines.join(",\n")))
}

fn user(user: &User) -> Value {
    json!({
        "name": user.name,
        "password_hash": "",
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": user.tags,
    })
}

fn permission(user: &User, vhost: &str) -> Value {
    let User { name, configure, write, read, .. } = user;
    json!({ "user": name, "vhost": vhost, "configure": configure, "write": write, "read": read })
}

fn of_exchange(exchange: &Exchange, vhost: &str) -> Value {
    json!({
        "name": exchange.name,
        "vhost": vhost,
        "type": exchange.kind.as_str(),
        "durable": true,
        "auto_delete": false,
        "arguments": exchange_arguments(exchange),
    })
}

fn of_queue(queue: &QueuePlan, vhost: &str) -> Value {
    json!({
        "name": queue.name,
        "vhost": vhost,
        "durable": true,
        "auto_delete": false,
        "arguments": queue_arguments(queue),
    })
}

fn of_binding(binding: &Binding, vhost: &str) -> Value {
    let (kind, destination) = ends_at(binding);
    json!({
        "source": binding.source,
        "vhost": vhost,
        "destination": destination,
        "destination_type": kind,
        "routing_key": binding.key,
        "arguments": {},
    })
}

pub(super) fn exchange_arguments(exchange: &Exchange) -> Value {
    exchange.alternate.as_ref().map_or_else(|| json!({}), |alternate| json!({ "alternate-exchange": alternate }))
}

pub(super) fn queue_arguments(queue: &QueuePlan) -> Map<String, Value> {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Integer(number) => json!(number),
        Argument::Flag(flag) => json!(flag),
    };
    queue.arguments.iter().map(|(name, argument)| ((*name).to_owned(), value(argument))).collect()
}

/// The kind and the name of a binding's destination.
pub(super) fn ends_at(binding: &Binding) -> (&'static str, &str) {
    match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    }
}
