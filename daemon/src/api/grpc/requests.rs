//! Mutating requests happen once.
//!
//! Every mutating request carries an id made by the client. A retry while the
//! first call runs joins it; a retry after it returns the first answer; the
//! same id with other parameters is a conflict. The work runs in a task of its
//! own, so that a client that goes away stops nothing halfway. An error is
//! shared by those who joined and then forgotten: a retry tries again.
//!
//! What makes something, or cannot be told from a mistake when it is done twice,
//! writes down that it begins and the id of what it makes. A retry after a kill
//! finds that and goes on under the same id. Methods that use
//! [`once_bound`](Requests::once_bound) write down with that what their request
//! means by a name, or by leaving something out: by the time of a retry the same
//! words may mean something else. All others go by the words at every retry, and so
//! do those where an older daemon began, which wrote down only that it did.
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
use uuid::Uuid;

use self::bound::{Bound, to_forget};
use super::status::{Retry, internal, invalid_id, refusal};
use crate::{
    domain::ids::RequestId,
    ports::{
        clock::ClockPort,
        store::{RequestOutcome, RequestRecord, StoreError, StorePort},
    },
};

mod bound;

/// How long an answer is remembered, as far as there is room.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// What all of them may take; one that ends goes beyond it until it is looked
/// at again.
const BOUND: Bound = Bound {
    count: 100_000,
    bytes: 64 << 20,
};
/// Requests and bytes of answers after which that is looked at.
const LOOK_AFTER: Bound = Bound {
    count: 1_000,
    bytes: 8 << 20,
};

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
    bound: Bound,
    /// What was remembered since the bound was looked at. Held for an exchange.
    since_look: Mutex<Bound>,
}

/// The encoded answer, once there is one.
type Outcome = watch::Receiver<Option<Result<Vec<u8>, Status>>>;

struct UnderWay {
    fingerprint: String,
    outcome: Outcome,
}

const NOTHING: Bound = Bound { count: 0, bytes: 0 };

/// Work that is written down before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Id of what it makes; the same for every retry. Sorts by time.
    pub id: Uuid,
    /// What the request was about when it began, in the words of its method; the
    /// same for every retry. Empty where nothing was written down of that: by
    /// [`once_begun`](Requests::once_begun), or by an older daemon.
    pub about: String,
    /// Whether it was begun before and cut off, by the end of a daemon or by an
    /// outage: it may be done, or half done.
    pub before: bool,
}

/// Whether a request is written down before its work begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    Written,
    None,
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
                bound: BOUND,
                since_look: Mutex::new(NOTHING),
            }),
        }
    }

    /// Forgets requests that nobody retries any more, and the oldest where there
    /// are too many; to be done from time to time, and done by itself when much
    /// was remembered.
    ///
    /// # Errors
    /// What the store fails with; it may be done again.
    pub async fn forget(&self) -> Result<(), StoreError> {
        self.inner.forget().await
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
        work: impl FnOnce() -> Work + Send + 'static,
    ) -> Result<Answer, Status>
    where
        Request: Message,
        Answer: Message + Default,
        Work: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        let work = move |_| work();
        self.run(method, request_id, request, Intent::None, nothing(), work)
            .await
    }

    /// As [`once`](Self::once), for work that makes something: it is told the
    /// id to make it under. A retry is told the same again after a kill, and after
    /// an error that says to try again.
    ///
    /// # Errors
    /// As for [`once`](Self::once), and `DISK_FULL`.
    pub async fn once_begun<Request, Answer, Work>(
        &self,
        method: &'static str,
        request_id: &str,
        request: &Request,
        work: impl FnOnce(Begun) -> Work + Send + 'static,
    ) -> Result<Answer, Status>
    where
        Request: Message,
        Answer: Message + Default,
        Work: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        self.run(
            method,
            request_id,
            request,
            Intent::Written,
            nothing(),
            work,
        )
        .await
    }

    /// As [`once_begun`](Self::once_begun), for work that is bound to what its
    /// request means when it begins: `about` finds that out, and runs again for
    /// no retry of what has begun. Where it fails nothing has begun. What an older
    /// daemon began is about nothing, and the work has to find out for itself.
    ///
    /// # Errors
    /// As for [`once_begun`](Self::once_begun), and whatever `about` fails with.
    pub async fn once_bound<Request, Answer, Work>(
        &self,
        method: &'static str,
        request_id: &str,
        request: &Request,
        about: impl Future<Output = Result<String, Status>> + Send + 'static,
        work: impl FnOnce(Begun) -> Work + Send + 'static,
    ) -> Result<Answer, Status>
    where
        Request: Message,
        Answer: Message + Default,
        Work: Future<Output = Result<Answer, Status>> + Send + 'static,
    {
        self.run(method, request_id, request, Intent::Written, about, work)
            .await
    }

    async fn run<Request, Answer, Work>(
        &self,
        method: &'static str,
        request_id: &str,
        request: &Request,
        intent: Intent,
        about: impl Future<Output = Result<String, Status>> + Send + 'static,
        work: impl FnOnce(Begun) -> Work + Send + 'static,
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
        let outcome = self.join_or_begin(&id, fingerprint, intent, about, work)?;
        decode(&wait(outcome).await?)
    }

    /// The outcome to wait for: of the call under way, or of a new one.
    fn join_or_begin<Answer, Work>(
        &self,
        id: &RequestId,
        fingerprint: String,
        intent: Intent,
        about: impl Future<Output = Result<String, Status>> + Send + 'static,
        work: impl FnOnce(Begun) -> Work + Send + 'static,
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

        let inner = self.inner.clone();
        let id = id.clone();
        self.inner.tasks.spawn(async move {
            let cleared = ClearWhenDone {
                inner: &inner,
                id: &id,
            };
            let settled = inner.settle(&id, fingerprint, intent, about, work);
            let result = settled.await;
            drop(cleared);
            let answer_bytes = result.as_ref().map_or(0, |answer| answer.len() as u64);
            let _ = tell.send(Some(result));
            if inner.much_is_remembered(answer_bytes)
                && let Err(error) = inner.forget().await
            {
                tracing::warn!(%error, "requests are forgotten later");
            }
        });
        Ok(outcome)
    }
}

