//! What a session has spent, folded from its log, and whether it may ask the
//! model again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    decide::leaving,
    event::{Condition, EventBody},
    state::SessionState,
};
use crate::domain::{
    budget::{Account, Amounts, Day, Exhausted, Limits, Money, Prices, Quantity, Scope},
    conversation::Usage,
    stage::Stage,
};

/// What a session has spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending {
    /// For good. Its steps and its time are those of the session.
    pub spent: Amounts,
    /// For the call under way.
    pub reserved: Option<Reserved>,
    /// Of it, what was spent on each day.
    pub by_day: BTreeMap<Day, Amounts>,
    /// What people were told.
    pub noted: BTreeSet<(Scope, Quantity, Mark)>,
}

/// What is set aside for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// How much.
    pub amounts: Amounts,
    /// On which day: it is settled there.
    pub day: Day,
    /// Whether a limit on tokens or money is to be held: a provider that spends
    /// more than was reserved is stopped then.
    pub limited: bool,
}

/// Why people are told of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Most of it is used.
    Warning,
    /// So much is used that a person has to look.
    Pause,
    /// The provider spent more than it was asked for.
    Overrun,
}

impl Spending {
    pub(super) fn reserve(&mut self, reserved: Reserved) {
        self.reserved = Some(reserved);
    }

    /// A call has ended. What it cost is what the provider said; else what was
    /// reserved.
    pub(super) fn settle(&mut self, at: Day, usage: Option<&Usage>, prices: Option<&Prices>) {
        let reserved = self.reserved.take();
        let day = reserved.map_or(at, |reserved| reserved.day);
        let spent = match usage {
            Some(usage) => cost(usage, prices),
            None => reserved.map_or(one_step(), |reserved| reserved.amounts),
        };
        self.add(day, spent);
    }

    /// A call has ended that cost nothing.
    pub(super) fn settle_free(&mut self, at: Day) {
        let reserved = self.reserved.take();
        self.add(reserved.map_or(at, |reserved| reserved.day), one_step());
    }

    pub(super) fn passed(&mut self, day: Day, time_ms: u64) {
        let time = Amounts {
            time_ms,
            ..Amounts::default()
        };
        self.add(day, time);
    }

    fn add(&mut self, day: Day, spent: Amounts) {
        if spent == Amounts::default() {
            return;
        }
        self.spent = self.spent.plus(spent);
        let of_day = self.by_day.entry(day).or_default();
        *of_day = of_day.plus(spent);
    }
}

fn one_step() -> Amounts {
    Amounts {
        steps: 1,
        ..Amounts::default()
    }
}

/// What a call cost.
fn cost(usage: &Usage, prices: Option<&Prices>) -> Amounts {
    Amounts {
        tokens: usage.total(),
        money: prices.map_or(Money::default(), |prices| prices.cost(usage)),
        ..one_step()
    }
}

/// What a session may spend in all.
#[must_use]
pub fn limits(state: &SessionState) -> Limits {
    let options = &state.created.options;
    Limits {
        tokens: options.budget.tokens,
        money: options.budget.money,
        steps: Some(u64::from(options.limits.max_steps)),
        time_ms: Some(options.limits.max_time_ms),
    }
}

/// What comes of the marks that the accounts have reached before a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Reached {
    /// The call may be made; these are told before it.
    Notes(Vec<EventBody>),
    /// A person has to look first: these instead of the call.
    Pause(Vec<EventBody>),
}

/// Tells people of marks that they were not told of yet.
#[must_use]
pub fn reached(state: &SessionState, accounts: &[(Scope, Account)]) -> Reached {
    let marks = state.created.options.budget.marks;
    let fresh = |percent: u8, mark: Mark| -> Vec<EventBody> {
        let mut notes = Vec::new();
        for (scope, account) in accounts {
            for (quantity, used, limit) in account.beyond(percent) {
                if !state.spending.noted.contains(&(*scope, quantity, mark)) {
                    notes.push(EventBody::BudgetNoted {
                        scope: *scope,
                        quantity,
                        mark,
                        used,
                        limit,
                    });
                }
            }
        }
        notes
    };
    if let Some(percent) = marks.pause_percent {
        let mut events = fresh(percent, Mark::Pause);
        if let Some(EventBody::BudgetNoted {
            scope,
            quantity,
            used,
            limit,
            ..
        }) = events.first()
        {
            let of = of_what(*scope, *quantity);
            let (used, limit) = (quantity.show(*used), quantity.show(*limit));
            let reason = format!("{used} of {limit}, {of}, are used; resume to go on to the limit");
            let to = Condition::Paused;
            events.push(EventBody::StateChanged { to, reason });
            return Reached::Pause(events);
        }
    }
    Reached::Notes(fresh(marks.warn_percent, Mark::Warning))
}

/// What comes instead of a call for which there is no room: a session's own
/// limit ends it, that of a day lets it wait.
#[must_use]
pub fn refused(state: &SessionState, scope: Scope, exhausted: Exhausted) -> Vec<EventBody> {
    let Exhausted {
        quantity,
        used,
        wanted,
        limit,
    } = exhausted;
    let of = of_what(scope, quantity);
    let [used, wanted, limit] = [used, wanted, limit].map(|amount| quantity.show(amount));
    let why = format!("{used} of {limit}, {of}, are used, and the next call may take {wanted}");
    match scope {
        Scope::Session => leaving(state, Stage::Failed, &why).into(),
        Scope::Day(_) => {
            vec![until_tomorrow(&why)]
        }
    }
}

/// What follows when the time of a day is used up in the middle of a step.
#[must_use]
pub fn day_is_over() -> EventBody {
    until_tomorrow("the time that sessions have on a day is used up")
}

fn until_tomorrow(why: &str) -> EventBody {
    let reason = format!("{why}; resume after midnight UTC, or with a larger budget.day");
    let to = Condition::Paused;
    EventBody::StateChanged { to, reason }
}

/// What follows a reply that took more than was reserved for it; nothing where
/// it did not.
#[must_use]
pub(super) fn overrun(state: &SessionState, usage: Option<&Usage>) -> Vec<EventBody> {
    let (Some(usage), Some(reserved)) = (usage, state.spending.reserved) else {
        return Vec::new();
    };
    let cost = cost(usage, state.created.options.prices.as_ref());
    let over = |quantity: Quantity| {
        let (used, limit) = (cost.of(quantity), reserved.amounts.of(quantity));
        (used > limit).then_some((quantity, used, limit))
    };
    let Some((quantity, used, limit)) = over(Quantity::Tokens).or_else(|| over(Quantity::Money))
    else {
        return Vec::new();
    };
    let mut events = vec![EventBody::BudgetNoted {
        scope: Scope::Session,
        quantity,
        mark: Mark::Overrun,
        used,
        limit,
    }];
    if reserved.limited {
        let (used, limit) = (quantity.show(used), quantity.show(limit));
        let why = format!(
            "the provider took {used} for a call that was bounded to {limit}: it does not keep to the cap, so no budget can be held with it"
        );
        events.extend(leaving(state, Stage::Failed, &why));
    }
    events
}

/// "the session's budget", for people.
pub(super) fn of_what(scope: Scope, quantity: Quantity) -> String {
    let whose = match scope {
        Scope::Session => "the session",
        Scope::Day(_) => "the day",
    };
    let what = match quantity {
        Quantity::Tokens | Quantity::Steps => "budget",
        Quantity::Money => "budget of money",
        Quantity::Time => "time",
    };
    format!("{whose}'s {what}")
}
