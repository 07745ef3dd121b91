//! The checkouts of the demo: orders that are workflows. One customer's credit is too small, and one article is sold out.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use jiff::Zoned;
use leveret::{
    Broker, Job,
    workflow::{Role, StepRef},
};
use leveret_email::{OrderConfirmation, SendEmail};
use leveret_orders::{ChargePayment, PlaceOrder, RefundPayment, ReleaseStock, ReserveStock, checkout};
use leveret_reports::GenerateInvoice;
use leveret_store::Store;
use tokio::time::Instant;

use crate::{jobs::lines, ledger::Ledger, shop};

/// Time limit for all checkouts to end; they take a second or two.
const TIMEOUT: Duration = Duration::from_secs(120);
const STORE_INTERVAL: Duration = Duration::from_millis(50);
const PLACE: &str = "place";
const SELLER: &str = "Tea shop, 1 Leaf Lane, London";

/// The jobs of a checkout, by step and role.
const STEPS: [(&str, Role, (&str, &str)); 8] = [
    ("charge", Role::Step, route::<ChargePayment>()),
    ("reserve", Role::Step, route::<ReserveStock>()),
    ("invoice", Role::Step, route::<GenerateInvoice>()),
    (PLACE, Role::Step, route::<PlaceOrder>()),
    ("confirm", Role::Step, route::<OrderConfirmation>()),
    ("reserve", Role::Compensation, route::<ReleaseStock>()),
    ("charge", Role::Compensation, route::<RefundPayment>()),
    ("", Role::OnFailure, route::<SendEmail>()),
];

const fn route<J: Job>() -> (&'static str, &'static str) {
    (J::NAME, J::QUEUE)
}

/// The orders that are placed as workflows.
#[derive(Debug)]
pub struct Checkouts {
    orders: Vec<(String, PlaceOrder)>,
    run: String,
}

/// The end of a checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckoutEnd {
    /// Label for people: `checkout1`.
    pub label: String,
    /// Status of its workflow.
    pub status: &'static str,
    /// The reason for which it failed.
    pub error: Option<String>,
}

impl Checkouts {
    /// Reads `checkouts.jsonl`. `run` begins the ids of all workflows.
    ///
    /// # Errors
    ///
    /// The file is missing, or a line is invalid.
    pub fn read(data: &Path, run: &str) -> anyhow::Result<Self> {
        let orders = lines::<PlaceOrder>(&data.join("checkouts.jsonl"))?.into_iter();
        let orders = orders.enumerate().map(|(index, order)| (format!("checkout{}", index + 1), order)).collect();
        Ok(Self { orders, run: run.to_owned() })
    }

    /// Registers the jobs of all checkouts. Each counts from its first attempt.
    pub fn expect(&self, ledger: &Ledger) {
        for (label, _) in &self.orders {
            let id = self.id(label);
            for (step, role, route) in STEPS {
                let job_id = |workflow: &str| StepRef { role, ..StepRef::step(workflow, step) }.to_string();
                let label = if step == "invoice" { format!("invoice-{id}.pdf") } else { job_id(label) };
                ledger.expect(None, &job_id(&id), route, &label);
            }
            shop::expect_copies(ledger, (&self.place_id(label), PlaceOrder::QUEUE), &format!("{label}:place"));
        }
    }

    /// Starts all checkouts, and waits until each has ended.
    ///
    /// # Errors
    ///
    /// A workflow cannot be started, the store cannot be read, or a checkout takes too long.
    pub async fn run(&self, broker: &Broker, store: &Store) -> anyhow::Result<()> {
        let publisher = broker.publisher();
        for (label, order) in &self.orders {
            let workflow = checkout(&self.id(label), order, SELLER, Zoned::now().date())?;
            publisher.start(&workflow).await.with_context(|| format!("starting {label}"))?;
        }
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let ends = self.ends(store).await?;
            let Some(open) = ends.iter().find(|end| !matches!(end.status, "Completed" | "Failed")) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                bail!("{} is {} after {TIMEOUT:?}", open.label, open.status);
            }
            tokio::time::sleep(STORE_INTERVAL).await;
        }
    }

    /// Returns the ids of the jobs that place the orders.
    pub fn place_ids(&self) -> impl Iterator<Item = String> + '_ {
        self.orders.iter().map(|(label, _)| self.place_id(label))
    }

    /// Returns the state of each checkout.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn ends(&self, store: &Store) -> anyhow::Result<Vec<CheckoutEnd>> {
        let mut ends = Vec::new();
        for (label, _) in &self.orders {
            let workflow = store.workflow(&self.id(label)).await.context("reading the workflows")?;
            let status = workflow.as_ref().map_or("Pending", |workflow| workflow.status().name());
            let error = workflow.and_then(|workflow| workflow.state.cause).map(|cause| cause.error);
            ends.push(CheckoutEnd { label: label.clone(), status, error });
        }
        Ok(ends)
    }

    fn place_id(&self, label: &str) -> String {
        StepRef::step(self.id(label), PLACE).to_string()
    }

    fn id(&self, label: &str) -> String {
        format!("{}.{label}", self.run)
    }
}
