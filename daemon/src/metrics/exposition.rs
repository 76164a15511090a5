//! A strict reader of the text format of Prometheus, version 0.0.4, for tests:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>. What a lax
//! reader would let pass is an error here, and so are names without base units
//! and counters without `_total`.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a sample.
pub type Labels = BTreeMap<String, String>;

/// A metric with everything that is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram`.
    pub kind: String,
    /// What it is.
    pub help: String,
    /// Name, labels and value of each sample, in their order.
    pub samples: Vec<(String, Labels, f64)>,
}

/// The value of a sample that has these labels and no others.
#[must_use]
pub fn value(
    families: &BTreeMap<String, Family>,
    name: &str,
    labels: &[(&str, &str)],
) -> Option<f64> {
    let wanted: Labels = labels
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut samples = families.values().flat_map(|family| &family.samples);
    let found = samples.find(|(own, labels, _)| own == name && *labels == wanted);
    found.map(|(_, _, value)| *value)
}

/// Reads a whole text.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let at = |why: String| format!("line {}: {why}: {line}", number + 1);
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            check_name(name).map_err(at)?;
            let family = Family {
                kind: String::new(),
                help: unescape(help, false).map_err(at)?,
                samples: Vec::new(),
            };
            if families.insert(name.to_owned(), family).is_some() {
                return Err(at("a second HELP".to_owned()));
            }
            current = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest
                .split_once(' ')
                .ok_or_else(|| at("no type".to_owned()))?;
            let family = families.get_mut(name);
            let family = family.filter(|_| current.as_deref() == Some(name));
            let family = family.ok_or_else(|| at("TYPE without its HELP".to_owned()))?;
            if !family.kind.is_empty() || !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(at("a wrong or second TYPE".to_owned()));
            }
            kind.clone_into(&mut family.kind);
        } else {
            let (name, labels, value) = sample(line).map_err(at)?;
            let owner = current
                .clone()
                .ok_or_else(|| at("no HELP before".to_owned()))?;
            let family = families.get_mut(&owner).expect("it was inserted");
            if !belongs(&name, &owner, &family.kind) {
                return Err(at(format!("a sample of another metric than {owner}")));
            }
            let same = |(own, of, _): &(String, Labels, f64)| *own == name && *of == labels;
            if family.samples.iter().any(same) {
                return Err(at("a second time".to_owned()));
            }
            family.samples.push((name, labels, value));
        }
    }
    for (name, family) in &families {
        check_family(name, family).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(families)
}

fn belongs(sample: &str, family: &str, kind: &str) -> bool {
    matches!(
        (sample.strip_prefix(family), kind),
        (Some("_bucket" | "_sum" | "_count"), "histogram") | (Some(""), "counter" | "gauge")
    )
}

fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let first = bytes.next().ok_or("no name")?;
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b':';
    match letter(first) && bytes.all(|b| letter(b) || b.is_ascii_digit()) {
        true => Ok(()),
        false => Err(format!("`{name}` is no name")),
    }
}

fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    check_name(name)?;
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            check_name(label)?;
            let close = closing_quote(after).ok_or("a value without its end")?;
            let value = unescape(&after[..close], true)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label {label} twice"));
            }
            rest = &after[close + 1..];
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().map_err(|_| "no number".to_owned())?,
    };
    Ok((name.to_owned(), labels, value))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quoted => '"',
                other => return Err(format!("an escape of {other:?}")),
            },
            '"' if quoted => return Err("a quote that is not escaped".to_owned()),
            other => other,
        });
    }
    Ok(plain)
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    if family.kind.is_empty() || family.help.is_empty() {
        return Err("no TYPE, or an empty HELP".to_owned());
    }
    if (family.kind == "counter") != name.ends_with("_total") {
        return Err("counters end in _total and nothing else does".to_owned());
    }
    for unit in [
        "_ms", "_millis", "_us", "_micros", "_minutes", "_kb", "_mb", "_percent",
    ] {
        if name.trim_end_matches("_total").ends_with(unit) {
            return Err("seconds, bytes and ratios are the units".to_owned());
        }
    }
    match family.kind.as_str() {
        "histogram" => check_histogram(name, family),
        "counter" if family.samples.iter().any(|(_, _, value)| *value < 0.) => {
            Err("a negative counter".to_owned())
        }
        _ => Ok(()),
    }
}

fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let without_bound = |labels: &Labels| {
        let mut labels = labels.clone();
        labels.remove("le");
        labels
    };
    let series: BTreeSet<Labels> = (family.samples.iter())
        .map(|(_, labels, _)| without_bound(labels))
        .collect();
    for of in series {
        let (mut last_bound, mut last_count) = (f64::NEG_INFINITY, 0.);
        let (mut sum, mut count) = (None, None);
        for (own, labels, value) in &family.samples {
            if without_bound(labels) != of {
                continue;
            }
            match own.strip_prefix(name) {
                Some("_bucket") => {
                    let bound = labels.get("le").ok_or("a bucket without a bound")?;
                    let bound = match bound.as_str() {
                        "+Inf" => f64::INFINITY,
                        number => number.parse().map_err(|_| "a bound that is no number")?,
                    };
                    if bound <= last_bound || *value < last_count {
                        return Err(format!("buckets that do not rise: {of:?}"));
                    }
                    (last_bound, last_count) = (bound, *value);
                }
                Some("_sum") => sum = Some(*value),
                _ => count = Some(*value),
            }
        }
        if last_bound != f64::INFINITY || sum.is_none() || count != Some(last_count) {
            return Err(format!("no +Inf, no sum, or another count: {of:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_text_is_read() {
        let text = "# HELP a_total What\\\\ it\\nis\n# TYPE a_total counter\n\
            a_total{b=\"x\\\"y\\\\\",c=\"\"} 3\na_total 1e3\n\
            # HELP h_seconds H\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{le=\"0.5\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
            h_seconds_sum 7\nh_seconds_count 2\n";
        let families = parse(text).unwrap();
        assert_eq!(families["a_total"].help, "What\\ it\nis");
        let labels = [("b", "x\"y\\"), ("c", "")];
        assert_eq!(value(&families, "a_total", &labels), Some(3.));
        assert_eq!(value(&families, "a_total", &[]), Some(1000.));
        assert_eq!(value(&families, "a_total", &[("b", "z")]), None);
    }

    #[test]
    fn what_a_lax_reader_would_let_pass_is_an_error() {
        let counter = "# HELP a_total A\n# TYPE a_total counter\n";
        let histogram = "# HELP h H\n# TYPE h histogram\n";
        for wrong in [
            "a_total 1\n".to_owned(),
            format!("{counter}a_total 1"),
            format!("{counter}b_total 1\n"),
            format!("{counter}a_total one\n"),
            format!("{counter}a_total -1\n"),
            format!("{counter}a_total 1\na_total 2\n"),
            format!("{counter}a_total{{b=\"c}} 1\n"),
            format!("{counter}a_total{{b=\"\\t\"}} 1\n"),
            format!("{counter}a_total{{b=\"c\" d=\"e\"}} 1\n"),
            format!("{counter}a_total{{b=\"c\",b=\"c\"}} 1\n"),
            format!("{counter}{counter}a_total 1\n"),
            "# TYPE a_total counter\na_total 1\n".to_owned(),
            "# HELP a A\n# TYPE a counter\na 1\n".to_owned(),
            "# HELP a_total A\n# TYPE a_total gauge\na_total 1\n".to_owned(),
            "# HELP a_ms A\n# TYPE a_ms gauge\na_ms 1\n".to_owned(),
            format!("{histogram}h 1\n"),
            format!("{histogram}h_bucket{{le=\"1\"}} 1\nh_sum 1\nh_count 1\n"),
            format!("{histogram}h_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 2\n"),
            format!("{histogram}h_bucket{{le=\"+Inf\"}} 1\nh_count 1\n"),
            format!(
                "{histogram}h_bucket{{le=\"1\"}} 2\nh_bucket{{le=\"+Inf\"}} 1\nh_sum 1\nh_count 1\n"
            ),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
    }
}
