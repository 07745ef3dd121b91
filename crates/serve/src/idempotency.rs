//! Idempotency keys: a client that repeats a request with the same key gets the same response, and the work is done once.
//!
//! A key is claimed before the work and settled after it, also when the client has disconnected. If some of the work has
//! failed, the key is released at once, and a repeated request has the same ids.

use std::time::Duration;

use leveret::time::now_ms;
use leveret_store::{IdempotencyClaim, IdempotencyRequest, Store};
use serde_json::Value;

use crate::{detached::run_detached, services::Services};

/// The identity of a request: a second request with the same one gets the response of the first.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key.
    pub key: String,
    /// A digest of the body: another body under the same key is an error.
    pub body_hash: String,
}

/// The ids under which a request does its work.
#[derive(Debug)]
pub(crate) struct ClaimedIds {
    /// One for each part of the work, in order.
    pub(crate) ids: Vec<String>,
    /// True if an earlier request had them. It was interrupted, or failed, and may have done a part of the work.
    pub(crate) is_resumed: bool,
}

/// The reason why a request cannot have its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakenKey {
    /// The key was used for another request.
    Reused,
    /// A request with the key is under way.
    InFlight,
}

impl Services {
    /// Does work once for all requests with this key, also if this request is dropped. `work` gets `ids`, or the ids of an
    /// earlier request, and returns the fate of each. The key is claimed for the time of `lease`, unless the work ends
    /// before.
    pub(crate) async fn once<F, E, W>(
        &self,
        idempotency: Option<Idempotency>,
        ids: Vec<String>,
        lease: Duration,
        work: impl FnOnce(ClaimedIds) -> W + Send + 'static,
    ) -> Result<Vec<Result<String, F>>, E>
    where
        F: Send + 'static,
        E: From<TakenKey> + From<leveret_store::Error> + Send + 'static,
        W: Future<Output = Result<Vec<Result<String, F>>, E>> + Send + 'static,
    {
        let store = self.store.clone();
        run_detached(async move {
            let Some(Idempotency { key, body_hash }) = idempotency else {
                return Box::pin(work(ClaimedIds { ids, is_resumed: false })).await;
            };
            let request = IdempotencyRequest { key: &key, body_hash: &body_hash, task_ids: &ids };
            let claimed = match store.claim(&request, now_ms(), lease).await? {
                IdempotencyClaim::New { task_ids } => ClaimedIds { is_resumed: task_ids != ids, ids: task_ids },
                IdempotencyClaim::Done(answer) => return Ok(ids_of(&answer).into_iter().map(Ok).collect()),
                IdempotencyClaim::InFlight => return Err(TakenKey::InFlight.into()),
                IdempotencyClaim::Other => return Err(TakenKey::Reused.into()),
            };
            let result = Box::pin(work(claimed)).await;
            let answer = result.as_ref().ok().and_then(|fates| answer_of(fates));
            settle(&store, &key, answer.as_ref()).await;
            result
        })
        .await
    }
}

/// The response for repeated requests, if all of the work is done.
fn answer_of<F>(fates: &[Result<String, F>]) -> Option<Value> {
    fates.iter().map(|fate| fate.as_deref().ok()).collect()
}

