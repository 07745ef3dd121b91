//! Resources of RabbitMQ's messaging topology operator, which knows each thing of a broker by one of its own.

use anyhow::Context;
use leveret::topology::{Binding, Exchange, QueuePlan};
use serde_json::{Value, json};

use super::{
    definitions::{ends_at, exchange_arguments, queue_arguments},
    scope::ExportScope,
    users::{User, users},
};

/// The longest name that Kubernetes takes for a resource is 253; a hash has to fit as well.
const LONGEST_NAME: usize = 240;

pub(super) fn written(scope: &ExportScope, with_users: bool, cluster: &str) -> anyhow::Result<String> {
    let (plan, of) = (scope.plan(), Of { vhost: &scope.vhost, cluster });
    let mut resources = Vec::new();
    if with_users {
        for user in users(scope) {
            resources.extend([of.user(&user), of.permission(&user)]);
        }
    }
    resources.extend(plan.exchanges.iter().map(|exchange| of.exchange(exchange)));
    resources.extend(plan.queues.iter().map(|queue| of.queue(queue)));
    resources.extend(plan.bindings.iter().map(|binding| of.binding(binding)));
    list("k8s", &resources)
}

/// Resources of Kubernetes as a YAML list, one a line.
pub(super) fn list(made_by: &str, resources: &[Value]) -> anyhow::Result<String> {
    let mut text =
        format!("# Made by `leveret topology export --format {made_by}`.\napiVersion: v1\nkind: List\nitems:\n");
    for resource in resources {
        text.push_str("  - ");
        text.push_str(&serde_json::to_string(resource).context("a resource as JSON")?);
        text.push('\n');
    }
    Ok(text)
}

/// Where all of them are.
struct Of<'a> {
    vhost: &'a str,
    cluster: &'a str,
}

impl Of<'_> {
    fn resource(&self, kind: &str, name: &str, mut spec: Value) -> Value {
        spec["rabbitmqClusterReference"] = json!({ "name": self.cluster });
        json!({ "apiVersion": "rabbitmq.com/v1beta1", "kind": kind, "metadata": { "name": name }, "spec": spec })
    }

    fn user(&self, user: &User) -> Value {
        let secret = json!({ "name": format!("rabbitmq-{}", user.name) });
        self.resource("User", user.name, json!({ "tags": user.tags, "importCredentialsSecret": secret }))
    }

    fn permission(&self, user: &User) -> Value {
        let User { configure, write, read, .. } = user;
        let permissions = json!({ "configure": configure, "write": write, "read": read });
        let spec = json!({ "userReference": { "name": user.name }, "vhost": self.vhost, "permissions": permissions });
        self.resource("Permission", user.name, spec)
    }

    fn exchange(&self, exchange: &Exchange) -> Value {
        let spec = json!({
            "name": exchange.name,
            "vhost": self.vhost,
            "type": exchange.kind.as_str(),
            "durable": true,
            "autoDelete": false,
            "arguments": exchange_arguments(exchange),
        });
        self.resource("Exchange", &resource_name(&exchange.name), spec)
    }

    /// Who deletes the resource of a queue must not delete jobs with it.
    fn queue(&self, queue: &QueuePlan) -> Value {
        let mut arguments = queue_arguments(queue);
        let kind = arguments.remove("x-queue-type");
        let spec = json!({
            "name": queue.name,
            "vhost": self.vhost,
            "type": kind,
            "durable": true,
            "autoDelete": false,
            "deleteIfEmpty": true,
            "deleteIfUnused": true,
            "arguments": arguments,
        });
        self.resource("Queue", &resource_name(&queue.name), spec)
    }

    fn binding(&self, binding: &Binding) -> Value {
        let (kind, destination) = ends_at(binding);
        let spec = json!({
            "vhost": self.vhost,
            "source": binding.source,
            "destination": destination,
            "destinationType": kind,
            "routingKey": binding.key,
        });
        // The key may have any letters, and two bindings may have the same ends.
        let hash = fnv(&format!("{kind} {}", binding.key));
        let ends = resource_name(&format!("{}-{destination}", binding.source));
        self.resource("Binding", &format!("{ends}-{hash:08x}"), spec)
    }
}

/// A name as Kubernetes allows it: small letters, digits, `-` and `.` between letters. What had to be changed gets a hash,
/// so that no two become the same.
pub(super) fn resource_name(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let lower = name.to_ascii_lowercase();
    let mut parts = Vec::new();
    for part in lower.split('.') {
        let part: String = part.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
        parts.push(part.trim_matches('-').to_owned());
    }
    parts.retain(|part| !part.is_empty());
    let mut changed = parts.join(".");
    changed.truncate(LONGEST_NAME);
    if changed == name { changed } else { format!("{}-{:08x}", changed.trim_end_matches(['-', '.']), fnv(name)) }
}

/// FNV-1a (draft-eastlake-fnv), 32 bits wide: the same on every machine and in every version.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_one_that_kubernetes_allows_and_no_two_the_same() {
        assert_eq!(resource_name("leveret.v1.delay.00"), "leveret.v1.delay.00");
        assert_eq!(fnv("foobar"), 0xbf9c_f968, "a test vector of the draft");
        let names =
            ["Mail_out", "mail-out", "mail out", "mail..out", "ünter", "x".repeat(251).as_str()].map(resource_name);
        for name in &names {
            let parts = name.split('.');
            let fits = |part: &str| {
                let inner =
                    part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
                inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
            };
            assert!(parts.into_iter().all(fits) && name.len() <= 253, "{name}");
        }
        let mut distinct = names.to_vec();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
    }
}
