//! Values as people write them on the command line. Pure: text in, value or a
//! sentence that says how to write it out.

use std::time::Duration;

use compyd_proto::v1::EnvironmentVariable;

/// Reads `1.5` as 1,500 thousandths of a CPU.
pub(crate) fn cpu_millis(text: &str) -> Result<u32, String> {
    let expected = "write a number of CPUs between 0.01 and 1024, such as 2 or 0.5";
    let cpus: f64 = text.parse().map_err(|_| expected.to_owned())?;
    if !(0.01..=1024.0).contains(&cpus) {
        return Err(expected.to_owned());
    }
    // In range, so neither truncation nor a sign can occur.
    Ok((cpus * 1000.0).round() as u32)
}

/// Reads `512M`, `2g`, `1.5GiB` or plain bytes; units are powers of 1,024.
pub(crate) fn memory_bytes(text: &str) -> Result<u64, String> {
    let expected = "write a size such as 512M, 2G or 1073741824; at least 32M";
    let bytes = size(text).ok_or(expected)?;
    if bytes < 32 << 20 {
        return Err(expected.to_owned());
    }
    Ok(bytes)
}

/// Bytes, with a binary unit where one is given.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(number) = digits.parse::<u64>() {
        return number.checked_mul(factor);
    }
    let bytes = digits.parse::<f64>().ok()? * factor as f64;
    let is_sound = bytes.is_finite() && bytes >= 0.0 && bytes <= i64::MAX as f64;
    is_sound.then_some(bytes as u64)
}

/// Reads `20G` or plain bytes; 0 is no limit, otherwise at least 1 MiB.
pub(crate) fn disk_bytes(text: &str) -> Result<u64, String> {
    let expected = "write a size such as 500M or 20G, at least 1M; or 0 for no limit";
    let bytes = size(text).ok_or(expected)?;
    (bytes == 0 || bytes >= 1 << 20)
        .then_some(bytes)
        .ok_or_else(|| expected.to_owned())
}

/// Reads `90s`, `5m`, `1h 30m` or plain seconds; at least a millisecond.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "write a duration such as 30s, 5m or 1h30m";
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| expected.to_owned())?,
        Err(_) => {
            humantime::parse_duration(text).map_err(|error| format!("{error}; {expected}"))?
        }
    };
    if duration < Duration::from_millis(1) {
        return Err(format!("it is shorter than a millisecond; {expected}"));
    }
    Ok(duration)
}

/// Reads `15`, `TERM`, `SIGTERM` or `term`.
pub(crate) fn signal(text: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 16] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("WINCH", 28),
    ];
    if let Ok(number) = text.parse::<i32>() {
        let problem = || "signals have the numbers 1 to 64".to_owned();
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(problem);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| *number)
        .ok_or_else(|| "write a number from 1 to 64, or a name such as TERM, INT or HUP".to_owned())
}

/// A duration as the protocol counts it.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `KEY=VALUE`; the value may be empty.
pub(crate) fn environment_variable(text: &str) -> Result<EnvironmentVariable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(EnvironmentVariable {
            name: name.to_owned(),
            value: value.to_owned().into(),
        }),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Splits `SOURCE[#REF]` at the last `#`; without one the reference is empty.
pub(crate) fn split_reference(text: &str) -> (&str, &str) {
    text.rsplit_once('#').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_become_thousandths() {
        assert_eq!(cpu_millis("2"), Ok(2000));
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("0.01"), Ok(10));
        for wrong in ["", "0", "-1", "1025", "NaN", "inf", "two"] {
            assert!(cpu_millis(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(memory_bytes("512M"), Ok(512 << 20));
        assert_eq!(memory_bytes("2g"), Ok(2 << 30));
        assert_eq!(memory_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(memory_bytes("33554432"), Ok(32 << 20));
        for wrong in [
            "",
            "M",
            "1",
            "31M",
            "1x",
            "-1G",
            "99999999999999T",
            "1e400G",
        ] {
            assert!(memory_bytes(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn a_disk_may_have_no_limit() {
        assert_eq!(disk_bytes("0"), Ok(0));
        assert_eq!(disk_bytes("20M"), Ok(20 << 20));
        for wrong in ["", "1", "1023K", "-1G", "lots"] {
            assert!(disk_bytes(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn durations_take_units_or_seconds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "0", "-5", "soon", "NaN", "1e-9"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn variables_need_a_name_and_may_be_empty() {
        let read = environment_variable("A=b=c").unwrap();
        assert_eq!((read.name.as_str(), &read.value[..]), ("A", &b"b=c"[..]));
        assert_eq!(environment_variable("A=").unwrap().value.len(), 0);
        assert!(environment_variable("=x").is_err());
        assert!(environment_variable("A").is_err());
    }

    #[test]
    fn the_reference_follows_the_last_hash() {
        assert_eq!(split_reference("https://h/r#v1"), ("https://h/r", "v1"));
        assert_eq!(split_reference("https://h/r"), ("https://h/r", ""));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["15", "TERM", "SIGTERM", "term"] {
            assert_eq!(signal(text), Ok(15));
        }
        for text in ["0", "65", "-1", "NONE", ""] {
            assert!(signal(text).is_err(), "{text:?} was accepted");
        }
    }
}
