//! Accounts, bounds, money and prices.

use super::*;
use crate::domain::conversation::Usage;

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

#[test]
fn money_is_read_and_shown_exactly() {
    for (text, nanos, shown) in [
        ("5", 5_000_000_000, "5.00"),
        ("0.25", 250_000_000, "0.25"),
        ("0.000000001", 1, "0.000000001"),
        ("12.3456", 12_345_600_000, "12.3456"),
        ("0", 0, "0.00"),
    ] {
        assert_eq!(money(text), Money(nanos));
        assert_eq!(money(text).to_string(), shown);
    }
    for wrong in [
        "",
        ".",
        "5.",
        ".5",
        "-1",
        "1e3",
        "0.0000000001",
        "19000000000",
        "1 2",
        "1.2.3",
    ] {
        let parsed: Result<Money, _> = wrong.parse();
        assert_eq!(parsed, Err(NotMoney(wrong.to_owned())));
    }
}

#[test]
fn prices_are_those_of_the_first_rule_for_a_model() {
    let rules: Vec<PriceRule> = ["openai:small=1/0.1/1/2", "openai:*=3/0.3/3.75/15"]
        .iter()
        .map(|rule| rule.parse().unwrap())
        .collect();
    let prices = |name: &str| PriceRule::find(&rules, &name.parse().unwrap());
    assert_eq!(prices("openai:small").unwrap().output, money("2"));
    assert_eq!(prices("openai:smaller").unwrap().written, money("3.75"));
    assert_eq!(prices("anthropic:small"), None);
    assert_eq!(rules[1].to_string(), "openai:*=3.00/0.30/3.75/15.00");
    for wrong in [
        "openai:x",
        "x=1/1/1/1",
        "openai:a*b=1/1/1/1",
        "openai:x=1/1/1",
        "openai:x=1/1/1/-1",
    ] {
        assert_eq!(wrong.parse::<PriceRule>(), Err(NotAPrice), "{wrong}");
    }
}

#[test]
fn a_call_costs_at_most_what_is_reserved_for_it() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        let price = |random: &mut fastrand::Rng| Money(random.u64(0..100_000_000_000));
        let prices = Prices {
            input: price(&mut random),
            cached: price(&mut random),
            written: price(&mut random),
            output: price(&mut random),
        };
        let bound = Bound {
            input: random.u64(0..1_000_000),
            output: random.u64(0..100_000),
        };
        let input_uncached = random.u64(0..=bound.input);
        let input_cached = random.u64(0..=bound.input - input_uncached);
        let cache_written = bound.input - input_uncached - input_cached;
        let usage = Usage {
            input_uncached,
            input_cached,
            cache_written,
            output: random.u64(0..=bound.output),
            reasoning: 0,
        };
        let cost = prices.cost(&usage);
        assert!(
            cost <= bound.amounts(Some(&prices)).money,
            "{prices:?} {usage:?}"
        );
    }
}

#[test]
fn a_bound_counts_bytes_only_since_the_provider_counted() {
    let all = Measured {
        bytes: 10_000,
        messages: 2,
        counted: None,
    };
    let first = Bound::of(all, 500);
    assert_eq!(first.input, PROVIDER_TOKENS + 10_000 + 2 * MESSAGE_TOKENS);
    assert_eq!(first.output, 500);
    let later = Measured {
        bytes: 12_000,
        messages: 5,
        counted: Some(Counted {
            tokens: 3_000,
            bytes: 11_500,
            messages: 4,
        }),
    };
    assert_eq!(Bound::of(later, 500).input, 3_000 + 500 + MESSAGE_TOKENS);
}

#[test]
fn an_account_has_room_up_to_its_limit_and_not_beyond() {
    let tokens = |tokens| Amounts {
        tokens,
        ..Amounts::default()
    };
    let mut account = Account {
        limits: Limits {
            tokens: Some(100),
            ..Limits::default()
        },
        ..Account::default()
    };
    account.has_room(tokens(100)).unwrap();
    account.reserve(tokens(60));
    assert_eq!(
        account.has_room(tokens(41)),
        Err(Exhausted {
            quantity: Quantity::Tokens,
            used: 60,
            wanted: 41,
            limit: 100
        })
    );
    account.settle(tokens(60), tokens(10));
    account.has_room(tokens(90)).unwrap();
    assert_eq!(account.beyond(10).count(), 1);
    assert_eq!(account.beyond(11).count(), 0);
    // What has no limit never runs out.
    let steps = Amounts {
        steps: u64::MAX,
        ..Amounts::default()
    };
    account.has_room(steps).unwrap();
}

#[test]
fn a_day_begins_at_midnight_utc() {
    let day = 24 * 60 * 60 * 1000;
    assert_eq!(Day::of(0), Day(0));
    assert_eq!(Day::of(day - 1), Day(0));
    assert_eq!(Day::of(day), Day(1));
    assert_eq!(Day::of(-1), Day(-1));
}
