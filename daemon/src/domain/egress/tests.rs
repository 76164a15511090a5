use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn target(host: &str, port: u16) -> Target {
    Target {
        host: Host::parse(host).unwrap(),
        port,
    }
}

fn name(host: &str) -> Option<String> {
    match Host::parse(host) {
        Ok(Host::Name(name)) => Some(name),
        Ok(Host::Address(_)) | Err(_) => None,
    }
}

fn address(host: &str) -> Option<String> {
    match Host::parse(host) {
        Ok(Host::Address(address)) => Some(address.to_string()),
        Ok(Host::Name(_)) | Err(_) => None,
    }
}

#[test]
fn a_host_has_one_form() {
    for (given, expected) in [
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_srv.a-b.example", "_srv.a-b.example"),
        ("localhost", "localhost"),
        ("1e100.net", "1e100.net"),
        ("0x.example", "0x.example"),
        ("10.0.0.1.example", "10.0.0.1.example"),
    ] {
        assert_eq!(name(given).as_deref(), Some(expected), "{given}");
    }
    for (given, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("0:0:0:0:0:ffff:a9fe:a9fe", "169.254.169.254"),
    ] {
        assert_eq!(address(given).as_deref(), Some(expected), "{given}");
    }
}

#[test]
fn what_some_parser_takes_for_an_address_is_no_host() {
    for given in [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "127.0.1",
        "017700000001",
        "0177.0.0.1",
        "010.0.0.1",
        "127.0.0.01",
        "0x7F.0.0.0x1",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.0.0.1",
        "0",
        "0x",
        "1.2.3.",
        "4294967297",
        "a.0x1",
        "a.123",
        "[127.0.0.1]",
        "[::1",
        "::1]",
        "[]",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "[::1]:80",
        "::ffff:127.1",
        "1::2::3",
    ] {
        assert!(Host::parse(given).is_err(), "{given}");
    }
}

#[test]
fn what_is_no_name_is_no_host() {
    let long_label = format!("{}.example", "a".repeat(64));
    let long = format!("{}example", "a.".repeat(130));
    for given in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "a@b",
        "a%2eb",
        "a\0b",
        "a\r\nb",
        "bücher.example",
        "а.example",
        "１２７.0.0.1",
        "a*b",
        &long_label,
        &long,
    ] {
        assert!(Host::parse(given).is_err(), "{given:?}");
    }
    let said = Host::parse("a\r\nb").unwrap_err().to_string();
    assert!(!said.contains('\n'), "{said:?}");
}

fn allow(hosts: &[&str]) -> Policy {
    Policy::new(PolicyKind::AllowList, hosts).unwrap()
}

#[test]
fn an_allow_list_allows_what_it_names() {
    let policy = allow(&[
        "Example.org",
        "*.wild.example",
        "git.example:22",
        "192.0.2.7",
        "[2001:db8::7]:8443",
    ]);
    for (host, port, expected) in [
        ("example.org", 443, true),
        ("EXAMPLE.org.", 80, true),
        ("example.org", 8080, false),
        ("www.example.org", 443, false),
        ("example.org.evil.example", 443, false),
        ("a.wild.example", 443, true),
        ("a.b.wild.example", 80, true),
        ("wild.example", 443, false),
        ("evilwild.example", 443, false),
        ("git.example", 22, true),
        ("git.example", 443, false),
        ("192.0.2.7", 443, true),
        ("::ffff:192.0.2.7", 443, true),
        ("192.0.2.8", 443, false),
        ("2001:db8::7", 8443, true),
        ("2001:db8::7", 443, false),
    ] {
        let target = target(host, port);
        let expected = expected
            .then_some(())
            .ok_or(Denial::NotListed(target.clone()));
        assert_eq!(policy.admit(&target), expected);
    }
}

#[test]
fn the_other_policies_allow_nothing_or_all_but_mail() {
    let web = target("example.org", 443);
    assert_eq!(Policy::None.admit(&web), Err(Denial::NoEgress(web.clone())));
    assert_eq!(Policy::Open.admit(&web), Ok(()));
    assert_eq!(Policy::Open.admit(&target("example.org", 9418)), Ok(()));
    let mail = target("example.org", 25);
    assert_eq!(
        Policy::Open.admit(&mail),
        Err(Denial::PortClosed(mail.clone()))
    );
    assert_eq!(Policy::default(), Policy::None);
}