impl Inner {
    /// Counts a request; says whether it is time to look at the bound.
    fn much_is_remembered(&self, answer_bytes: u64) -> bool {
        let mut since = (self.since_look.lock()).unwrap_or_else(PoisonError::into_inner);
        since.count += 1;
        since.bytes += answer_bytes;
        let much = since.count >= LOOK_AFTER.count || since.bytes >= LOOK_AFTER.bytes;
        if much {
            *since = NOTHING;
        }
        much
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let entries = self.store.requests().await?;
        // After the entries: one that is begun anew from here on is written
        // anew, and then left.
        let running = {
            let under_way = (self.under_way.lock()).unwrap_or_else(PoisonError::into_inner);
            under_way.keys().cloned().collect()
        };
        let remembered_ms = i64::try_from(REMEMBERED.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.clock.now_ms().saturating_sub(remembered_ms);
        let forgotten = to_forget(entries, &running, before_ms, self.bound);
        if forgotten.early > 0 {
            tracing::warn!(
                early = forgotten.early,
                most = self.bound.count,
                most_bytes = self.bound.bytes,
                "so many requests are remembered that the oldest are forgotten before their day \
                 is over: a retry of one of them is a new request"
            );
        }
        if forgotten.entries.is_empty() {
            return Ok(());
        }
        self.store.forget_requests(&forgotten.entries).await
    }

    /// The encoded answer: the one remembered, else that of the work.
    async fn settle<Answer, Work>(
        &self,
        id: &RequestId,
        fingerprint: String,
        intent: Intent,
        about: impl Future<Output = Result<String, Status>>,
        work: impl FnOnce(Begun) -> Work,
    ) -> Result<Vec<u8>, Status>
    where
        Answer: Message,
        Work: Future<Output = Result<Answer, Status>>,
    {
        let remembered = self.store.request(id).await;
        let mut begun = None;
        if let Some(record) = remembered.map_err(|error| internal(&error))? {
            check(id, &record.fingerprint, &fingerprint)?;
            match record.outcome {
                RequestOutcome::Answered(answer) => return Ok(answer),
                RequestOutcome::Begun { id, about } => {
                    let before = true;
                    begun = Some(Begun { id, about, before });
                }
                RequestOutcome::Failed => {}
            }
        }
        let remember = async |outcome| {
            let record = RequestRecord {
                fingerprint: fingerprint.clone(),
                outcome,
                at_ms: self.clock.now_ms(),
            };
            self.store.put_request(id, &record).await
        };
        let begun = match (begun, intent) {
            (Some(begun), _) => begun,
            (None, intent) => {
                let (id, about) = (Uuid::now_v7(), about.await?);
                if intent == Intent::Written {
                    let about = about.clone();
                    let written = remember(RequestOutcome::Begun { id, about }).await;
                    written.map_err(|error| not_written(&error))?;
                }
                let before = false;
                Begun { id, about, before }
            }
        };
        let before = begun.before;
        let done = work(begun).await.map(|answer| answer.encode_to_vec());
        let outcome = match (&done, intent) {
            (Ok(answer), _) => RequestOutcome::Answered(answer.clone()),
            (Err(_), Intent::None) => return done,
            // What came of it before is known only to who finds it under its id.
            (Err(error), Intent::Written) if before || error.code() == Code::Unavailable => {
                return done;
            }
            (Err(_), Intent::Written) => RequestOutcome::Failed,
        };
        if let Err(error) = remember(outcome).await {
            // The work is done and says so; a later retry goes on where it
            // began, or finds with the service that it is already so.
            tracing::warn!(request_id = %id, %error, "outcome is not remembered");
        }
        done
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

/// Of work that is bound to nothing but its parameters.
async fn nothing() -> Result<String, Status> {
    Ok(String::new())
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

fn not_written(error: &StoreError) -> Status {
    match error {
        StoreError::DiskFull(_) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            error.to_string(),
            "free some space and try again",
            Retry::After(Duration::from_secs(5)),
        ),
        StoreError::NameTaken(_)
        | StoreError::Missing(_)
        | StoreError::WrongSequence { .. }
        | StoreError::NewerFormat { .. }
        | StoreError::Damaged(_)
        | StoreError::Failed { .. } => internal(error),
    }
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
