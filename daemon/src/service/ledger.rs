//! The accounts of sessions and of days: what calls under way may still cost is
//! set aside here, under one lock, so that calls made together cannot pass a
//! limit together. So is the time in which sessions run: since when each does, as
//! its log knows the time of a step only after it.
//!
//! The record is in the sessions' logs; this is what they come to, and is made
//! from them again at each start.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{
    budget::{Account, Amounts, Day, Exhausted, Limits, Scope},
    ids::SessionId,
};

/// Accounts. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    of_a_day: Limits,
    /// Held for look-ups and sums, never over an await.
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    sessions: HashMap<SessionId, Account>,
    days: BTreeMap<Day, Account>,
    /// Since when each session runs whose time passes: what was before that is on
    /// its account.
    running: HashMap<SessionId, Instant>,
}

/// A session whose time may pass. Dropped, it does not any more.
#[derive(Debug)]
#[must_use = "dropped, the session's time stands still"]
pub struct TimeKept {
    ledger: Ledger,
    session: SessionId,
}

/// What is set aside for one call. Dropped, it counts as spent: nobody knows
/// what the call cost.
#[derive(Debug)]
#[must_use = "dropped, it counts as spent"]
pub struct Reservation {
    ledger: Ledger,
    session: SessionId,
    day: Day,
    amounts: Amounts,
    is_settled: bool,
}

