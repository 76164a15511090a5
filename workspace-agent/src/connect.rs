//! `compy-agent connect HOST PORT`: standard input and output as a connection to a
//! host, by way of the proxy on the loopback. SSH clients start it as their
//! `ProxyCommand`; images have no such program of their own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::ExitCode;

use compyd_proto::link::PROXY_PORT;

const MAX_HEAD_BYTES: usize = 16 * 1024;

pub(crate) fn run(host: &str, port: &str) -> ExitCode {
    match connect(host, port).and_then(|stream| carry(&stream)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compy-agent: no connection to {host}:{port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn connect(host: &str, port: &str) -> io::Result<TcpStream> {
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) || port.parse::<u16>().is_err()
    {
        return Err(io::Error::other("this is no host and port"));
    }
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PROXY_PORT))?;
    stream.set_nodelay(true)?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let head = head(&mut stream)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => {
            let mut body = String::new();
            let _ = stream.take(MAX_HEAD_BYTES as u64).read_to_string(&mut body);
            let said = body.trim().trim_start_matches("compy: ");
            Err(io::Error::other(if said.is_empty() {
                status
            } else {
                said
            }))
        }
    }
}

/// The head of the answer. Byte by byte: what follows is the host's.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD_BYTES || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("the proxy does not answer as one"));
        }
        head.extend_from_slice(&byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Both ways, until the host has ended.
fn carry(stream: &TcpStream) -> io::Result<()> {
    let up = stream.try_clone()?;
    // Ends with the process: what is typed may never end.
    std::thread::spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut &up);
        let _ = up.shutdown(Shutdown::Write);
    });
    copy(&mut &*stream, &mut io::stdout().lock())
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_head_is_left_for_the_host() {
        let mut answer = &b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nSSH-2.0-x"[..];
        assert!(head(&mut answer).unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!(answer, b"SSH-2.0-x");
        assert!(head(&mut &b"HTTP/1.1 200 OK\r\n"[..]).is_err());
        assert!(head(&mut io::repeat(b'x')).is_err());
    }

    #[test]
    fn what_is_no_host_is_not_asked_for() {
        for (host, port) in [
            ("a b", "22"),
            ("a\r\nX: y", "22"),
            ("a", "ssh"),
            ("a", "70000"),
        ] {
            let refused = connect(host, port).unwrap_err().to_string();
            assert!(refused.contains("no host"), "{host}: {refused}");
        }
    }
}
