//! Texts into types. Each error says what would be right.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use compyd_proto::link::MAX_MESSAGE_BYTES;

use super::{ListenAddress, LogFormat};
use crate::domain::{edits::EditFormat, egress::PolicyKind, workspace::NetworkMode};

/// What is wrong with a value, and what would be right.
pub(super) type Problem = String;

pub(super) fn path(text: &str) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("give an absolute path".to_owned())
    }
}

/// A program with its arguments, quoted as in a shell.
pub(super) fn command(text: &str) -> Result<Vec<String>, Problem> {
    let expected = "write a program and its arguments as in a shell: \"pass show compy\"";
    match shell_words::split(text) {
        Ok(words) if words.first().is_some_and(|word| !word.is_empty()) => Ok(words),
        Ok(_) | Err(_) => Err(expected.to_owned()),
    }
}

pub(super) fn not_empty(text: &str) -> Result<String, Problem> {
    if text.trim().is_empty() {
        Err("it must not be empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, Problem> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

pub(super) fn number<N: FromStr + PartialOrd>(
    text: &str,
    least: N,
    most: N,
    range: &str,
) -> Result<N, Problem> {
    let number: Option<N> = text.parse().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("give a whole number from {range}"))
}

pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    humantime::parse_duration(text).map_err(|_| "give a time with its unit: 30s, 5m, 2h".to_owned())
}

/// A time after which something idle is stopped; `None` for never.
pub(super) fn idle_stop(text: &str) -> Result<Option<Duration>, Problem> {
    if text == "never" {
        return Ok(None);
    }
    let problem = || "give a time of at least 1s with its unit, 30m or 8h, or never".to_owned();
    let after = humantime::parse_duration(text).map_err(|_| problem())?;
    (after >= crate::domain::idle::SHORTEST)
        .then_some(Some(after))
        .ok_or_else(problem)
}

/// Thousandths of a CPU.
pub(super) fn cpus(text: &str) -> Result<u32, Problem> {
    let problem = || "give CPUs from 0.01 to 1024, with a point: 1.5".to_owned();
    let cpus: f64 = text.parse().map_err(|_| problem())?;
    if !(0.01..=1024.0).contains(&cpus) {
        return Err(problem());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((cpus * 1000.0).round() as u32)
}

/// Bytes, with a binary unit where one is given: `512MiB` or `512M`.
pub(super) fn bytes(text: &str) -> Result<u64, Problem> {
    let problem = || "give bytes, or a size like 512MiB or 4GiB".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let number: u64 = digits.parse().map_err(|_| problem())?;
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(problem()),
    };
    number.checked_mul(1_u64 << shift).ok_or_else(problem)
}

pub(super) fn base_url(text: &str) -> Result<String, Problem> {
    let problem = || "give a URL that begins with http:// or https://".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| problem())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(problem()),
    }
}

pub(super) fn engine_host(text: &str) -> Result<String, Problem> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(text.to_owned()),
        Some(_) | None => Err("give the engine's socket as unix:///PATH".to_owned()),
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), Problem> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE".to_owned()),
    }
}

/// A model's name or the begin of one, and the format of its edits.
pub(super) fn edit_format(text: &str) -> Result<(String, EditFormat), Problem> {
    let parsed = text.rsplit_once('=').and_then(|(model, format)| {
        let format = EditFormat::named(format)?;
        model.contains(':').then(|| (model.to_owned(), format))
    });
    parsed.ok_or_else(|| {
        let formats = EditFormat::ALL.map(EditFormat::name).join(", ");
        format!("give MODEL=FORMAT, as in anthropic:*=blocks; formats are {formats}")
    })
}

pub(super) fn network(text: &str) -> Result<NetworkMode, Problem> {
    match text {
        "none" => Ok(NetworkMode::None),
        "bridge" => Ok(NetworkMode::Bridge),
        _ => Err("give none or bridge".to_owned()),
    }
}