impl Ledger {
    /// Without anything spent; `of_a_day` is what all sessions may spend on a
    /// day together.
    #[must_use]
    pub fn new(of_a_day: Limits) -> Self {
        Self {
            inner: Arc::new(Inner {
                of_a_day,
                accounts: Mutex::default(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        let accounts = &self.inner.accounts;
        accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether days have a limit on what model calls cost.
    #[must_use]
    pub fn limits_days(&self) -> bool {
        self.inner.of_a_day.tokens.is_some() || self.inner.of_a_day.money.is_some()
    }

    /// What is left of the time of all sessions on a day, which is today; `None`
    /// where it has no limit.
    #[must_use]
    pub fn time_left(&self, day: Day) -> Option<Duration> {
        let (left, _) = self.time_left_for(day)?;
        Some(left)
    }

    /// How soon a day's time is used up when all sessions that run go on; `None`
    /// where it has no limit.
    #[must_use]
    pub fn time_is_up_in(&self, day: Day) -> Option<Duration> {
        let (left, running) = self.time_left_for(day)?;
        Some(left / running.max(1))
    }

    /// What is left of a day's time, and how many sessions use it.
    fn time_left_for(&self, day: Day) -> Option<(Duration, u32)> {
        let limit_ms = self.inner.of_a_day.time_ms?;
        let mut accounts = self.lock();
        let used_ms = accounts.day(day, self.inner.of_a_day).used().time_ms;
        let left = Duration::from_millis(limit_ms.saturating_sub(used_ms));
        let running = u32::try_from(accounts.running.len()).unwrap_or(u32::MAX);
        Some((left.saturating_sub(accounts.running_time()), running))
    }

    /// Opens the account of a session, with what it has spent. The account of
    /// one that is open already is left as it is.
    pub fn open(&self, session: &SessionId, limits: Limits, spent: &BTreeMap<Day, Amounts>) {
        let mut accounts = self.lock();
        if accounts.sessions.contains_key(session) {
            return;
        }
        let in_all = (spent.values()).fold(Amounts::default(), |sum, day| sum.plus(*day));
        let account = Account {
            limits,
            spent: in_all,
            reserved: Amounts::default(),
        };
        accounts.sessions.insert(session.clone(), account);
        for (day, spent) in spent {
            let of_day = accounts.day(*day, self.inner.of_a_day);
            of_day.settle(Amounts::default(), *spent);
        }
    }

    /// Sets so much aside, where the session's account and the day's have room.
    ///
    /// # Errors
    /// The first account without, and of what.
    pub fn reserve(
        &self,
        session: &SessionId,
        day: Day,
        amounts: Amounts,
    ) -> Result<Reservation, (Scope, Exhausted)> {
        let mut accounts = self.lock();
        for (scope, account) in accounts.of(session, day, self.inner.of_a_day) {
            account.has_room(amounts).map_err(|none| (scope, none))?;
        }
        Ok(self.set_aside(&mut accounts, session, day, amounts))
    }

    /// Sets aside what an earlier life had set aside, whether there is room or
    /// not: it may be spent already.
    pub fn set_aside_again(&self, session: &SessionId, day: Day, amounts: Amounts) -> Reservation {
        self.set_aside(&mut self.lock(), session, day, amounts)
    }

    fn set_aside(
        &self,
        accounts: &mut Accounts,
        session: &SessionId,
        day: Day,
        amounts: Amounts,
    ) -> Reservation {
        accounts.change(session, day, self.inner.of_a_day, |account| {
            account.reserve(amounts);
        });
        Reservation {
            ledger: self.clone(),
            session: session.clone(),
            day,
            amounts,
            is_settled: false,
        }
    }

    /// The accounts that a call of a session would be put on.
    #[must_use]
    pub fn accounts(&self, session: &SessionId, day: Day) -> [(Scope, Account); 2] {
        self.lock().of(session, day, self.inner.of_a_day)
    }

    /// Keeps the time of a session, which runs since then, or stands still.
    pub fn keep_time(&self, session: &SessionId, since: Option<Instant>) -> TimeKept {
        self.lock().runs(session, since);
        TimeKept {
            ledger: self.clone(),
            session: session.clone(),
        }
    }

    /// Time has passed in which a session ran; where it goes on, since then.
    pub fn passed(&self, session: &SessionId, day: Day, time_ms: u64, since: Option<Instant>) {
        let time = Amounts {
            time_ms,
            ..Amounts::default()
        };
        let of_a_day = self.inner.of_a_day;
        let mut accounts = self.lock();
        accounts.change(session, day, of_a_day, |account| {
            account.settle(Amounts::default(), time);
        });
        accounts.runs(session, since);
    }
}

impl Accounts {
    fn day(&mut self, day: Day, limits: Limits) -> &mut Account {
        self.days.entry(day).or_insert(Account {
            limits,
            ..Account::default()
        })
    }

    fn of(&mut self, session: &SessionId, day: Day, limits: Limits) -> [(Scope, Account); 2] {
        let own = self.sessions.get(session).copied().unwrap_or_default();
        let mut of_day = *self.day(day, limits);
        // What steps under way have taken of it is on no account yet.
        let running_ms = self.running_time().as_millis();
        let running_ms = u64::try_from(running_ms).unwrap_or(u64::MAX);
        of_day.spent.time_ms = of_day.spent.time_ms.saturating_add(running_ms);
        [(Scope::Session, own), (Scope::Day(day), of_day)]
    }

    /// How long the sessions that run do so, together, beyond what is on their
    /// accounts.
    fn running_time(&self) -> Duration {
        self.running.values().map(Instant::elapsed).sum()
    }

    fn runs(&mut self, session: &SessionId, since: Option<Instant>) {
        match since {
            Some(since) => self.running.insert(session.clone(), since),
            None => self.running.remove(session),
        };
    }

    fn change(
        &mut self,
        session: &SessionId,
        day: Day,
        limits: Limits,
        change: impl Fn(&mut Account),
    ) {
        change(self.sessions.entry(session.clone()).or_default());
        change(self.day(day, limits));
    }
}

impl Reservation {
    /// What is set aside.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }

    /// The day it is put on.
    #[must_use]
    pub fn day(&self) -> Day {
        self.day
    }

    /// The call has ended and has cost this.
    pub fn settle(mut self, spent: Amounts) {
        self.end(spent);
    }

    fn end(&mut self, spent: Amounts) {
        self.is_settled = true;
        let of_a_day = self.ledger.inner.of_a_day;
        let mut accounts = self.ledger.lock();
        accounts.change(&self.session, self.day, of_a_day, |account| {
            account.settle(self.amounts, spent);
        });
    }
}

impl Drop for TimeKept {
    fn drop(&mut self) {
        self.ledger.lock().runs(&self.session, None);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.is_settled {
            self.end(self.amounts);
        }
    }
}

#[cfg(test)]
mod tests;