#[test]
fn patterns_are_written_as_they_are_read() {
    for (given, expected) in [
        ("Example.org.", "example.org"),
        ("*.Example.org:8080", "*.example.org:8080"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:db8::1]:22", "[2001:db8::1]:22"),
        ("192.0.2.1:22", "192.0.2.1:22"),
    ] {
        let pattern: HostPattern = given.parse().unwrap();
        assert_eq!(pattern.to_string(), expected);
        let policy = allow(&[given]);
        let stored = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            serde_json::from_str::<Policy>(&stored).unwrap(),
            policy,
            "{stored}"
        );
    }
    for bad in [
        "*",
        "*.",
        "*.*.example",
        "a*.example",
        "*example",
        "*.1.2.3.4",
        "*.127.1",
        "example.org:0",
        "example.org:+1",
        "example.org:x",
        "example.org:70000",
        "",
        ":80",
        "https://example.org",
        "example.org/path",
    ] {
        assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
    }
}

#[test]
fn a_policy_has_hosts_where_it_has_a_list() {
    assert_eq!(
        Policy::new(PolicyKind::AllowList, &[""; 0]),
        Err(PolicyError::Length(0))
    );
    let many = vec!["a.example"; 257];
    assert_eq!(
        Policy::new(PolicyKind::AllowList, &many),
        Err(PolicyError::Length(257))
    );
    for kind in [PolicyKind::None, PolicyKind::Open] {
        assert_eq!(
            Policy::new(kind, &["a.example"]),
            Err(PolicyError::HostsWithoutList)
        );
    }
}

fn choose(rules: &AddressRules, addresses: &[&str]) -> Result<Vec<String>, Range> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    match rules.choose(&target("a.example", 443), &addresses) {
        Ok(chosen) => Ok(chosen.iter().map(ToString::to_string).collect()),
        Err(Denial::Address { range, .. }) => Err(range),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn addresses_that_are_not_public_are_refused() {
    let rules = AddressRules {
        allow_networks: Vec::new(),
        own: vec!["8.8.4.4".parse().unwrap(), "2a00::5".parse().unwrap()],
    };
    for (address, range) in [
        ("0.0.0.0", Range::Reserved),
        ("0.1.2.3", Range::Reserved),
        ("10.255.255.255", Range::Private),
        ("100.64.0.1", Range::CarrierNat),
        ("100.127.255.255", Range::CarrierNat),
        ("100.100.100.200", Range::Metadata),
        ("127.0.0.1", Range::Loopback),
        ("127.255.255.254", Range::Loopback),
        ("168.63.129.16", Range::Metadata),
        ("169.254.1.1", Range::LinkLocal),
        ("169.254.169.254", Range::Metadata),
        ("172.16.0.1", Range::Private),
        ("172.17.0.1", Range::Private),
        ("172.31.255.255", Range::Private),
        ("192.0.0.8", Range::Reserved),
        ("192.0.2.1", Range::Documentation),
        ("192.88.99.1", Range::Reserved),
        ("192.168.1.1", Range::Private),
        ("198.18.0.1", Range::Benchmark),
        ("198.19.255.255", Range::Benchmark),
        ("198.51.100.1", Range::Documentation),
        ("203.0.113.80", Range::Documentation),
        ("224.0.0.1", Range::Multicast),
        ("239.255.255.250", Range::Multicast),
        ("240.0.0.1", Range::Reserved),
        ("255.255.255.255", Range::Reserved),
        ("8.8.4.4", Range::Host),
        ("::ffff:8.8.4.4", Range::Host),
        ("2a00::5", Range::Host),
        ("::", Range::Reserved),
        ("::1", Range::Loopback),
        ("::127.0.0.1", Range::Translation),
        ("::ffff:127.0.0.1", Range::Loopback),
        ("::ffff:169.254.169.254", Range::Metadata),
        ("64:ff9b::7f00:1", Range::Translation),
        ("64:ff9b::808:808", Range::Translation),
        ("64:ff9b:1::7f00:1", Range::Translation),
        ("2001::7f00:1", Range::Translation),
        ("2002:7f00:1::", Range::Translation),
        ("2001:2::1", Range::Benchmark),
        ("2001:10::1", Range::Reserved),
        ("2001:1ff::1", Range::Reserved),
        ("2001:db8::1", Range::Documentation),
        ("3fff::1", Range::Documentation),
        ("100::1", Range::Reserved),
        ("4000::1", Range::Reserved),
        ("5f00::1", Range::Reserved),
        ("fc00::1", Range::Private),
        ("fd00:ec2::254", Range::Metadata),
        ("fe80::1", Range::LinkLocal),
        ("fec0::1", Range::Private),
        ("ff02::1", Range::Multicast),
    ] {
        assert_eq!(choose(&rules, &[address]), Err(range), "{address}");
    }
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.1",
        "223.255.255.255",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2a00::1",
        "2606:4700::1111",
    ] {
        assert_eq!(choose(&rules, &[address]), Ok(vec![address.to_owned()]));
    }
}

