//! The HTTP proxy: CONNECT, and requests in absolute form.
//!
//! A plain request is forwarded on a connection of its own, so that two
//! requests of one program are two decisions. What belongs to one hop only
//! stays here, and a `Host` that differs from the URL is refused: the daemon
//! decides on the URL, a server would go by `Host`.

use std::convert::Infallible;
use std::io::Cursor;
use std::time::Duration;

use compyd_proto::agent::{TunnelFailure, TunnelProtocol};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::COPY_BYTES;
use super::desk::{Desk, NoWorld, Want, World};
use super::lingering::Lingering;
use super::proxy::HEAD_TIMEOUT;

const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Says by its code why a request was denied.
const DENIED: HeaderName = HeaderName::from_static("x-compy-denied");
/// For one hop only (RFC 9110, section 7.6.1), and what proxies are told.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Body = BoxBody<Bytes, hyper::Error>;
type Answer = Response<Body>;

/// Serves one connection of a program.
pub(super) async fn serve(stream: TcpStream, desk: Desk) {
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(answer(request, &desk).await) }
    });
    // An error is the program's: it has gone or speaks no HTTP.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Lingering::new(stream)), service)
        .with_upgrades()
        .await;
}

async fn answer(mut request: Request<Incoming>, desk: &Desk) -> Answer {
    let handed_over = hyper::upgrade::on(&mut request);
    let answer = if request.method() == Method::CONNECT {
        match connect(request.uri(), desk).await {
            Ok(world) => {
                desk.spawn(carry(handed_over, world));
                return Response::new(Empty::new().map_err(|never| match never {}).boxed());
            }
            Err(refusal) => refusal,
        }
    } else {
        forward(request, desk)
            .await
            .unwrap_or_else(|refusal| refusal)
    };
    // Whoever asked for a connection of another kind has it handed over by hyper
    // at its end, refused or not.
    desk.spawn(async move {
        if let Ok(program) = handed_over.await {
            let _ = TokioIo::new(program).shutdown().await;
        }
    });
    answer
}

/// A connection to the target of CONNECT, or why there is none.
async fn connect(target: &Uri, desk: &Desk) -> Result<World, Answer> {
    let target = target.authority().and_then(|authority| {
        let plain = !authority.as_str().contains('@');
        authority
            .port_u16()
            .filter(|_| plain)
            .map(|port| (authority.host(), port))
    });
    let Some((host, port)) = target else {
        return Err(bad_request("CONNECT takes HOST:PORT"));
    };
    let want = Want {
        host: bare(host).to_owned(),
        port,
        protocol: TunnelProtocol::Connect,
    };
    desk.ask(want).await.map_err(|no_world| refusal(&no_world))
}

/// Carries bytes between a program and the world until either has closed. Each
/// direction ends by itself, so nothing lingers from here on.
async fn carry(program: OnUpgrade, world: World) {
    let World {
        mut pipe,
        place: _place,
    } = world;
    let Ok(program) = program.await else {
        return;
    };
    // It is what `serve` gave to hyper.
    let Ok(parts) = program.downcast::<TokioIo<Lingering>>() else {
        return;
    };
    let (read, write) = parts.io.into_inner().into_inner().into_split();
    let read = Cursor::new(parts.read_buf).chain(read);
    let mut program = tokio::io::join(read, write);
    // On error either side has closed, which closes the other.
    let _ =
        tokio::io::copy_bidirectional_with_sizes(&mut program, &mut pipe, COPY_BYTES, COPY_BYTES)
            .await;
}

/// Forwards one request, or says why not.
async fn forward(mut request: Request<Incoming>, desk: &Desk) -> Result<Answer, Answer> {
    let authority = check(request.uri(), request.headers()).map_err(bad_request)?;
    let want = Want {
        host: bare(authority.host()).to_owned(),
        port: authority.port_u16().unwrap_or(80),
        protocol: TunnelProtocol::Http,
    };
    let World { pipe, place } = desk
        .ask(want)
        .await
        .map_err(|no_world| refusal(&no_world))?;
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str()).parse::<Uri>();
    *request.uri_mut() = path.map_err(|_| bad_request("the path of the URL is not valid"))?;
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    let host = host_of(&authority).parse::<HeaderValue>();
    headers.insert(
        header::HOST,
        host.map_err(|_| bad_request("the host of the URL is not valid"))?,
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));

    let gone = |error: hyper::Error| {
        let message = format!("{authority} broke the connection off: {error}");
        text(StatusCode::BAD_GATEWAY, &message)
    };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(pipe)).await;
    let (mut sender, connection) = handshake.map_err(gone)?;
    // On error the response's body says so.
    desk.spawn(async move {
        let _place = place;
        let _ = connection.await;
    });
    let mut response = sender.send_request(request).await.map_err(gone)?;
    strip_hop_by_hop(response.headers_mut());
    Ok(response.map(|body| body.boxed()))
}

