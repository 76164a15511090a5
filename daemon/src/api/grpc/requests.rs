//! Mutating requests happen once.
//!
//! Every mutating request carries an id made by the client. A retry while the
//! first call runs joins it; a retry after it returns the first answer; the
//! same id with other parameters is a conflict. The work runs in a task of its
//! own, so that a client that goes away stops nothing halfway. An error is
//! shared by those who joined and then forgotten: a retry tries again.
//!
//! A request leaves the list of those under way only after its answer is in
//! the store, and a call enters that list before it looks into the store. So
//! whoever finds no call under way finds the answer, and nothing is done twice.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use super::status::{Retry, internal, invalid_id, refusal};
use crate::{
    domain::ids::RequestId,
    ports::{
        clock::ClockPort,
        store::{RequestRecord, StorePort},
    },
};

/// How long an answer is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// The requests under way and those remembered.
#[derive(Clone)]
pub struct Requests {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn StorePort>,
    clock: Arc<dyn ClockPort>,
    tasks: TaskTracker,
    /// Requests under way, by id. The lock is held for a look-up or an insert
    /// and never over an await.
    under_way: Mutex<HashMap<RequestId, UnderWay>>,
}

/// The encoded answer, once there is one.
type Outcome = watch::Receiver<Option<Result<Vec<u8>, Status>>>;

struct UnderWay {
    fingerprint: String,
    outcome: Outcome,
}

impl Requests {
    /// Requests remembered in `store`; their work is spawned on `tasks`, which
    /// the owner waits for at shutdown.
    #[must_use]
    pub fn new(store: Arc<dyn StorePort>, clock: Arc<dyn ClockPort>, tasks: TaskTracker) -> Self {
        let under_way = Mutex::new(HashMap::new());
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                tasks,
                under_way,
            }),
        }
    }

    /// Runs `work` unless the request has been or is being done, and answers
    /// with the one outcome there is.
    ///
    /// # Errors
    /// `REQUEST_ID_INVALID`, `REQUEST_CONFLICT`, and whatever `work` fails with.
    pub async fn once<Request, Answer, Work>(
        &self,
        method: &'static str,
        request_id: &str,
        request: &Request,
        work: impl FnOnce() -> Work,
    ) -> Result<Answer, Status>
    where
        Request: Message,
        Answer: Message + Default,
        Work: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let id: RequestId = request_id
            .parse()
            .map_err(|error| invalid_id("REQUEST_ID_INVALID", &error))?;
        let fingerprint = fingerprint(method, request);
        let outcome = self.join_or_begin(&id, fingerprint, work)?;
        decode(&wait(outcome).await?)
    }

    /// The outcome to wait for: of the call under way, or of a new one.
    fn join_or_begin<Answer, Work>(
        &self,
        id: &RequestId,
        fingerprint: String,
        work: impl FnOnce() -> Work,
    ) -> Result<Outcome, Status>
    where
        Answer: Message,
        Work: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let mut under_way = self
            .inner
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = under_way.get(id) {
            check(id, &first.fingerprint, &fingerprint)?;
            return Ok(first.outcome.clone());
        }
        let (tell, outcome) = watch::channel(None);
        let entry = UnderWay {
            fingerprint: fingerprint.clone(),
            outcome: outcome.clone(),
        };
        under_way.insert(id.clone(), entry);
        drop(under_way);

        // Nothing runs before it is polled, and that may be never.
        let work = work();
        let inner = self.inner.clone();
        let id = id.clone();
        self.inner.tasks.spawn(async move {
            let cleared = ClearWhenDone {
                inner: &inner,
                id: &id,
            };
            let result = inner.settle(&id, fingerprint, work).await;
            drop(cleared);
            let _ = tell.send(Some(result));
        });
        Ok(outcome)
    }
}

impl Inner {
    /// The encoded answer: the one remembered, else that of the work.
    async fn settle<Answer>(
        &self,
        id: &RequestId,
        fingerprint: String,
        work: impl Future<Output = Result<Answer, Status>>,
    ) -> Result<Vec<u8>, Status>
    where
        Answer: Message,
    {
        let remembered = self.store.request(id).await;
        if let Some(record) = remembered.map_err(|error| internal(&error))? {
            check(id, &record.fingerprint, &fingerprint)?;
            return Ok(record.answer);
        }
        let answer = work.await?.encode_to_vec();
        let record = RequestRecord {
            fingerprint,
            answer: answer.clone(),
            at_ms: self.clock.now_ms(),
        };
        if let Err(error) = self.store.put_request(id, &record).await {
            // The work is done and says so; only a later retry would do it
            // again, and services answer that with "already so".
            tracing::warn!(request_id = %id, %error, "answer is not remembered");
        }
        Ok(answer)
    }
}

/// Takes a request off the list of those under way, also when its work panics.
struct ClearWhenDone<'a> {
    inner: &'a Inner,
    id: &'a RequestId,
}

impl Drop for ClearWhenDone<'_> {
    fn drop(&mut self) {
        self.inner
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.id);
    }
}

/// What identifies a request's parameters; its id is among them.
fn fingerprint(method: &str, request: &impl Message) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(method.as_bytes());
    hasher.update(&[0]);
    hasher.update(&request.encode_to_vec());
    hasher.finalize().to_hex().to_string()
}

fn check(id: &RequestId, first: &str, now: &str) -> Result<(), Status> {
    if first == now {
        return Ok(());
    }
    Err(refusal(
        Code::AlreadyExists,
        "REQUEST_CONFLICT",
        format!("request {id} was made before with other parameters"),
        "make a new request id for every new request",
        Retry::No,
    ))
}

async fn wait(mut outcome: Outcome) -> Result<Vec<u8>, Status> {
    let told = outcome
        .wait_for(Option::is_some)
        .await
        .map(|value| value.clone());
    match told {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Err(internal(&"a request's task ended without an outcome")),
    }
}

fn decode<Answer: Message + Default>(bytes: &[u8]) -> Result<Answer, Status> {
    Answer::decode(bytes).map_err(|error| internal(&error))
}

#[cfg(test)]
mod tests;