#[test]
fn only_what_may_be_dialled_is_chosen() {
    let rules = AddressRules::default();
    assert_eq!(choose(&rules, &[]), Ok(Vec::new()));
    assert_eq!(
        choose(&rules, &["10.0.0.1", "::ffff:8.8.8.8", "8.8.8.8", "::1"]),
        Ok(vec!["8.8.8.8".to_owned()])
    );
    assert_eq!(choose(&rules, &["10.0.0.1", "::1"]), Err(Range::Private));
}

#[test]
fn an_operator_may_name_networks() {
    let rules = AddressRules {
        allow_networks: ["203.0.113.0/24", "fd12::/16", "64:ff9b::/96", "10.1.2.3"]
            .map(|network| network.parse().unwrap())
            .to_vec(),
        own: vec!["203.0.113.9".parse().unwrap()],
    };
    for allowed in [
        "203.0.113.80",
        "203.0.113.9",
        "fd12::1",
        "64:ff9b::808:808",
        "10.1.2.3",
    ] {
        assert_eq!(choose(&rules, &[allowed]), Ok(vec![allowed.to_owned()]));
    }
    assert_eq!(choose(&rules, &["fd13::1"]), Err(Range::Private));
    assert_eq!(choose(&rules, &["10.1.2.4"]), Err(Range::Private));
    // What NAT64 stands for is looked at, too: 10.0.0.1.
    assert_eq!(choose(&rules, &["64:ff9b::a00:1"]), Err(Range::Private));
    for bad in [
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::/129",
        "10/8",
        "x",
        "10.0.0.0/",
        "fd00::1/8",
    ] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
    for good in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::1/128"] {
        assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
    }
}

#[test]
fn a_denial_says_what_to_do() {
    let denial = Policy::None
        .admit(&target("example.org", 8443))
        .unwrap_err();
    assert_eq!(denial.code(), "NO_EGRESS");
    assert_eq!(
        denial.to_string(),
        "example.org:8443 is not allowed: this workspace reaches nothing"
    );
    assert!(
        denial
            .advice("api")
            .contains("workspace egress api --egress allow --allow example.org:8443 ")
    );
    let denial = AddressRules::default()
        .choose(&target("a.example", 80), &["::1".parse().unwrap()])
        .unwrap_err();
    assert_eq!(
        denial.to_string(),
        "a.example:80 is not allowed: ::1 is a loopback address"
    );
}

/// A TLS hello as a client of today makes it.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

fn sni(name: &str) -> Inspection {
    Inspection::Mismatch(Mismatch::Sni(name.to_owned()))
}

#[test]
fn a_hello_for_somebody_else_is_found_however_it_is_cut() {
    let ours = target("a.example", 443);
    let whole = hello("a.example");
    assert_eq!(inspect(&ours, &whole), Inspection::Clear);
    assert_eq!(
        inspect(&target("A.Example.", 443), &whole),
        Inspection::Clear
    );
    let other = hello("evil.example");
    assert_eq!(inspect(&ours, &other), sni("evil.example"));
    for length in 0..other.len() {
        assert_eq!(
            inspect(&ours, &other[..length]),
            Inspection::More,
            "{length}"
        );
    }
    // Spread over many records.
    for size in [1, 7, 100] {
        let mut cut = Vec::new();
        for part in other[5..].chunks(size) {
            cut.extend_from_slice(&[22, 3, 1]);
            cut.extend_from_slice(&(part.len() as u16).to_be_bytes());
            cut.extend_from_slice(part);
        }
        assert_eq!(inspect(&ours, &cut), sni("evil.example"), "{size}");
    }
    // With application data behind it.
    let mut more = other;
    more.extend_from_slice(b"more");
    assert_eq!(inspect(&ours, &more), sni("evil.example"));
}

