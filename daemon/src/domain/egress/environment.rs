//! How programs are told of the proxy.

/// Variables that send common tools through the proxy on the workspace's
/// loopback.
///
/// Tools read either case; curl reads `http_proxy` in lower case only. The rest
/// goes through the same proxy by CONNECT: `socks5h://` in `ALL_PROXY` would do
/// as well, but makes Python's and Rust's HTTP clients fail that were built
/// without SOCKS, whatever the other variables say.
#[must_use]
pub fn proxy_environment(port: u16) -> Vec<(String, Vec<u8>)> {
    const PROXY: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];
    const DIRECT: (&str, &str) = ("no_proxy", "localhost,127.0.0.1,::1");
    let proxy = format!("http://127.0.0.1:{port}");
    PROXY
        .map(|name| (name, proxy.as_str()))
        .into_iter()
        .chain([DIRECT])
        .flat_map(|(name, value)| [(name.to_owned(), value), (name.to_uppercase(), value)])
        .map(|(name, value)| (name, value.as_bytes().to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_finds_the_proxy_and_reaches_its_own_loopback_without_it() {
        let mut told = proxy_environment(3_128);
        told.sort_unstable();
        let (proxy, direct) = ("http://127.0.0.1:3128", "localhost,127.0.0.1,::1");
        let expected = [
            ("ALL_PROXY", proxy),
            ("HTTPS_PROXY", proxy),
            ("HTTP_PROXY", proxy),
            ("NO_PROXY", direct),
            ("all_proxy", proxy),
            ("http_proxy", proxy),
            ("https_proxy", proxy),
            ("no_proxy", direct),
        ]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(told, expected);
    }
}