pub(super) fn egress(text: &str) -> Result<PolicyKind, Problem> {
    match text {
        "none" => Ok(PolicyKind::None),
        "allow" => Ok(PolicyKind::AllowList),
        "open" => Ok(PolicyKind::Open),
        _ => Err("give none, allow or open".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Problem> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("give text or json".to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, Problem> {
    tracing_subscriber::EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error}; give a level or directives like info,compyd=debug"))
}

pub(super) fn listen(text: &str) -> Result<ListenAddress, Problem> {
    /// Longest path of a unix socket that every kernel takes.
    const LONGEST: usize = 107;
    if let Some(path) = text.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err("give an absolute path: unix:///run/compy/compyd.sock".to_owned());
        }
        if path.len() > LONGEST {
            return Err(format!("socket paths have at most {LONGEST} bytes"));
        }
        return Ok(ListenAddress::Unix(PathBuf::from(path)));
    }
    if let Some(address) = text.strip_prefix("https://") {
        return ip_and_port(address).map(ListenAddress::Tls);
    }
    let Some(address) = text.strip_prefix("tcp://") else {
        return Err("give unix:///PATH, https://IP:PORT or tcp://IP:PORT".to_owned());
    };
    let address = ip_and_port(address)?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "plain TCP is served on loopback addresses only; write https://{address} for TCP with TLS"
        ));
    }
    Ok(ListenAddress::Tcp(address))
}

/// An IP address or `localhost`, and a port.
fn ip_and_port(text: &str) -> Result<SocketAddr, Problem> {
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse::<u16>();
        let port = port.map_err(|_| "give a port from 0 to 65535".to_owned())?;
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let problem = |_| "give an IP address and a port: https://0.0.0.0:7600".to_owned();
    text.parse().map_err(problem)
}

/// A name or an IP address of this machine.
pub(super) fn host_name(text: &str) -> Result<String, Problem> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("give a name or an IP address that clients use: compy.example.org".to_owned())
        }
    }
}

/// Bytes of a message.
pub(super) fn message_size(text: &str) -> Result<usize, Problem> {
    const LEAST: usize = 64 << 10;
    let size = usize::try_from(bytes(text)?).unwrap_or(usize::MAX);
    match (LEAST..=MAX_MESSAGE_BYTES).contains(&size) {
        true => Ok(size),
        false => Err("give a size from 64KiB to 20MiB".to_owned()),
    }
}

/// A port on the loopback address, or an address with its port.
pub(super) fn port_or_address(text: &str) -> Result<SocketAddr, Problem> {
    match (text.parse(), text.parse()) {
        (Ok(port), _) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        (_, Ok(address)) => Ok(address),
        _ => Err("give a port, or an IP address and a port: 9464, 127.0.0.1:9464".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("4 GiB"), Ok(4 << 30));
        for bad in ["", "GiB", "1.5G", "-1", "9 parsecs", "99999999999T"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_are_thousandths() {
        assert_eq!(cpus("2"), Ok(2_000));
        assert_eq!(cpus("0.5"), Ok(500));
        for bad in ["0", "-1", "NaN", "2000", "two"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_tcp_is_served_on_loopback_only() {
        for good in ["tcp://127.0.0.1:0", "tcp://[::1]:1", "tcp://localhost:80"] {
            assert!(listen(good).is_ok(), "{good}");
        }
        for bad in ["tcp://0.0.0.0:1", "tcp://192.168.1.2:80", "tcp://[::]:1"] {
            assert!(listen(bad).unwrap_err().contains("loopback"), "{bad}");
            let with_tls = bad.replace("tcp://", "https://");
            assert!(
                matches!(listen(&with_tls), Ok(ListenAddress::Tls(_))),
                "{with_tls}"
            );
        }
        for bad in [
            "http://x",
            "unix://rel",
            "tcp://host",
            "tcp://localhost:x",
            "https://0.0.0.0",
            "https://host:1",
            "",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
        assert!(listen(&format!("unix:///{}", "x".repeat(200))).is_err());
    }
}
