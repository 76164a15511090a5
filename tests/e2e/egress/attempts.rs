//! Ways around the rules, each with a twin that shows that it would have worked
//! had it been allowed.
//!
//! Scripts find `$GOOD`, the port that is allowed on `localhost`; `$SINK`, the
//! port that is not, on every address of the host; `$OWN`, an address of the
//! host. [`PRELUDE`] has what they share. What goes past the tunnel has itself for
//! a twin, on the engine's bridge.

use compyd_tests::world::LEAKED;

/// Where a script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// `--allow localhost:$GOOD`.
    Listed,
    /// `--egress open`; 127.0.0.1 is an allowed network.
    Open,
    /// `--egress none`.
    Closed,
}

/// Where the twin of an attempt runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TwinAt {
    /// Under the same rules; under the allow-list where they allow nothing.
    Rules,
    /// On the engine's bridge, with a world of its own.
    Bridge,
}

/// An attempt and its twin.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) name: &'static str,
    pub(super) rules: Rules,
    /// Must not come through, and must print `expected`.
    pub(super) script: String,
    pub(super) expected: &'static str,
    pub(super) twin_at: TwinAt,
    /// Must come through.
    pub(super) twin: String,
    /// What the twin prints.
    pub(super) twin_expected: &'static str,
}

pub(super) const PRELUDE: &str = r#"
get() { curl -sS -m 20 -v "$@" 2>&1; }
tunnel() { get -p "$@"; }
socks() { get -x socks5h://127.0.0.1:3128 "$@"; }
# Bytes to the proxy as they are, and its answer.
raw() { bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; printf "$1" >&3; timeout 10 cat <&3' raw "$1" 2>&1; }
connect() { raw "CONNECT $1 HTTP/1.1\r\n\r\n$2"; }
# A port in printf's escapes.
port() { printf '\\%03o\\%03o' $(($1 / 256)) $(($1 % 256)); }
# A SOCKS5 request in printf's escapes, and the reply in hexadecimal.
socks_raw() { raw "\005\001\000$1" | od -An -tx1 | tr -d ' \n'; }
# A packet to a host and port, in the escapes of Python, and what comes back.
udp() { python3 - "$1" "$2" "$3" <<'END' 2>&1
import codecs, socket, sys
host, port, packet = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(codecs.escape_decode(packet)[0], (host, int(port)))
print("said", s.recv(99))
END
}
# A TLS hello for one name to a host and port through a tunnel.
hello() { python3 - "$1" "$2" "$3" <<'END'
import socket, ssl, sys
host, port, name = sys.argv[1:]
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
head = b""
while not head.endswith(b"\r\n\r\n"): head += s.recv(1)
print(head.decode())
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
try: c.wrap_socket(s, server_hostname=name); print("handshake")
except Exception as e: print(type(e).__name__, e)
END
}
"#;

const REQUEST: &str = r"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// CONNECT to a host under the open rules: refused by its address or its form.
fn address(name: &'static str, host: &str, expected: &'static str) -> Attempt {
    Attempt {
        name,
        rules: Rules::Open,
        script: format!(r#"connect "{host}:$SINK" "{REQUEST}""#),
        expected,
        twin_at: TwinAt::Rules,
        twin: format!(r#"connect "127.0.0.1:$GOOD" "{REQUEST}""#),
        twin_expected: "good-twin",
    }
}

/// A tool's attempt under the allow-list; its twin goes to the good server.
fn tool(name: &'static str, script: &str, expected: &'static str, twin: &str) -> Attempt {
    Attempt {
        name,
        rules: Rules::Listed,
        script: script.to_owned(),
        expected,
        twin_at: TwinAt::Rules,
        twin: twin.to_owned(),
        twin_expected: "good-twin",
    }
}

/// An attempt to do without the tunnel; on a bridge the very same comes through.
fn past_the_tunnel(name: &'static str, script: &str) -> Attempt {
    Attempt {
        twin_at: TwinAt::Bridge,
        twin_expected: LEAKED,
        ..tool(name, script, "Network is unreachable", script)
    }
}

const ADDRESS: &str = "x-compy-denied: ADDRESS_REFUSED";
const FORM: &str = "x-compy-denied: HOST_INVALID";
const LISTED: &str = "x-compy-denied: NOT_LISTED";

pub(super) fn all() -> Vec<Attempt> {
    let mut all = addresses();
    all.extend(spellings());
    all.extend(hosts_in_requests());
    all.extend(other_protocols());
    all
}

fn addresses() -> Vec<Attempt> {
    vec![
        address("another loopback address", "127.0.0.2", ADDRESS),
        address("the far end of loopback", "127.255.255.254", ADDRESS),
        address("the unspecified address", "0.0.0.0", ADDRESS),
        address("this network", "0.1.2.3", ADDRESS),
        address("an address of the host", "$OWN", ADDRESS),
        address("the bridge's gateway", "172.17.0.1", ADDRESS),
        address("a private network, 10", "10.0.0.1", ADDRESS),
        address("a private network, 192.168", "192.168.0.1", ADDRESS),
        address("a carrier's network", "100.64.0.1", ADDRESS),
        address("a link-local address", "169.254.1.1", ADDRESS),
        address("a cloud's metadata service", "169.254.169.254", ADDRESS),
        address("benchmarks", "198.18.0.1", ADDRESS),
        address("multicast", "224.0.0.1", ADDRESS),
        address("broadcast", "255.255.255.255", ADDRESS),
        address("loopback of version 6", "[::1]", ADDRESS),
        address("unspecified of version 6", "[::]", ADDRESS),
        address("a private address of version 6", "[fd00::1]", ADDRESS),
        address(
            "a metadata service of version 6",
            "[fd00:ec2::254]",
            ADDRESS,
        ),
        address("a link-local address of version 6", "[fe80::1]", ADDRESS),
        address("multicast of version 6", "[ff02::1]", ADDRESS),
    ]
}

/// One address in many forms: those that mean it are refused for what they
/// mean, the others for their form.
fn spellings() -> Vec<Attempt> {
    vec![
        address("decimal", "2130706434", FORM),
        address("hexadecimal", "0x7f000002", FORM),
        address("octal", "017700000002", FORM),
        address("hexadecimal in two parts", "0x7f.2", FORM),
        address("octal in four parts", "0177.0.0.02", FORM),
        address("two parts", "127.2", FORM),
        address("three parts", "127.0.2", FORM),
        address("a dot at its end", "127.0.0.2.", FORM),
        address("IPv4-mapped", "[::ffff:127.0.0.2]", ADDRESS),
        address("IPv4-mapped in hexadecimal", "[::ffff:7f00:2]", ADDRESS),
        address("IPv4-compatible", "[::7f00:2]", ADDRESS),
        address("NAT64", "[64:ff9b::7f00:2]", ADDRESS),
        address("6to4", "[2002:7f00:2::1]", ADDRESS),
        address("Teredo", "[2001::80ff:fffd]", ADDRESS),
    ]
}

fn hosts_in_requests() -> Vec<Attempt> {
    const GET: &str = "get http://localhost:$GOOD/";
    const TUNNEL: &str = "tunnel http://localhost:$GOOD/";
    const CONNECT: &str =
        r#"connect "localhost:$GOOD" "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n""#;
    const DIFFERS: &str = "the Host header differs";
    let mut all = vec![
        tool(
            "a host that is not listed",
            "get http://127.0.0.2:$SINK/",
            LISTED,
            GET,
        ),
        tool(
            "the same by CONNECT",
            "tunnel http://127.0.0.2:$SINK/",
            LISTED,
            TUNNEL,
        ),
        tool(
            "a port that is not listed",
            "get http://localhost:$SINK/",
            LISTED,
            GET,
        ),
        tool(
            "the same by CONNECT, an odd port",
            "tunnel http://localhost:$SINK/",
            LISTED,
            TUNNEL,
        ),
        tool(
            "the listed host's address",
            "get http://127.0.0.1:$GOOD/",
            LISTED,
            GET,
        ),
        tool(
            "a name that begins like the listed one",
            "get http://localhost.evil.example:$GOOD/",
            LISTED,
            GET,
        ),
        tool(
            "the proxy itself",
            "tunnel http://127.0.0.1:3128/",
            LISTED,
            TUNNEL,
        ),
        tool(
            "a redirect",
            "get -L http://localhost:$GOOD/redirect",
            LISTED,
            "get -L http://localhost:$GOOD/",
        ),
        tool(
            "another Host",
            "get -H 'Host: evil.example' http://localhost:$GOOD/",
            DIFFERS,
            GET,
        ),
        tool(
            "another port in Host",
            r#"get -H "Host: localhost:$SINK" http://localhost:$GOOD/"#,
            DIFFERS,
            GET,
        ),
        tool(
            "two Hosts",
            r#"raw "GET http://localhost:$GOOD/ HTTP/1.1\r\nHost: localhost:$GOOD\r\nHost: evil.example\r\n\r\n""#,
            "a request has one Host",
            GET,
        ),
        tool(
            "an account that looks like the listed host",
            r#"raw "GET http://localhost:$GOOD@127.0.0.2:$SINK/ HTTP/1.1\r\nHost: 127.0.0.2:$SINK\r\n\r\n""#,
            LISTED,
            GET,
        ),
        tool(
            "an account in CONNECT",
            r#"connect "localhost:80@127.0.0.2:$SINK""#,
            "HTTP/1.1 400",
            CONNECT,
        ),
        tool(
            "another scheme",
            r#"raw "GET https://127.0.0.2:$SINK/ HTTP/1.1\r\nHost: 127.0.0.2:$SINK\r\n\r\n""#,
            "other schemes go through CONNECT",
            GET,
        ),
        tool(
            "a second request on the same connection",
            r#"raw "GET http://localhost:$GOOD/ HTTP/1.1\r\nHost: localhost:$GOOD\r\n\r\nGET http://127.0.0.2:$SINK/ HTTP/1.1\r\nHost: 127.0.0.2:$SINK\r\n\r\n""#,
            LISTED,
            GET,
        ),
        tool(
            "another Host in a tunnel",
            r#"connect "localhost:$GOOD" "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n""#,
            "the request names evil.example",
            CONNECT,
        ),
        tool(
            "another URL in a tunnel",
            r#"connect "localhost:$GOOD" "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n""#,
            "the request names evil.example",
            CONNECT,
        ),
        Attempt {
            twin_expected: "WRONG_VERSION_NUMBER",
            ..tool(
                "another server name in TLS",
                "hello localhost $GOOD evil.example",
                "UNRECOGNIZED_NAME",
                "hello localhost $GOOD localhost",
            )
        },
        Attempt {
            rules: Rules::Open,
            ..tool(
                "mail under the open rules",
                "connect localhost:25",
                "x-compy-denied: PORT_CLOSED",
                CONNECT,
            )
        },
    ];
    for (name, script, twin) in [
        ("nothing is allowed", "get http://localhost:$GOOD/", GET),
        (
            "nothing is allowed, by CONNECT",
            "tunnel http://localhost:$GOOD/",
            TUNNEL,
        ),
    ] {
        let rules = Rules::Closed;
        all.push(Attempt {
            rules,
            ..tool(name, script, "x-compy-denied: NO_EGRESS", twin)
        });
    }
    all
}

fn other_protocols() -> Vec<Attempt> {
    const GET: &str = "get http://localhost:$GOOD/";
    let socks = |name, request: &str, reply: &'static str| Attempt {
        twin_expected: "05000500",
        ..tool(
            name,
            &format!(r#"socks_raw "{request}""#),
            reply,
            r#"socks_raw "\005\001\000\003\011localhost$(port $GOOD)""#,
        )
    };
    vec![
        tool(
            "SOCKS5 by name",
            "socks http://127.0.0.2:$SINK/",
            "(2)",
            "socks http://localhost:$GOOD/",
        ),
        socks(
            "SOCKS5 by address",
            r"\005\001\000\001\177\000\000\002$(port $SINK)",
            "05000502",
        ),
        socks(
            "SOCKS5 by address of version 6",
            r"\005\001\000\004\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\001$(port $SINK)",
            "05000502",
        ),
        socks(
            "SOCKS5 by mapped address",
            r"\005\001\000\004\000\000\000\000\000\000\000\000\000\000\377\377\177\000\000\002$(port $SINK)",
            "05000502",
        ),
        socks(
            "SOCKS5 by a number",
            r"\005\001\000\003\0122130706434$(port $SINK)",
            "05000502",
        ),
        socks(
            "SOCKS5 by a name with a line's end",
            r"\005\001\000\003\013localhost\r\n$(port $GOOD)",
            "05000502",
        ),
        socks(
            "SOCKS5 by a name with a NUL",
            r"\005\001\000\003\013localhost\000x$(port $GOOD)",
            "05000502",
        ),
        socks(
            "SOCKS5 with a zone",
            r"\005\001\000\003\012fe80::1%%lo$(port $SINK)",
            "05000502",
        ),
        socks(
            "SOCKS5 BIND",
            r"\005\002\000\001\177\000\000\001$(port $GOOD)",
            "05000507",
        ),
        socks(
            "SOCKS5 UDP ASSOCIATE",
            r"\005\003\000\001\000\000\000\000\000\000",
            "05000507",
        ),
        tool(
            "SOCKS4",
            r#"raw "\004\001$(port $SINK)\177\000\000\002\000\r\n\r\n""#,
            "HTTP/1.1 400",
            GET,
        ),
        Attempt {
            rules: Rules::Closed,
            ..tool(
                "nothing is allowed, by SOCKS5",
                "socks http://localhost:$GOOD/",
                "(2)",
                "socks http://localhost:$GOOD/",
            )
        },
        past_the_tunnel("past the proxy", "get --noproxy '*' http://$OWN:$SINK/"),
        past_the_tunnel("UDP to the host", "udp $OWN $SINK x"),
        past_the_tunnel(
            "a DNS query to the host",
            r"udp $OWN $SINK '\0\1\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1'",
        ),
        // The same program, for a name that needs nobody to be asked.
        Attempt {
            twin_expected: "localhost",
            ..tool(
                "a name looked up inside",
                "getent hosts example.org || echo no answer",
                "no answer",
                "getent hosts localhost || echo no answer",
            )
        },
        // The same connection to a port where somebody listens.
        Attempt {
            twin_expected: "connected",
            ..tool(
                "the engine's resolver",
                "bash -c 'exec 3<>/dev/tcp/127.0.0.11/53 && echo connected' 2>&1",
                "refused",
                "bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128 && echo connected' 2>&1",
            )
        },
        tool(
            "the daemon's socket",
            r#"python3 -c 'import socket; s = socket.socket(1); s.connect("/run/compy/link/daemon.sock"); s.settimeout(10); print("said", s.recv(9))'"#,
            "said b''",
            GET,
        ),
    ]
}