fn ids_of(answer: &Value) -> Vec<String> {
    let ids = answer.as_array().into_iter().flatten();
    ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

/// Stores the response, or releases the key for a repeated request. If this fails, the key's lease ends by itself.
async fn settle(store: &Store, key: &str, answer: Option<&Value>) {
    let settled = match answer {
        Some(answer) => store.finish(key, answer).await,
        None => store.release(key).await,
    };
    if let Err(error) = settled {
        tracing::warn!(
            error = leveret::text::error_chain(&error),
            "cannot settle an idempotency key: it stays claimed until its lease ends"
        );
    }
}

#[cfg(test)]
mod tests {
    use leveret::Broker;
    use leveret_harness::eventually;
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;

    /// Longer than a test.
    const LEASE: Duration = Duration::from_secs(600);

    #[derive(Debug, PartialEq)]
    enum Failure {
        Key(TakenKey),
        Store(String),
        Work,
    }

    impl From<TakenKey> for Failure {
        fn from(key: TakenKey) -> Self {
            Self::Key(key)
        }
    }

    impl From<leveret_store::Error> for Failure {
        fn from(error: leveret_store::Error) -> Self {
            Self::Store(error.to_string())
        }
    }

    type Fates = Result<Vec<Result<String, Failure>>, Failure>;

    async fn services() -> (TempDir, Services) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("leveret.db").display().to_string()).await.unwrap();
        (folder, Services::new(&Broker::memory(), store))
    }

    fn idempotency(body_hash: &str) -> Option<Idempotency> {
        Some(Idempotency { key: "k".to_owned(), body_hash: body_hash.to_owned() })
    }

    /// Makes a request under the one key. Its own id is `id`.
    async fn request(services: &Services, id: &str, work: fn(ClaimedIds) -> Fates) -> Fates {
        services.once(idempotency("h"), vec![id.to_owned()], LEASE, move |claimed| async move { work(claimed) }).await
    }

    fn done(claimed: ClaimedIds) -> Fates {
        Ok(claimed.ids.into_iter().map(Ok).collect())
    }

    fn under(id: &str) -> Fates {
        Ok(vec![Ok(id.to_owned())])
    }

    #[tokio::test]
    async fn a_repeated_request_gets_the_ids_of_the_first_and_does_no_work() {
        let (_folder, services) = services().await;
        assert_eq!(request(&services, "a", done).await, under("a"));
        assert_eq!(request(&services, "b", |_| Err(Failure::Work)).await, under("a"));
        let other =
            services.once(idempotency("other"), Vec::new(), LEASE, |claimed| async move { done(claimed) }).await;
        assert_eq!(other, Err(Failure::Key(TakenKey::Reused)));
    }

    #[tokio::test]
    async fn a_key_whose_work_failed_is_free_at_once_under_the_same_ids() {
        let (_folder, services) = services().await;
        assert_eq!(request(&services, "a", |_| Err(Failure::Work)).await, Err(Failure::Work));
        assert_eq!(request(&services, "b", |_| Ok(vec![Err(Failure::Work)])).await, Ok(vec![Err(Failure::Work)]));
        let resumed = |claimed: ClaimedIds| if claimed.is_resumed { done(claimed) } else { Err(Failure::Work) };
        assert_eq!(request(&services, "c", resumed).await, under("a"));
    }

    #[tokio::test]
    async fn a_request_whose_answer_cannot_be_stored_succeeds() {
        let (_folder, services) = services().await;
        let store = services.store.clone();
        let work = move |claimed| async move {
            store.close().await;
            done(claimed)
        };
        assert_eq!(services.once(idempotency("h"), vec!["a".to_owned()], LEASE, work).await, under("a"));
    }

    #[tokio::test]
    async fn a_request_whose_client_disconnects_is_finished_under_its_key() {
        let (_folder, services) = services().await;
        let (begin, has_begun) = oneshot::channel::<()>();
        let (go, may_go) = oneshot::channel::<()>();
        let own = services.clone();
        let client = tokio::spawn(async move {
            let work = move |claimed| async move {
                begin.send(()).unwrap();
                may_go.await.unwrap();
                done(claimed)
            };
            own.once(idempotency("h"), vec!["a".to_owned()], LEASE, work).await
        });
        has_begun.await.unwrap();
        client.abort();
        assert!(client.await.unwrap_err().is_cancelled());
        let during = request(&services, "b", |_| Err(Failure::Work)).await;
        assert_eq!(during, Err(Failure::Key(TakenKey::InFlight)));
        go.send(()).unwrap();
        let is_done = async || request(&services, "b", |_| Err(Failure::Work)).await == under("a");
        eventually("a repeated request gets the answer", Duration::from_secs(20), is_done).await;
    }
}