#[test]
fn a_hello_without_a_name_passes_and_a_broken_one_does_not() {
    let ours = target("a.example", 443);
    assert_eq!(inspect(&ours, &hello("192.0.2.1")), Inspection::Clear);
    let unsound = Inspection::Mismatch(Mismatch::Unsound);
    let mut broken = hello("a.example");
    broken[5] = 2;
    assert_eq!(inspect(&ours, &broken), unsound);
    assert_eq!(inspect(&ours, &[22, 9]), Inspection::More);
    assert_eq!(inspect(&ours, &[22, 9, 9]), unsound);
    assert_eq!(inspect(&ours, &[22, 3, 1, 0, 4, 1, 0, 0, 0]), unsound);
    // One that never ends.
    let mut endless = vec![22, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff];
    endless.resize(70_000, 0);
    assert_eq!(inspect(&ours, &endless), unsound);
    // A target that is an address may be called anything.
    assert_eq!(
        inspect(&target("192.0.2.1", 443), &hello("a.example")),
        Inspection::Clear
    );
}

#[test]
fn a_request_for_somebody_else_is_found() {
    let ours = target("a.example", 80);
    let look = |text: &str| inspect(&ours, text.as_bytes());
    for clear in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nhOST:  A.EXAMPLE:80 \r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "EHLO a.example\r\n",
        "\0\0\0\x08",
    ] {
        assert_eq!(look(clear), Inspection::Clear, "{clear:?}");
    }
    for foreign in [
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example:80\r\n\r\nrest",
        "GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://a.example@evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ] {
        let expected = Mismatch::Request("evil.example".to_owned());
        assert_eq!(look(foreign), Inspection::Mismatch(expected), "{foreign:?}");
    }
    assert_eq!(
        look("GET / HTTP/1.1\r\nHost : evil.example\r\n\r\n"),
        Inspection::Mismatch(Mismatch::Unsound)
    );
    assert_eq!(look("GET / HTTP/1.1\r\nHost: evil.exa"), Inspection::More);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// An address of version 4 is refused or not, in whatever form it comes.
    #[test]
    fn every_form_of_an_address_gets_one_answer(bits in any::<u32>(), shift in 0..24_u32) {
        // Short prefixes are as likely as long ones.
        let inner = Ipv4Addr::from_bits(bits >> (shift % 8) << (shift % 8));
        let rules = AddressRules::default();
        let target = target("a.example", 443);
        let refused = |address: IpAddr| rules.choose(&target, &[address]).is_err();
        let [a, b, c, d] = inner.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        prop_assert_eq!(refused(inner.into()), refused(inner.to_ipv6_mapped().into()));
        for embedded in [
            inner.to_ipv6_compatible(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 1, 2, 3, 4, !high, !low),
        ] {
            prop_assert!(refused(embedded.into()), "{}", embedded);
        }
        // No spelling but the usual one is a host.
        for spelling in [
            format!("{bits}"), format!("0x{bits:x}"), format!("0{bits:o}"),
            format!("0x{a:x}.{b}.{c}.{d}"), format!("0{a:o}.{b}.{c}.0{d:o}"),
            format!("{a}.{}", bits & 0xff_ffff), format!("{a}.{b}.{}", bits & 0xffff),
            format!("{inner}."), format!("{inner}%0"),
        ] {
            prop_assert!(Host::parse(&spelling).is_err(), "{}", spelling);
        }
        prop_assert_eq!(Host::parse(&inner.to_string()).unwrap(), Host::Address(inner.into()));
    }

    /// Only global unicast is public, and no private range of version 4 hides
    /// in it.
    #[test]
    fn addresses_outside_of_public_space_are_never_chosen(bits in any::<u128>()) {
        let address = Ipv6Addr::from_bits(bits);
        let chosen = AddressRules::default()
            .choose(&target("a.example", 443), &[address.into()])
            .is_ok();
        prop_assert!(!chosen || bits >> 125 == 1, "{}", address);
    }

    /// A host's one form is a host, and the same one.
    #[test]
    fn the_form_of_a_host_is_stable(text in "[a-zA-Z0-9.:x\\[\\]-]{0,24}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
    }

    /// Bytes of any kind are looked at without harm.
    #[test]
    fn any_bytes_can_be_inspected(bytes in proptest::collection::vec(any::<u8>(), 0..200), tls in any::<bool>()) {
        let mut bytes = bytes;
        if tls {
            bytes.splice(0..0, [22, 3, 1]);
        }
        let _ = inspect(&target("a.example", 443), &bytes);
    }
}