/// The authority to connect to; an error says what is wrong with the request.
fn check(uri: &Uri, headers: &HeaderMap) -> Result<Authority, &'static str> {
    let Some(authority) = uri.authority() else {
        return Err("this is a proxy: it takes CONNECT, and requests with an absolute URL");
    };
    if uri.scheme_str() != Some("http") {
        return Err("this proxy forwards http:// URLs; other schemes go through CONNECT");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("a request has one Host");
    }
    // HTTP/1.0 needs none.
    if let Some(host) = host {
        let host = host
            .to_str()
            .ok()
            .and_then(|host| host.parse::<Authority>().ok());
        let same = host.is_some_and(|host| {
            !host.as_str().contains('@')
                && host.host().eq_ignore_ascii_case(authority.host())
                && host.port_u16().unwrap_or(80) == authority.port_u16().unwrap_or(80)
        });
        if !same {
            return Err("the Host header differs from the host of the URL");
        }
    }
    Ok(authority.clone())
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // What frames the message is not for a program to take away.
        .filter(|name| *name != header::CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Host and port as in the URL, without an account.
fn host_of(authority: &Authority) -> &str {
    let all = authority.as_str();
    all.rsplit_once('@').map_or(all, |(_, host)| host)
}

/// An address of version 6 without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn bad_request(message: &str) -> Answer {
    text(StatusCode::BAD_REQUEST, message)
}

fn refusal(no_world: &NoWorld) -> Answer {
    match no_world {
        NoWorld::Denied(denied) => {
            let message = match denied.advice.as_str() {
                "" => denied.message.clone(),
                advice => format!("{}\n{advice}", denied.message),
            };
            let mut answer = text(StatusCode::FORBIDDEN, &message);
            // Tools show this line and nothing else of an answer to CONNECT.
            if let Ok(reason) = ReasonPhrase::try_from(denied.message.as_bytes()) {
                answer.extensions_mut().insert(reason);
            }
            if let Ok(code) = denied.code.parse() {
                answer.headers_mut().insert(DENIED, code);
            }
            answer
        }
        NoWorld::Failed(failed) => {
            let status = match failed.kind() {
                TunnelFailure::Timeout => StatusCode::GATEWAY_TIMEOUT,
                TunnelFailure::Unspecified
                | TunnelFailure::Unresolved
                | TunnelFailure::Refused
                | TunnelFailure::Unreachable => StatusCode::BAD_GATEWAY,
            };
            let mut answer = text(status, &failed.message);
            if let Ok(reason) = ReasonPhrase::try_from(failed.message.as_bytes()) {
                answer.extensions_mut().insert(reason);
            }
            answer
        }
        NoWorld::NoDaemon => {
            again_soon("no daemon is linked to this workspace; start compyd and try again")
        }
        NoWorld::Full => {
            again_soon("too many connections are open in this workspace; close some and try again")
        }
    }
}

fn again_soon(message: &str) -> Answer {
    const SOON: Duration = Duration::from_secs(2);
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, message);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, SOON.as_secs().into());
    answer
}

fn text(status: StatusCode, message: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("compy: {message}\n")));
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    // What is left of the request is not read.
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(url: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        check(&url.parse().unwrap(), &headers).map(|authority| host_of(&authority).to_owned())
    }

    #[test]
    fn a_request_goes_where_its_url_and_its_host_agree_on() {
        for (url, hosts) in [
            ("http://a.example/x", vec![]),
            ("http://a.example/x", vec!["a.example"]),
            ("http://a.example/x", vec!["A.example:80"]),
            ("http://u:p@a.example/x", vec!["a.example"]),
        ] {
            assert_eq!(
                checked(url, &hosts).as_deref(),
                Ok("a.example"),
                "{url} {hosts:?}"
            );
        }
        assert_eq!(
            checked("http://[::1]:8/", &["[::1]:8"]).as_deref(),
            Ok("[::1]:8")
        );
        for (url, hosts) in [
            ("http://a.example/x", vec!["b.example"]),
            ("http://a.example/x", vec!["a.example:81"]),
            ("http://a.example:81/x", vec!["a.example"]),
            ("http://a.example/x", vec!["a.example", "b.example"]),
            ("http://a.example/x", vec!["b.example@a.example"]),
            ("http://a.example/x", vec![""]),
            ("https://a.example/x", vec!["a.example"]),
            ("ftp://a.example/x", vec!["a.example"]),
            ("/x", vec!["a.example"]),
        ] {
            assert!(checked(url, &hosts).is_err(), "{url} {hosts:?}");
        }
    }

    #[test]
    fn what_belongs_to_one_hop_stays_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine, content-length"),
            ("x-mine", "1"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length"]);
    }
}
